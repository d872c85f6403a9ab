"""The `vllm` engine: vLLM's OpenAI-compatible server, and what is built on it.

`/metrics` is there unless the server runs with `--disable-log-stats`. It has a series per data
parallel engine of the server; they are added up. Speed is what one request sees while its tokens
come. Written after the source of 0.33, with the names of earlier versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from exporter.engines.base import (
    HEALTH,
    MAX_VERSION_CHARACTERS,
    Engine,
    good_body,
    read_health_of_loaded,
)
from exporter.engines.generation import COMPLETIONS_CANARY
from exporter.engines.json_objects import read_if_good
from exporter.engines.prometheus_text import (
    METRICS,
    ErrorSeries,
    PageLayout,
    PageReader,
    page_verdict,
)
from exporter.model import Outcome, Values, Verdict

if TYPE_CHECKING:
    from exporter.engines.base import Answers

VERSION = "/version"

_page = PageReader(
    PageLayout(
        requests_running=("vllm:num_requests_running",),
        requests_queued=("vllm:num_requests_waiting",),
        generated_tokens_total=("vllm:generation_tokens_total",),
        prompt_tokens_total=("vllm:prompt_tokens_total",),
        generating_seconds_total=(
            "vllm:inter_token_latency_seconds_sum",
            "vllm:time_per_output_token_seconds_sum",  # before 0.11
        ),
        start_time_s=("process_start_time_seconds",),
        kv_cache_usage_ratio=(
            "vllm:kv_cache_usage_perc",
            "vllm:gpu_cache_usage_perc",  # before 0.9.2
        ),
        request_duration=("vllm:e2e_request_latency_seconds",),
        time_to_first_token=("vllm:time_to_first_token_seconds",),
        queue_time=("vllm:request_queue_time_seconds",),
        errors=(
            ErrorSeries("vllm:request_success_total", "finished_reason", failures="error"),
            ErrorSeries("vllm:admission_rejections_total", "reason", prefix="rejected_"),
        ),
        model_label="model_name",
    )
)
"""A request that its client gave up (`abort`) is no failure of the server."""


class _Version(msgspec.Struct, gc=False):
    version: str = ""


_read_version = read_if_good(_Version)


def read(answers: Answers) -> Verdict:
    """Judge by `/health`, where 503 means that the engine is dead; take the rest from `/metrics`.

    The server listens only once the model is loaded.
    """
    verdict = read_health_of_loaded(answers[HEALTH])
    if verdict.outcome is not Outcome.OK:
        return verdict
    version = _read_version(answers, VERSION).version[:MAX_VERSION_CHARACTERS]
    known = Values(version=version or None)
    return page_verdict(answers[METRICS], _page, known, hint="vLLM runs with --disable-log-stats?")


def recognise(answers: Answers) -> bool:
    """Return whether `/metrics` has vLLM's series."""
    return b"\nvllm:" in (good_body(answers, METRICS) or b"")


ENGINE = Engine(
    name="vllm",
    requests=(HEALTH, METRICS),
    read=read,
    probes=(METRICS,),
    recognise=recognise,
    identity_requests=(VERSION,),
    canary=COMPLETIONS_CANARY,
)
