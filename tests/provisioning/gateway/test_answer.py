"""What the gateway reads from answers, whatever comes before and wherever they are split."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.provisioning.gateway.answers import (
    END,
    Instance,
    Script,
    events,
    lines,
    split_everywhere,
)
from tests.provisioning.gateway.nginx import Gateway, Listed, running_gateway, wait_until
from tests.provisioning.gateway.series import Samples, wait_total

NO_LIMIT = {"default": {"rate": 10_000, "burst": 10_000, "concurrency": 200}}
FIGURES = (
    '"total_duration":1760669641,"load_duration":82715025,"prompt_eval_count":6,'
    '"prompt_eval_duration":154736156,"eval_count":24,"eval_duration":978173544'
)
DONE = '"done":true,"done_reason":"length"'
LAST = f'{{"model":"m","response":"",{DONE},"context":[1,2,3],{FIGURES}}}'
PIECE = '{"model":"m","response":"hello","done":false}'
HUGE = ",".join(str(number) for number in range(100_000))
FAKE = json.dumps(f'said {{"eval_count":999,"eval_duration":9}} {LAST} \\" {{ ] data: [DONE]')
USAGE = '"usage":{"prompt_tokens":6,"total_tokens":30,"completion_tokens":24}'
TIMINGS = '"timings":{"prompt_n":6,"prompt_ms":5.5,"predicted_n":24,"predicted_ms":978.173544}'
CHUNK = '{"choices":[{"delta":{"content":"x"},"finish_reason":null}],"usage":null}'
CALL = '{"role":"assistant","tool_calls":[{"function":{"arguments":{"eval_count":7,"usage":1}}}]}'

NOTHING = (0, 0, 0.0)
TOKENS = (6, 24, 0.0)
ALL = (6, 24, 0.978174)
ANSWERS: dict[str, tuple[bytes, tuple[int, int, float]]] = {
    "a stream of Ollama": (lines(PIECE, PIECE, LAST), ALL),
    "an object without a stream": (LAST.encode(), ALL),
    "a context of 600 kB": (lines(PIECE, LAST.replace("1,2,3", HUGE)), ALL),
    "a text that looks like a last object": (
        f'{{"response":{FAKE},{DONE},"context":[1],{FIGURES}}}'.encode(),
        ALL,
    ),
    "a long text that looks like one": (
        f'{{"response":{json.dumps("x" * 9999)},"thinking":{FAKE},{FIGURES}}}'.encode(),
        ALL,
    ),
    "only a text that looks like one": (f'{{"response":{FAKE},"done":true}}'.encode(), NOTHING),
    "a piece that looks like one": (lines(f'{{"response":{FAKE},"done":false}}'), NOTHING),
    "arguments of a tool": (
        lines(f'{{"message":{CALL},{DONE},"total_duration":9,"prompt_eval_count":6}}'),
        (6, 0, 0.0),
    ),
    "log probabilities after the figures": (
        f'{{"response":"",{DONE},{FIGURES},"logprobs":[{{"token":"a","logprob":-1}}]}}'.encode(),
        ALL,
    ),
    "an object over several lines": (json.dumps(json.loads(LAST), indent=2).encode(), ALL),
    "a load": (lines('{"model":"m","response":"","done":true,"done_reason":"load"}'), NOTHING),
    "an object that is not done": (lines(f'{{"done":false,{FIGURES}}}'), NOTHING),
    "a stream without usage": (events(CHUNK, CHUNK, "[DONE]"), NOTHING),
    "a stream with usage": (events(CHUNK, f'{{"choices":[],{USAGE}}}', "[DONE]"), TOKENS),
    "a stream with timings": (events(CHUNK, f'{{"choices":[{{}}],{TIMINGS}}}', "[DONE]"), ALL),
    "a stream of llama-server": (events(f'{{"content":"","stop":true,{TIMINGS}}}'), ALL),
    "a completion with usage": (
        f'{{"choices":[{{"message":{{"content":{FAKE}}}}}],{USAGE},"x":null}}'.encode(),
        TOKENS,
    ),
    "a long completion": (
        f'{{"choices":[{{"text":{json.dumps("y" * 9999)}}}],{USAGE},{TIMINGS}}}'.encode(),
        ALL,
    ),
    "no JSON": (b"eval_count: 24 }", NOTHING),
    "nothing": (b"", NOTHING),
}
LIES = (
    '"eval_count":-1',
    '"eval_count":1e308',
    '"eval_count":1.5',
    '"eval_count":NaN',
    '"eval_count":"24"',
    '"eval_count":true',
    '"eval_count":[24]',
    '"eval_count":1000000',
    '"prompt_eval_count":1000000000',
    '"prompt_eval_count":-5',
    '"eval_duration":-1',
    '"eval_duration":1e99',
    '"eval_duration":90000000000',
    '"load_duration":-1',
)


@contextmanager
def gateway_of(folder: Path, instance_by_model: dict[str, Instance]) -> Iterator[Gateway]:
    """Run a gateway in front of instances that have one model each, on a node of its name."""
    listed = [
        Listed(instance.port, loaded=(model,), node=f"node of {model}")
        for model, instance in instance_by_model.items()
    ]
    with ExitStack() as stack:
        for instance in instance_by_model.values():
            stack.callback(instance.close)
        yield stack.enter_context(running_gateway(folder, listed, limits=NO_LIMIT))


def generate(gateway: Gateway, model: str) -> tuple[int, bytes]:
    """Return status and body of an answer to a prompt."""
    status, _, body = gateway.ask("/api/generate", {"model": model, "prompt": "hi"})
    return status, body


def counted(found: Samples, model: str) -> tuple[float, float, float]:
    """Return a model's prompt tokens, generated tokens and generation seconds."""
    names = ("prompt_tokens_total", "generated_tokens_total", "generation_seconds_total")
    prompt, generated, seconds = (found.total(name, model=model) for name in names)
    return prompt, generated, round(seconds, 6)


