"""What is asked for and read: streams as real servers send them, and broken ones."""

from __future__ import annotations

import json

import pytest

from exporter.engines import ENGINES, llamacpp, ollama
from exporter.engines.generation import (
    COMPLETIONS_CANARY,
    MAX_LINES,
    CanaryRequest,
    Prompt,
    timed_lines,
)
from exporter.errors import PollError
from exporter.model import Generation, Outcome

OLLAMA = ollama.ENGINE.canary
LLAMACPP = llamacpp.ENGINE.canary

OLLAMA_LINES = (
    b'{"model":"g270","created_at":"x","response":" 4","done":false}',
    b'{"model":"g270","created_at":"x","response":",","done":false}',
    b'{"model":"g270","created_at":"x","response":"","done":true,"done_reason":"length",'
    b'"context":[1,2],"total_duration":7700000000,"load_duration":460000000,'
    b'"prompt_eval_count":6,"prompt_eval_duration":140000000,"eval_count":8,'
    b'"eval_duration":100000000}',
)
LLAMACPP_LINES = (
    b'data: {"index":0,"content":" 4","tokens":[1],"stop":false}',
    b'data: {"index":0,"content":",","tokens":[2],"stop":false}',
    b'data: {"index":0,"content":"","stop":true,"timings":{"prompt_n":1,"prompt_ms":0.701,'
    b'"predicted_n":8,"predicted_ms":70.0,"predicted_per_second":100.0}}',
)
VLLM_LINES = (
    b'data: {"id":"c","object":"text_completion","model":"m","choices":[{"index":0,"text":" 4",'
    b'"logprobs":null,"finish_reason":null}],"usage":null}',
    b'data: {"id":"c","choices":[{"index":0,"text":", 5","finish_reason":"length"}]}',
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":9,"total_tokens":14,'
    b'"completion_tokens":5}}',
    b"data: [DONE]",
)


def read(canary: CanaryRequest | None, *lines: bytes, apart_s: float = 0.5) -> Generation:
    """Read lines of which each comes some time after the one before."""
    assert canary is not None
    body, arrivals = b"", []
    for n, line in enumerate(lines, 1):
        body += line + b"\n\n"
        arrivals.append((len(body), 100.0 + n * apart_s))
    return canary.read(timed_lines(body, arrivals, 100.0))


def test_ollama_says_how_long_each_part_took_and_the_rest_was_waiting() -> None:
    generation = read(OLLAMA, *OLLAMA_LINES)

    assert (8.0, 80.0, 0.5) == (
        generation.n_tokens,
        generation.tokens_per_second,
        generation.time_to_first_token_s,
    )
    assert 0.46 == generation.load_s
    assert 7.0 == pytest.approx(generation.waiting_s)


def test_what_ollama_leaves_out_is_zero() -> None:
    generation = read(OLLAMA, b'{"response":"","done":true}')

    assert Generation(0.0, None, None, 0.0, 0.0) == generation


def test_llama_servers_time_begins_with_the_first_token() -> None:
    generation = read(LLAMACPP, *LLAMACPP_LINES)

    assert (8.0, 0.5) == (generation.n_tokens, generation.time_to_first_token_s)
    assert 100.0 == pytest.approx(generation.tokens_per_second)  # as the server itself says


def test_a_completions_speed_is_that_of_the_tokens_after_the_first() -> None:
    assert Generation(5.0, 8.0, 0.5) == read(COMPLETIONS_CANARY, *VLLM_LINES)


def test_without_usage_the_pieces_are_the_tokens() -> None:
    assert Generation(2.0, 2.0, 0.5) == read(COMPLETIONS_CANARY, *VLLM_LINES[:2])


@pytest.mark.parametrize(
    ("canary", "lines"),
    [
        (OLLAMA, OLLAMA_LINES[:2]),
        (OLLAMA, ()),
        (OLLAMA, (OLLAMA_LINES[0], b'{"error":"unexpected EOF"}')),
        (OLLAMA, (b'{"response":"x","done":false}{',)),
        (OLLAMA, (b'{"done":true,"eval_count":-8}',)),
        (LLAMACPP, LLAMACPP_LINES[:2]),
        (LLAMACPP, (b'data: {"error":{"code":500}}', *LLAMACPP_LINES)),
        (LLAMACPP, (b'error: {"code":500}', *LLAMACPP_LINES)),
        (LLAMACPP, (b"data: [" * 5000,)),
        (COMPLETIONS_CANARY, VLLM_LINES[2:]),
        (COMPLETIONS_CANARY, (*VLLM_LINES[:1], b'data: {"error":{"message":"x"}}')),
        (COMPLETIONS_CANARY, (b'data: {"choices":7}',)),
    ],
)
def test_an_answer_that_is_no_whole_generation_is_an_error(
    canary: CanaryRequest | None, lines: tuple[bytes, ...]
) -> None:
    with pytest.raises(PollError) as caught:
        read(canary, *lines)

    assert Outcome.BAD_BODY is caught.value.outcome


def test_a_line_came_when_its_last_byte_had_come() -> None:
    lines = timed_lines(b"ab\ncd\n\nef", [(1, 1.0), (4, 2.0), (6, 3.0), (9, 4.0)], 0.5)

    assert [(b"ab", 1.5), (b"cd", 2.5), (b"ef", 3.5)] == lines


def test_of_too_many_lines_the_first_are_read() -> None:
    assert MAX_LINES == len(timed_lines(b"x\n" * 5000, [(10_000, 1.0)], 0.0))


def test_ollama_is_asked_with_what_the_model_was_loaded_with() -> None:
    """Another `num_ctx` would load it again."""
    prompt = Prompt("g270", "1, 2,", 8, keep_alive="12.500s", context_length=8192.0)

    body = json.loads(ollama.generate_body(prompt))

    assert {"num_predict": 8, "temperature": 0, "num_ctx": 8192} == body["options"]
    assert ("g270", "12.500s", True) == (body["model"], body["keep_alive"], body["raw"])
    assert "keep_alive" not in json.loads(ollama.generate_body(Prompt("g270", "1, 2,", 8)))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"license":"x","model_info":{"general.name":"m","llama.context_length":8192}}', 8192.0),
        (b'{"model_info":{"general.name":"m"}}', None),
    ],
)
def test_the_context_that_a_model_was_trained_with_is_read(
    body: bytes, expected: float | None
) -> None:
    assert expected == ollama.read_trained(body)


@pytest.mark.parametrize(
    "body", [b'{"model_info":{"llama.context_length":-1}}', b'{"model_info":[]}', b"{" * 5000]
)
def test_an_unreadable_description_of_a_model_is_an_error(body: bytes) -> None:
    with pytest.raises(PollError, match="/api/show"):
        ollama.read_trained(body)


def test_no_engine_is_asked_for_more_tokens_than_were_set() -> None:
    prompt = Prompt("m", "1, 2,", 7)

    requests = [engine.canary for engine in ENGINES if engine.canary] + [COMPLETIONS_CANARY]

    for request in requests:
        body = json.loads(request.body(prompt))
        asked = [body.get("n_predict"), body.get("max_tokens"), body.get("options", {})]
        assert 7 in [*asked[:2], asked[2].get("num_predict")]
        assert body["stream"] is True
