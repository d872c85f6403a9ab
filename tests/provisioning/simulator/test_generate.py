"""Generating text as Ollama does, whole and streamed, at the instance's speed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import pytest

from provisioning.simulator import runner
from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.endpoints import NS_PER_S
from provisioning.simulator.runner import Runners
from provisioning.simulator.spec import FleetSpec, Hardware, Mode
from tests.provisioning.simulator.client import (
    ANSWER_S,
    Answer,
    Client,
    FakeClock,
    clock_of_sleeping,
    connected,
    get,
)
from tests.waiting import eventually

NUMBERS = [
    *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"),
    *("eval_count", "eval_duration"),
]


@pytest.fixture
async def fleet() -> AsyncIterator[RunningFleet]:
    spec = FleetSpec(n_instances=30, time_scale=0.0)
    async with running_fleet(spec, clock=FakeClock()) as running:
        yield running


def _ask(fleet: RunningFleet, index: int = 0, **others: object) -> dict[str, object]:
    model = fleet.fleet.instances[index].model.name
    return {"model": model, "prompt": "why is the sky blue?", "stream": False} | others


def _lines(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.body.splitlines()]


async def _generate(fleet: RunningFleet, index: int = 0, **others: object) -> Answer:
    async with connected(fleet, index) as client:
        return await client.post("/api/generate", _ask(fleet, index, **others))


async def test_an_answer_in_one_piece_has_text_and_numbers(fleet: RunningFleet) -> None:
    answer = await _generate(fleet, options={"num_predict": 24})

    assert 200 == answer.status
    assert "application/json; charset=utf-8" == answer.headers["content-type"]
    fields = ["model", "created_at", "response", "done", "done_reason", "context", *NUMBERS]
    assert fields == list(answer.json)
    assert 24 == answer.json["eval_count"] == len(answer.json["response"].split())
    assert "length" == answer.json["done_reason"]


async def test_a_stream_gives_a_line_for_every_token_and_the_numbers_last(
    fleet: RunningFleet,
) -> None:
    answer = await _generate(fleet, stream=True, options={"num_predict": 5})
    *pieces, last = _lines(answer)

    assert "application/x-ndjson" == answer.headers["content-type"]
    assert "chunked" == answer.headers["transfer-encoding"]
    assert 5 == len(pieces)
    assert all(["model", "created_at", "response", "done"] == list(piece) for piece in pieces)
    assert ("", True, 5) == (last["response"], last["done"], last["eval_count"])


async def test_streaming_is_the_default_and_gives_the_same_text(fleet: RunningFleet) -> None:
    async with connected(fleet) as client:
        ask = _ask(fleet)
        whole = (await client.post("/api/generate", ask)).json
        del ask["stream"]
        streamed = _lines(await client.post("/api/generate", ask))

    assert whole["response"] == "".join(line["response"] for line in streamed)
    assert "stop" == streamed[-1]["done_reason"]


async def test_the_numbers_give_the_instance_s_speed_in_nanoseconds(fleet: RunningFleet) -> None:
    fleet.inject("slow", ids=["llm-00002"], factor=0.5)
    for index, factor in ((0, 1.0), (1, 0.5)):
        numbers = (await _generate(fleet, index)).json
        speed = numbers["eval_count"] / numbers["eval_duration"] * 1e9

        expected = fleet.fleet.instances[index].tokens_per_second * factor
        assert expected == pytest.approx(speed, rel=0.01)
        parts = [numbers[f"{part}_duration"] for part in ("load", "prompt_eval", "eval")]
        assert sum(parts) == numbers["total_duration"]


async def test_a_duration_that_is_zero_is_left_out() -> None:
    """Release 0.4.7 counts whole milliseconds, and a GPU reads a short prompt in less."""
    spec = FleetSpec(n_instances=1, hardware=((Hardware.GPU, 1),), time_scale=0.0)
    async with running_fleet(spec) as fleet:
        assert "0.4.7" == fleet.fleet.instances[0].release.version
        numbers = (await _generate(fleet, prompt="hi")).json

    assert "prompt_eval_duration" not in numbers
    assert 1 == numbers["prompt_eval_count"]
    assert 0 == numbers["eval_duration"] % 1_000_000


async def test_newer_releases_count_single_nanoseconds() -> None:
    async with running_fleet(FleetSpec(n_instances=30, mode=Mode.OLLAMA, time_scale=0.0)) as fleet:
        index = next(i.index for i in fleet.fleet.instances if i.release.version == "0.23.0")
        numbers = (await _generate(fleet, index)).json

    assert 0 != numbers["eval_duration"] % 1_000


async def test_a_chat_answers_with_a_message(fleet: RunningFleet) -> None:
    model = fleet.fleet.instances[0].model.name
    ask = {
        "model": model,
        "stream": False,
        "messages": [{"role": "user", "content": "hello"}],
        "options": {"num_predict": 3},
    }
    async with connected(fleet) as client:
        answer = (await client.post("/api/chat", ask)).json

    assert "assistant" == answer["message"]["role"]
    assert 3 == answer["eval_count"] == len(answer["message"]["content"].split())
    assert "context" not in answer


@pytest.mark.parametrize(
    ("keep_alive", "reason"), [(None, "load"), (0, "unload"), ("5m", "load"), (300, "load")]
)
async def test_without_a_prompt_the_model_is_only_loaded(
    fleet: RunningFleet, keep_alive: object, reason: str
) -> None:
    answer = (await _generate(fleet, prompt="", keep_alive=keep_alive)).json

    assert ["model", "created_at", "response", "done", "done_reason"] == list(answer)
    assert reason == answer["done_reason"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"model": "nope", "prompt": "x"}, 404, "model 'nope' not found"),
        ({"prompt": "x"}, 404, "model '' not found"),
        (b"{", 400, ""),
        (b"", 400, "missing request body"),
        (b"\xff\xfe", 400, ""),
        ({"model": 3}, 400, ""),
        ({"model": "llama3.1:8b", "options": {"num_predict": "x"}}, 500, "num_predict"),
    ],
)
async def test_what_cannot_be_done_is_an_error_and_the_connection_stays(
    fleet: RunningFleet, body: object, status: int, said: str
) -> None:
    async with connected(fleet) as client:
        answer = await client.post("/api/generate", body)

        assert status == answer.status
        assert ["error"] == list(answer.json)
        assert said in answer.json["error"]
        assert 200 == (await client.get("/health")).status


async def test_a_real_request_counts_in_the_instance_s_own_counters(fleet: RunningFleet) -> None:
    before = (await get(fleet, 0, "/api/metrics")).json
    await _generate(fleet, options={"num_predict": 20})
    after = (await get(fleet, 0, "/api/metrics")).json

    assert 20 == after["generated_tokens_total"] - before["generated_tokens_total"]
    assert 5 == after["prompt_tokens_total"] - before["prompt_tokens_total"]
    assert 20 / before["tokens_per_second"] == pytest.approx(
        after["generating_seconds_total"] - before["generating_seconds_total"], rel=0.05
    )


async def test_requests_fail_at_the_ratio_of_an_errors_fault(fleet: RunningFleet) -> None:
    fleet.inject("errors", ids=["llm-00001"], ratio=0.25)
    before = (await get(fleet, 0, "/api/metrics")).json["error_count"]
    statuses = [(await _generate(fleet)).status for _ in range(8)]
    after = (await get(fleet, 0, "/api/metrics")).json["error_count"]

    assert 2 == statuses.count(500)
    assert 6 == statuses.count(200)
    assert 2 == after - before


async def test_pipelined_pages_wait_behind_a_generation(fleet: RunningFleet) -> None:
    async with connected(fleet) as client:
        body = json.dumps(_ask(fleet)).encode()
        client.send(
            b"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
            + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert "eval_count" in (await client.read_answer()).json
        assert {"status": "ok"} == (await client.read_answer()).json


async def test_a_client_of_http_1_0_gets_the_stream_without_chunks(fleet: RunningFleet) -> None:
    body = json.dumps(_ask(fleet, stream=True, options={"num_predict": 2})).encode()
    async with connected(fleet) as client:
        client.send(b"POST /api/generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        _, _, lines = (await client.read_rest()).partition(b"\r\n\r\n")

    assert [False, False, True] == [json.loads(line)["done"] for line in lines.splitlines()]


async def test_generating_takes_the_simulated_time_times_the_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = clock_of_sleeping(monkeypatch)
    began_s = clock.now_s
    spec = FleetSpec(n_instances=1, time_scale=0.0002)
    async with running_fleet(spec, clock=clock) as fleet:
        fleet.inject("slow", share=1, factor=0.01)
        numbers = (await _generate(fleet, options={"num_predict": 100})).json

    simulated_s = numbers["total_duration"] / 1e9
    assert 230 < simulated_s < 260
    assert simulated_s * 0.0002 == pytest.approx(clock.now_s - began_s, rel=0.001)


async def test_tokens_come_one_by_one_at_the_instance_s_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_over, clock = _hold(monkeypatch, n_tokens=10), clock_of_sleeping(monkeypatch)
    began_s = clock.now_s
    async with (
        running_fleet(FleetSpec(n_instances=1), clock=clock) as fleet,
        connected(fleet) as client,
    ):
        _begin_stream(client, fleet, num_predict=20)
        pieces = [await _next_line(client) for _ in range(10)]
        assert 1 == fleet.fleet.states[0].n_generating

        is_over.set()
        pieces += [await _next_line(client) for _ in range(10)]
        last = await _next_line(client)
        token_s = 1 / fleet.fleet.instances[0].tokens_per_second

    before_s = (last["load_duration"] + last.get("prompt_eval_duration", 0)) / 1e9
    after_s = [_created_s(piece) - began_s for piece in pieces]
    assert [before_s + n * token_s for n in range(1, 21)] == pytest.approx(after_s, rel=0.01)


def _created_s(piece: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(piece["created_at"]).timestamp()


def _hold(monkeypatch: pytest.MonkeyPatch, *, n_tokens: int) -> asyncio.Event:
    """Let so many tokens of a stream come at their speed, the others only after the event."""
    is_over, left_s, wait, begun = asyncio.Event(), Runners._left_s, runner._wait, set[int]()

    def recorded(self: Runners, began_s: float, due_ns: int) -> float:
        begun.add(due_ns)
        is_held = len(begun) > n_tokens and not is_over.is_set()
        return max(left_s(self, began_s, due_ns), 1e-9 * is_held)

    async def held(most_s: float) -> None:
        if len(begun) > n_tokens:
            await is_over.wait()
        await wait(most_s)

    monkeypatch.setattr(Runners, "_left_s", recorded)
    monkeypatch.setattr(runner, "_wait", held)
    return is_over


def _begin_stream(client: Client, fleet: RunningFleet, *, num_predict: int) -> None:
    body = json.dumps(_ask(fleet, stream=True, options={"num_predict": num_predict})).encode()
    client.send(
        b"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )


async def _next_line(client: Client) -> dict[str, Any]:
    """Return what the next line of a stream says."""
    async with asyncio.timeout(ANSWER_S):
        await client.reader.readuntil(b"{")
        line: dict[str, Any] = json.loads(b"{" + await client.reader.readuntil(b"}\n"))
    return line


async def test_one_request_runs_at_a_time_and_waiting_is_in_the_total_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_pass = _stop_time(monkeypatch)
    async with running_fleet(FleetSpec(n_instances=1)) as fleet:
        running = asyncio.gather(
            *(_generate(fleet, options={"num_predict": 100}) for _ in range(3))
        )
        await eventually(lambda: 2 == fleet.fleet.states[0].n_waiting)
        assert 1 == fleet.fleet.states[0].n_generating
        metrics = (await get(fleet, 0, "/api/metrics")).json
        may_pass.set()
        answers = [answer.json for answer in await running]

    assert 1 <= metrics["requests_running"]
    assert 2 == metrics["requests_queued"]
    waited_s = sorted(
        (one["total_duration"] - one["eval_duration"] - one.get("prompt_eval_duration", 0)) / 1e9
        for one in answers
    )
    assert waited_s[0] < 0.1
    assert 2.3 < waited_s[1] < 2.6
    assert 4.6 < waited_s[2] < 5.2


def _stop_time(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Stop the generator's time until the event; then it passes only by what is waited for."""
    now_s, may_pass = 0.0, asyncio.Event()

    def left_s(_: Runners, began_s: float, due_ns: int) -> float:
        nonlocal now_s
        if not may_pass.is_set():
            return 1.0
        now_s = max(now_s, began_s + due_ns / NS_PER_S)
        return 0.0

    monkeypatch.setattr(Runners, "_left_s", left_s)
    monkeypatch.setattr(Runners, "_loop_s", lambda _: now_s)
    return may_pass