def test_figures_are_those_of_the_last_object_whatever_comes_before(tmp_path: Path) -> None:
    """Texts, contexts and arguments of tools that look like figures do not count."""
    instance_by_model = {f"{name}:1": Instance((body, END)) for name, (body, _) in ANSWERS.items()}

    with gateway_of(tmp_path, instance_by_model) as gateway:
        passed_on = {model: generate(gateway, model)[1] for model in instance_by_model}
        found = wait_total(gateway, len(ANSWERS))

    assert {f"{name}:1": body for name, (body, _) in ANSWERS.items()} == passed_on
    assert {name: expected for name, (_, expected) in ANSWERS.items()} == {
        name: counted(found, f"{name}:1") for name in ANSWERS
    }


@pytest.mark.parametrize(
    "body",
    [lines(PIECE, LAST), events(CHUNK, f'{{"choices":[{{}}],{USAGE},{TIMINGS}}}', "[DONE]")],
    ids=["ollama", "openai"],
)
def test_figures_do_not_depend_on_where_an_answer_is_split(tmp_path: Path, body: bytes) -> None:
    scripts = list(split_everywhere(body))

    with gateway_of(tmp_path, {"m:1": Instance(*scripts)}) as gateway:
        for _ in scripts:
            assert (200, body) == generate(gateway, "m:1")
        found = wait_total(gateway, len(scripts))

    n = len(scripts)
    assert (6 * n, 24 * n, round(0.978173544 * n, 6)) == counted(found, "m:1")


def test_absurd_figures_count_for_nothing(tmp_path: Path) -> None:
    """Neither the tokens nor the seconds of such an answer count; the request does."""
    lies = [LAST[:-1] + f",{lie}}}" for lie in LIES]
    instance = Instance(*[(lines(PIECE, lie), END) for lie in lies])

    with gateway_of(tmp_path, {"m:1": instance}) as gateway:
        for _ in lies:
            generate(gateway, "m:1")
        found = wait_total(gateway, len(lies))

    assert NOTHING == counted(found, "m:1")
    assert len(LIES) == found.total("requests_total", code="200")


