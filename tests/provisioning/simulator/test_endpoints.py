"""What stock Ollama's models are asked for: bodies as measured, and as its source writes them."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.endpoints import duration_s, first_value, keep_alive_s, timestamp
from provisioning.simulator.spec import FleetSpec, Mode
from tests.provisioning.simulator.client import Answer, FakeClock, connected

OLD, MAIN, NEW = "0.4.7", "0.23.0", "0.32.15"
M = "llama3.1:8b"
HELLO = {"model": M, "messages": [{"role": "user", "content": "hello"}]}
ONE = {"options": {"num_predict": 1}}
BEGINNING = '"created":1800000000,"model":"llama3.1:8b","system_fingerprint":"fp_ollama"'


@pytest.fixture
async def fleet() -> AsyncIterator[RunningFleet]:
    spec = FleetSpec(n_instances=60, mode=Mode.OLLAMA, time_scale=0.0)
    async with running_fleet(spec, clock=FakeClock()) as running:
        yield running


async def _ask(
    fleet: RunningFleet, path: str, body: object, *, method: str = "POST", version: str = MAIN
) -> Answer:
    index = next(
        one.index
        for one in fleet.fleet.instances
        if one.release.version == version and one.model.name == M
    )
    async with connected(fleet, index) as client:
        return await client.post(path, body, method=method)


def _error(message: str, kind: str) -> str:
    return f'{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":null}}}}'


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "expected"),
    [
        ("POST", "/api/generate", {"model": "nope"}, 404, '{"error":"model \'nope\' not found"}'),
        ("POST", "/api/generate", {}, 404, '{"error":"model \'\' not found"}'),
        ("POST", "/api/generate", b" \n", 400, '{"error":"missing request body"}'),
        ("POST", "/api/chat", {}, 400, '{"error":"model is required"}'),
        (
            "POST",
            "/api/chat",
            {"model": "<b>"},
            404,
            r"""{"error":"model '\u003cb\u003e' not found"}""",
        ),
        ("POST", "/api/embed", {"model": "x"}, 404, '{"error":"model \'x\' not found"}'),
        ("POST", "/api/embed", {"model": M, "input": 3}, 400, '{"error":"invalid input type"}'),
        (
            *("POST", "/api/embed", {"model": M, "input": ["x"] * 1001}, 400),
            '{"error":"the simulation embeds at most 1,000 inputs at once"}',
        ),
        (
            *("POST", "/api/embed", {"model": M, "input": "x"}, 501),
            '{"error":"this model does not support embeddings"}',
        ),
        (
            *("POST", "/api/embeddings", {"model": "x"}, 404),
            r'{"error":"model \"x\" not found, try pulling it first"}',
        ),
        ("POST", "/api/show", {}, 400, '{"error":"model is required"}'),
        ("POST", "/api/show", {"name": "x"}, 404, '{"error":"model \'x\' not found"}'),
        ("POST", "/api/copy", {"source": "x"}, 404, r'{"error":"model \"x\" not found"}'),
        (
            *("POST", "/api/copy", {"source": M, "destination": "a b"}, 400),
            r'{"error":"destination \"a b\" is invalid"}',
        ),
        ("DELETE", "/api/delete", {"model": "x"}, 404, '{"error":"model \'x\' not found"}'),
        (
            *("POST", "/api/pull", {"model": "x", "stream": False}, 500),
            '{"error":"pull model manifest: file does not exist"}',
        ),
        (
            *("POST", "/api/generate", {"model": M, "options": {"num_predict": "x"}}, 500),
            r'{"error":"option \"num_predict\" must be of type integer"}',
        ),
        (
            *("POST", "/api/chat", HELLO | {"options": {"temperature": True}}, 500),
            r'{"error":"option \"temperature\" must be of type float32"}',
        ),
        (
            *("POST", "/api/generate", {"model": M, "keep_alive": "soon"}, 400),
            r'{"error":"time: invalid duration \"soon\""}',
        ),
        (
            *("POST", "/api/generate", {"model": M, "keep_alive": "5"}, 400),
            r'{"error":"time: missing unit in duration \"5\""}',
        ),
        (
            *("POST", "/v1/chat/completions", HELLO | {"model": "x"}, 404),
            _error("model 'x' not found", "not_found_error") + "\n",
        ),
        (
            *("POST", "/v1/chat/completions", {"model": M}, 400),
            _error("[] is too short - 'messages'", "invalid_request_error"),
        ),
        ("POST", "/v1/completions", b"", 400, _error("EOF", "invalid_request_error")),
        (
            *("POST", "/v1/embeddings", {"model": M, "input": "x"}, 501),
            _error("this model does not support embeddings", "api_error") + "\n",
        ),
    ],
)
async def test_what_cannot_be_had_is_an_error_in_the_measured_words(
    fleet: RunningFleet, method: str, path: str, body: object, status: int, expected: str
) -> None:
    answer = await _ask(fleet, path, body, method=method)

    assert (status, expected) == (answer.status, answer.body.decode())


async def test_what_follows_the_json_value_of_a_body_is_ignored(fleet: RunningFleet) -> None:
    body = json.dumps({"model": M, "prompt": "hi", "stream": False} | ONE).encode()

    assert 200 == (await _ask(fleet, "/api/generate", body + b"}}] trailing junk")).status


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"model":NaN}', b'{"model":"\\ud800"}'])
async def test_json_that_python_minds_more_or_less_than_go_is_an_error(
    fleet: RunningFleet, body: bytes
) -> None:
    answer = await _ask(fleet, "/api/generate", body)

    assert 400 <= answer.status < 500
    assert ["error"] == list(answer.json)


@pytest.mark.parametrize(("version", "step_ns"), [(OLD, 1_000_000), (MAIN, 1), (NEW, 1_000)])
async def test_only_the_runner_s_two_durations_go_by_the_release_s_step(
    fleet: RunningFleet, version: str, step_ns: int
) -> None:
    ask = {"model": M, "prompt": "why? " * 50, "stream": False}
    numbers = (await _ask(fleet, "/api/generate", ask, version=version)).json

    for name in ("prompt_eval_duration", "eval_duration"):
        assert 0 == numbers[name] % step_ns
    for name in ("total_duration", "load_duration"):
        assert 0 != numbers[name] % 1_000


async def test_a_chat_completion_has_usage_and_no_times(fleet: RunningFleet) -> None:
    answer = await _ask(fleet, "/v1/chat/completions", HELLO | {"max_tokens": 2})
    body = answer.json

    assert "application/json" == answer.headers["content-type"]
    assert answer.body.endswith(b"}\n")
    fields = ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert fields == list(body)
    assert ("chat.completion", "length") == (body["object"], body["choices"][0]["finish_reason"])
    assert 2 == len(body["choices"][0]["message"]["content"].split())
    assert {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3} == body["usage"]


async def test_a_completion_gives_its_text(fleet: RunningFleet) -> None:
    body = (
        await _ask(fleet, "/v1/completions", {"model": M, "prompt": "hi", "max_tokens": 2})
    ).json

    assert "text_completion" == body["object"]
    assert 2 == len(body["choices"][0]["text"].split())


async def test_a_stream_of_a_chat_completion_is_events_and_usage_where_it_is_wanted(
    fleet: RunningFleet,
) -> None:
    ask = HELLO | {"max_tokens": 1, "stream": True}
    answer = await _ask(fleet, "/v1/chat/completions", ask)
    counted = await _ask(
        fleet, "/v1/chat/completions", ask | {"stream_options": {"include_usage": True}}
    )

    assert "text/event-stream" == answer.headers["content-type"]
    *events, rest = answer.body.decode().split("\n\n")
    number = json.loads(events[0].removeprefix("data: "))["id"]
    word = json.loads(events[0].removeprefix("data: "))["choices"][0]["delta"]["content"]
    first = f'data: {{"id":"{number}","object":"chat.completion.chunk",{BEGINNING},"choices":'
    delta = '[{"index":0,"delta":{"role":"assistant","content":"%s"},"finish_reason":%s}]}'
    assert [first + delta % (word, "null"), first + delta % ("", '"length"'), "data: [DONE]"] == (
        events
    )
    assert "" == rest
    usage = json.loads(counted.body.decode().split("\n\n")[2].removeprefix("data: "))
    assert ([], 2) == (usage["choices"], usage["usage"]["total_tokens"])


async def test_the_old_release_embeds_with_any_model(fleet: RunningFleet) -> None:
    native = await _ask(fleet, "/api/embed", {"model": M, "input": ["a", "b"]}, version=OLD)
    single = await _ask(fleet, "/api/embeddings", {"model": M, "prompt": "a"}, version=OLD)
    openai = await _ask(fleet, "/v1/embeddings", {"model": M, "input": "a"}, version=OLD)

    vector = native.json["embeddings"][0]
    fields = ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    assert fields == list(native.json)
    assert 1.0 == pytest.approx(math.hypot(*vector), abs=1e-6)
    assert vector == single.json["embedding"] == openai.json["data"][0]["embedding"]
    assert vector != native.json["embeddings"][1]


async def test_a_model_is_shown_copied_pulled_listed_and_deleted(fleet: RunningFleet) -> None:
    async def names() -> list[str]:
        tags = (await client.get("/api/tags")).json["models"]
        listed = (await client.get("/v1/models")).json["data"] or []
        assert [model["name"] for model in tags] == [model["id"] for model in listed]
        return [model["name"] for model in tags]

    index = next(one.index for one in fleet.fleet.instances if one.model.name == M)
    async with connected(fleet, index) as client:
        shown = (await client.post("/api/show", {"model": M.upper()})).json
        assert "llama" == shown["details"]["family"] == shown["model_info"]["general.architecture"]
        one = await client.get(f"/v1/models/{M}")
        assert ["id", "object", "created", "owned_by"] == list(one.json)
        assert _error("model 'x' not found", "not_found_error") + "\n" == (
            (await client.get("/v1/models/x")).body.decode()
        )
        copied = await client.post("/api/copy", {"source": M, "destination": "mine"})
        assert (200, b"") == (copied.status, copied.body)
        pulled = await client.post("/api/pull", {"model": "mistral:7b"})
        lines = [json.loads(line)["status"] for line in pulled.body.splitlines()]
        assert ("pulling manifest", "success") == (lines[0], lines[-1])
        assert [M, "mine:latest", "mistral:7b"] == await names()
        for name in (M, "mine", "mistral:7b"):
            deleted = await client.post("/api/delete", {"model": name}, method="DELETE")
            assert (200, b"") == (deleted.status, deleted.body)
        assert [] == await names()
        assert b'{"object":"list","data":null}\n' == (await client.get("/v1/models")).body


@pytest.mark.parametrize(
    ("unix_s", "text"),
    [
        (1_800_000_000.0, "2027-01-15T08:00:00Z"),
        (1_800_000_000.5, "2027-01-15T08:00:00.5Z"),
        (1_800_000_000.25, "2027-01-15T08:00:00.25Z"),
    ],
)
def test_a_time_has_as_many_decimals_as_it_needs(unix_s: float, text: str) -> None:
    assert text == timestamp(unix_s)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("5m", 300), ("1h30m", 5400), ("-1.5s", -1.5), (".5ms", 0.0005), ("+2us", 2e-6)],
)
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert seconds == pytest.approx(duration_s(text))


@pytest.mark.parametrize("text", ["", "-", "5", "m", "5 m", "5x", "1m5", "1e3s", "9999999h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration_s(text)


@pytest.mark.parametrize("value", [True, [], {}, "soon"])
def test_what_is_no_keep_alive_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"Unsupported type|invalid duration"):
        keep_alive_s(value)


def test_an_empty_body_has_no_value() -> None:
    with pytest.raises(EOFError):
        first_value(b" \r\n\t")