async def test_a_client_that_leaves_frees_the_instance_and_its_tokens_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _hold(monkeypatch, n_tokens=3)
    async with running_fleet(FleetSpec(n_instances=1)) as fleet:
        state = fleet.fleet.states[0]
        async with connected(fleet) as client:
            before = state.life.at_since
            _begin_stream(client, fleet, num_predict=100)
            for _ in range(3):
                await _next_line(client)
            assert 1 == state.n_generating
        await eventually(lambda: 0 == state.n_generating)

        assert 3 == state.life.at_since.generated_tokens - before.generated_tokens


async def test_a_stream_freezes_when_the_instance_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = _hold(monkeypatch, n_tokens=1)
    async with running_fleet(FleetSpec(n_instances=1)) as fleet, connected(fleet) as client:
        _begin_stream(client, fleet, num_predict=100)
        await _next_line(client)
        fleet.inject("hang", share=1)
        is_over.set()
        await client.reader.readuntil(b"\r\n")
        assert await client.hears_nothing()

        fleet.heal()
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_request_under_way_when_the_process_restarts_is_not_in_the_new_one_s_counters(
    is_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    _hold(monkeypatch, n_tokens=3 if is_stream else 0)
    async with running_fleet(FleetSpec(n_instances=1), clock=clock) as fleet:
        state = fleet.fleet.states[0]
        async with connected(fleet) as client:
            asked = asyncio.create_task(
                client.post(
                    "/api/generate", _ask(fleet, options={"num_predict": 20}, stream=is_stream)
                )
            )
            await eventually(lambda: state.n_generating == 1)
            clock.now_s += 60
            fleet.inject("oom_restart", count=1)
            await asyncio.gather(asked, return_exceptions=True)
            await eventually(lambda: state.n_generating == 0)

    assert 0.0 == state.life.counters(clock.now_s).generated_tokens
    assert 0.0 == state.life.counters(clock.now_s).requests