def test_compressed_answers_pass_and_count_for_nothing(tmp_path: Path) -> None:
    body = gzip.compress(LAST.encode())
    instance = Instance((body, END), headers=b"Content-Encoding: gzip\r\n")

    with gateway_of(tmp_path, {"m:1": instance}) as gateway:
        assert (200, body) == generate(gateway, "m:1")
        assert NOTHING == counted(wait_total(gateway, 1), "m:1")


ENDINGS: Sequence[tuple[str, Script, str]] = [
    ("complete", (PIECE.encode(), 0.05, LAST.encode(), END), "200"),
    ("an error as the last object", (lines(PIECE, '{"error":"runner died"}'), END), "502"),
    ("broken off", (lines(PIECE), 0.05), "502"),
    ("broken off before the first byte of the body", (0.05,), "502"),
    ("broken off after long pauses", (0.05, lines(PIECE), 0.05, lines(PIECE), 0.05), "502"),
]


def test_answers_that_break_off_count_as_errors_of_the_instance(tmp_path: Path) -> None:
    """Although their status was 200 when they began."""
    instance_by_model = {f"{name}:1": Instance(script) for name, script, _ in ENDINGS}

    with gateway_of(tmp_path, instance_by_model) as gateway:
        for model in instance_by_model:
            with suppress(http.client.IncompleteRead, ConnectionError):
                generate(gateway, model)
        found = wait_total(gateway, len(ENDINGS))

    assert {name: {code: 1.0} for name, _, code in ENDINGS} == {
        name: found.by("code", "requests_total", model=f"{name}:1") for name, _, _ in ENDINGS
    }


@pytest.mark.parametrize("script", [(600.0,), (lines(PIECE), 600.0)])
def test_a_client_that_leaves_is_no_error_of_the_instance(tmp_path: Path, script: Script) -> None:
    """Before and after the first byte."""
    instance = Instance(script)

    with gateway_of(tmp_path, {"m:1": instance}) as gateway:
        address = urlsplit(gateway.url)
        with socket.create_connection((address.hostname, address.port)) as client:
            body = b'{"model":"m:1","prompt":"hi"}'
            head = b"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            client.sendall(head % len(body) + body)
            wait_until(lambda: instance.n_requests)
            if isinstance(script[0], bytes):
                client.recv(100)
        found = wait_total(gateway, 1)

    assert {"499": 1.0} == found.by("code", "requests_total")


def test_time_to_first_token_is_that_of_the_first_byte_of_streams(tmp_path: Path) -> None:
    has_first = threading.Event()
    instance = Instance((0.3, lines(PIECE), has_first, lines(LAST), END))
    prompt = {"model": "m:1", "prompt": "hi"}

    with gateway_of(tmp_path, {"m:1": instance}) as gateway:
        began_s = time.monotonic()
        request = urllib.request.Request(f"{gateway.url}/api/generate", json.dumps(prompt).encode())
        with urllib.request.urlopen(request, timeout=100) as answer:
            answer.readline()
            first_s = time.monotonic() - began_s
            time.sleep(0.4)
            has_first.set()
            answer.read()
        found = wait_total(gateway, 1)
        gateway.ask("/api/generate", prompt | {"stream": False})
        both = wait_total(gateway, 2)

    first_token_s = found.total("time_to_first_token_seconds_sum")
    assert 0.3 <= first_token_s + 0.002
    assert first_token_s <= first_s + 0.002
    assert 0.4 <= found.total("request_duration_seconds_sum") - first_token_s + 0.1
    assert 1 == both.total("time_to_first_token_seconds_count")
    assert 2 == both.total("request_duration_seconds_count")


def test_answers_name_the_request_and_the_instance(tmp_path: Path) -> None:
    instance = Instance((lines(LAST), END), headers=b"X-Fleet-Instance: a-lie\r\n")

    with gateway_of(tmp_path, {"m:1": instance}) as gateway:
        _, headers, _ = gateway.ask("/api/generate", {"model": "m:1", "prompt": "hi"})
        _, of_refusal, _ = gateway.ask("/api/generate", {"model": "other", "prompt": "hi"})

    assert f"127.0.0.1:{instance.port}" == headers["X-Fleet-Instance"]
    assert 2 == len({headers["X-Request-Id"], of_refusal["X-Request-Id"]} - {None})
