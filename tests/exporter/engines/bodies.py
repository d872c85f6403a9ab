"""Bodies as real servers give them.

llama-server: llama.cpp of 2026-10, with a tiny model. Ollama: 0.23.0 with gemma3 270M loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exporter.model import Answer

BODIES = Path(__file__).with_suffix("")


def page(name: str) -> Answer:
    """Return a page of metrics in `bodies/`; its first line says where it is from."""
    return Answer(200, (BODIES / name).read_bytes())


VLLM_METRICS = page("vllm-0.33.0.txt")
SGLANG_METRICS = page("sglang-0.5.23.txt")
TGI_METRICS = page("tgi-3.3.txt")
EMPTY_OK = Answer(200, b"")
VLLM_VERSION = Answer(200, b'{"version":"0.33.0"}')
SGLANG_MODEL_INFO = Answer(
    200,
    b'{"model_path":"Qwen/Qwen2.5-7B-Instruct","served_model_name":"qwen",'
    b'"tokenizer_path":"Qwen/Qwen2.5-7B-Instruct","is_generation":true,"weight_version":"default"}',
)
TGI_INFO = Answer(
    200,
    b'{"model_id":"HuggingFaceH4/zephyr-7b-beta","model_sha":"b70e","model_pipeline_tag":null,'
    b'"max_concurrent_requests":128,"max_total_tokens":4096,"router":"text-generation-router",'
    b'"version":"3.3.6","sha":null,"docker_label":null}',
)
LLAMACPP_ROUTER = Answer(
    400,
    b'{"error":{"code":400,"message":"model name is missing from the request",'
    b'"type":"invalid_request_error"}}',
)
LLAMACPP_METRICS = b"""\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 7
# HELP llamacpp:prompt_seconds_total Total time spent processing prompts
# TYPE llamacpp:prompt_seconds_total counter
llamacpp:prompt_seconds_total 0.000528
# HELP llamacpp:tokens_predicted_total Number of generation tokens processed
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 1.23457e+06
# HELP llamacpp:tokens_predicted_seconds_total Total time spent generating tokens
# TYPE llamacpp:tokens_predicted_seconds_total counter
llamacpp:tokens_predicted_seconds_total 0.0035
# HELP llamacpp:predicted_tokens_seconds Average generation throughput in tokens/s
# TYPE llamacpp:predicted_tokens_seconds gauge
llamacpp:predicted_tokens_seconds 8857.14
# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
# HELP llamacpp:requests_deferred Number of requests deferred
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 0
"""

LLAMACPP_PROPS = (
    b'{"default_generation_settings":{"n_ctx":512},"total_slots":1,"model_alias":"tiny",'
    b'"model_path":"/models/tiny.gguf","build_info":"b0-unknown","is_sleeping":false}'
)

LLAMACPP_OK = Answer(200, b'{"status":"ok"}')
LLAMACPP_LOADING = Answer(
    503, b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
)
LLAMACPP_NO_METRICS = Answer(
    501,
    b'{"error":{"code":501,"message":"This server does not support metrics endpoint. Start it '
    b'with `--metrics`","type":"not_supported_error"}}',
)
LLAMACPP_NOT_FOUND = Answer(
    404, b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}'
)

OLLAMA_ROOT = Answer(200, b"Ollama is running")
OLLAMA_VERSION = Answer(200, b'{"version":"0.23.0"}')
OLLAMA_LOADED = Answer(
    200,
    b'{"models":[{"name":"g270:latest","model":"g270:latest","size":477798912,"digest":"0f7b",'
    b'"details":{"parent_model":"","format":"gguf","family":"gemma3","families":["gemma3"],'
    b'"parameter_size":"268.10M","quantization_level":"Q4_K_M"},"expires_at":'
    b'"2026-11-24T06:42:32.329310091Z","size_vram":0,"context_length":4096}]}',
)
OLLAMA_NOT_FOUND = Answer(404, b"404 page not found")
OLLAMA_FOREIGN_HOST = Answer(403, b"")

FLEET_OK = Answer(200, b'{"status":"ok"}')
FLEET_METRICS = Answer(200, b'{"tokens_per_second":41.7,"latency_p99":0.089,"error_count":3}')
HTML = Answer(200, b"<!doctype html><html><body>Welcome to nginx!</body></html>")
HAPROXY_BACKEND_DEAD = Answer(
    503,
    b"<html><body><h1>503 Service Unavailable</h1>\n"
    b"No server is available to handle this request.\n</body></html>\n",
)


FLEET_FULL = Answer(
    200,
    b'{"tokens_per_second":41.7,"latency_p99":0.089,"error_count":3,"errors":{"oom":3},'
    b'"model":"m","version":"1","requests_running":1,"requests_queued":0,'
    b'"start_time_seconds":1700000000,"generated_tokens_total":5,"prompt_tokens_total":6,'
    b'"generating_seconds_total":7,"request_duration_seconds":{"buckets":{"0.1":1,"+Inf":2},'
    b'"sum":1}}',
)
OLLAMA_INSTALLED = Answer(200, b'{"models":[{"name":"g270:latest","size":253000000}]}')
SGLANG_SERVER_INFO = Answer(200, b'{"version":"0.5.23","internal_states":[{}]}')

ANSWERS: Mapping[str, Mapping[str, Answer]] = {
    "fleet": {"/health": FLEET_OK, "/api/metrics": FLEET_FULL},
    "ollama": {
        "/": OLLAMA_ROOT,
        "/api/ps": OLLAMA_LOADED,
        "/api/version": OLLAMA_VERSION,
        "/api/tags": OLLAMA_INSTALLED,
        "/metrics": OLLAMA_NOT_FOUND,
    },
    "llamacpp": {
        "/health": LLAMACPP_OK,
        "/metrics": Answer(200, LLAMACPP_METRICS),
        "/props": Answer(200, LLAMACPP_PROPS),
    },
    "vllm": {"/health": EMPTY_OK, "/metrics": VLLM_METRICS, "/version": VLLM_VERSION},
    "sglang": {
        "/ready": EMPTY_OK,
        "/metrics": SGLANG_METRICS,
        "/model_info": SGLANG_MODEL_INFO,
        "/server_info": SGLANG_SERVER_INFO,
    },
    "tgi": {"/health": EMPTY_OK, "/metrics": TGI_METRICS, "/info": TGI_INFO},
}
"""All that a server of each kind answers to its engine, by the engine's name."""


def nested(head: bytes) -> bytes:
    """Return a JSON object that begins with `head` and goes on deeper than any reader follows."""
    return head + b'"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
