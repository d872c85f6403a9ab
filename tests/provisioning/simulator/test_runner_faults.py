"""Faults of runners and models, as they were seen on real servers: /api/ps goes on answering."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.errors import UnknownFaultError
from provisioning.simulator.runner import Runners
from provisioning.simulator.spec import MODELS, FleetSpec, Hardware, Mode
from tests.provisioning.simulator.client import (
    ANSWER_S,
    SILENCE_S,
    Answer,
    Client,
    FakeClock,
    clock_of_sleeping,
    connected,
    get,
)
from tests.waiting import eventually

M = MODELS[0].name
LOST = "an error was encountered while running the model: unexpected EOF"
SPEC = FleetSpec(n_instances=2, mode=Mode.OLLAMA, hardware=((Hardware.GPU, 1),), time_scale=0.0)


@pytest.fixture
async def fleet() -> AsyncIterator[RunningFleet]:
    async with running_fleet(SPEC, clock=FakeClock()) as running:
        yield running


def _body(**others: object) -> dict[str, object]:
    return {"model": M, "prompt": "hi", "stream": False} | others


async def _generate(fleet: RunningFleet, **others: object) -> Answer:
    async with connected(fleet) as client:
        return await client.post("/api/generate", _body(**others))


async def _loaded(fleet: RunningFleet) -> list[str]:
    return [model["name"] for model in (await get(fleet, 0, "/api/ps")).json["models"]]


class _Gate:
    """Lets so many waits of the runners pass, and the others once it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, n_free: int) -> None:
        self.is_open = asyncio.Event()
        self.now_s = 0.0
        """The only time that the runners know."""
        self.began_s: set[float] = set()
        """From when the waits were counted."""
        self._due_ns: set[int] = set()
        self._n_free = n_free

        def left_s(_: Runners, began_s: float, due_ns: int) -> float:
            self.began_s.add(began_s)
            self._due_ns.add(due_ns)
            return 1.0 if self.is_reached() and not self.is_open.is_set() else 0.0

        monkeypatch.setattr(Runners, "_left_s", left_s)
        monkeypatch.setattr(Runners, "_loop_s", lambda _: self.now_s)

    def is_reached(self) -> bool:
        return len(self._due_ns) > self._n_free


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> _Gate:
    return _Gate(monkeypatch, n_free=2)


async def _begin(client: Client, gate: _Gate, path: str = "/api/generate") -> list[bytes]:
    """Begin a stream; return its first two pieces, after which it waits at the gate."""
    asked = _body(stream=True, messages=[{"content": "hi"}])
    data = json.dumps(asked).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    client.send(head.encode() + data)
    async with asyncio.timeout(ANSWER_S):
        assert b" 200 OK" in await client.reader.readuntil(b"\r\n\r\n")
        pieces = [await _piece(client) for _ in range(2)]
    await eventually(gate.is_reached)
    return pieces


async def _piece(client: Client) -> bytes:
    async with asyncio.timeout(ANSWER_S):
        n_bytes = int(await client.reader.readuntil(b"\r\n"), 16)
        return (await client.reader.readexactly(n_bytes + 2))[:-2]


async def test_a_runner_killed_while_idle_is_listed_and_the_next_request_starts_another(
    fleet: RunningFleet,
) -> None:
    fleet.inject("runner_kill", ids=["llm-00001"])
    assert [M] == await _loaded(fleet)

    first, second = [(await _generate(fleet)).json["load_duration"] for _ in range(2)]

    assert first > 2e9 > 1e7 > second
    assert () == fleet.fleet.faults, "the runner was replaced, so nothing is wrong any more"


async def test_a_runner_killed_in_a_stream_ends_it_with_an_error(
    fleet: RunningFleet, gate: _Gate
) -> None:
    async with connected(fleet) as client:
        await _begin(client, gate)
        fleet.inject("runner_kill", ids=["llm-00001"])

        assert f'{{"error":"{LOST}"}}\n'.encode() == await _piece(client)
        assert b"" == await _piece(client)
        gate.is_open.set()
        assert 200 == (await client.post("/api/generate", _body())).status


async def test_a_runner_killed_in_a_stream_ends_it_even_if_another_was_started_at_once(
    fleet: RunningFleet, gate: _Gate
) -> None:
    async with connected(fleet) as client:
        await _begin(client, gate)
        fleet.inject("runner_kill", ids=["llm-00001"])
        fleet.heal()

        assert f'{{"error":"{LOST}"}}\n'.encode() == await _piece(client)


async def test_a_runner_killed_in_a_stream_of_events_ends_it_with_an_empty_one(
    fleet: RunningFleet, gate: _Gate
) -> None:
    async with connected(fleet) as client:
        await _begin(client, gate, "/v1/chat/completions")
        fleet.inject("runner_kill", ids=["llm-00001"])
        last = json.loads((await _piece(client)).removeprefix(b"data: "))

        assert ("", "") == (last["model"], last["choices"][0]["delta"]["content"])
        assert b"" == await _piece(client), "no [DONE]"


async def test_a_runner_killed_before_the_answer_began_gives_500(
    fleet: RunningFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for is_stream in (False, True):
        gate = _Gate(monkeypatch, n_free=0)
        asked = asyncio.create_task(_generate(fleet, stream=is_stream))
        await eventually(gate.is_reached)
        fleet.inject("runner_kill", ids=["llm-00001"])
        answer = await asked
        assert (500, {"error": LOST}) == (answer.status, answer.json)
        fleet.heal()


async def test_a_frozen_runner_is_replaced_by_a_later_request_which_took_that_long(
    fleet: RunningFleet,
) -> None:
    fleet.inject("runner_hang", ids=["llm-00001"])
    assert [M] == await _loaded(fleet)

    first, second = [(await _generate(fleet)).json["load_duration"] for _ in range(2)]

    assert 20e9 < first < 25e9
    assert second < 1e7


async def test_a_request_hangs_while_its_runner_is_frozen_and_pages_are_answered(
    fleet: RunningFleet, gate: _Gate
) -> None:
    async with connected(fleet) as client:
        await _begin(client, gate)
        fleet.inject("slow", ids=["llm-00001"])
        assert await client.hears_nothing(), "a fault of another kind ends nothing"
        fault = fleet.inject("runner_hang", ids=["llm-00001"])
        assert await client.hears_nothing()
        assert [M] == await _loaded(fleet)
        fleet.inject("slow", ids=["llm-00001"])
        assert await client.hears_nothing(), "a fault of another kind thaws nothing"
        assert {0.0} == gate.began_s

        gate.now_s = 7.0
        gate.is_open.set()
        fleet.heal(fault.id)

        rest = (await client.read_rest_of_chunks()).splitlines()
        assert json.loads(rest[-1])["done"]
        assert {0.0, 7.0} == gate.began_s, "it goes on where it was"


async def test_a_frozen_stream_s_runner_can_be_killed_too(fleet: RunningFleet, gate: _Gate) -> None:
    async with connected(fleet) as client:
        await _begin(client, gate)
        fleet.inject("runner_hang", ids=["llm-00001"])
        fleet.inject("runner_kill", ids=["llm-00001"])

        assert f'{{"error":"{LOST}"}}\n'.encode() == await _piece(client)


async def test_out_of_memory_fails_every_load_until_it_is_healed(fleet: RunningFleet) -> None:
    fleet.inject("runner_oom", ids=["llm-00001"])
    assert [M] == await _loaded(fleet)
    for path in ("/api/generate", "/api/generate"):
        async with connected(fleet) as client:
            answer = await client.post(path, _body())
        message = "llama runner process has terminated: signal: killed"
        assert (500, f'{{"error":"{message}"}}') == (answer.status, answer.body.decode())
        assert [] == await _loaded(fleet)
        assert b"Ollama is running" == (await get(fleet, 0, "/")).body
    fleet.heal()

    assert [M] == await _loaded(fleet)
    assert 200 == (await _generate(fleet)).status


async def test_out_of_memory_is_counted_when_it_comes_and_for_each_request() -> None:
    async with running_fleet(FleetSpec(n_instances=1, time_scale=0.0)) as fleet:
        fleet.inject("runner_oom", share=1)
        for _ in range(2):
            assert 500 == (await _generate(fleet)).status
        assert 3 == (await get(fleet, 0, "/api/metrics")).json["errors"]["out_of_memory"]


async def test_a_request_waits_while_its_instance_is_loading(fleet: RunningFleet) -> None:
    fleet.inject("loading", ids=["llm-00001"])
    async with connected(fleet) as client:
        asked = asyncio.create_task(client.post("/api/generate", _body()))
        assert not (await asyncio.wait([asked], timeout=SILENCE_S))[0]
        fleet.heal()
        assert 200 == (await asked).status


async def test_a_model_unloaded_by_a_client_is_installed_and_loads_again(
    fleet: RunningFleet,
) -> None:
    fleet.inject("unload", ids=["llm-00001"])
    assert [] == await _loaded(fleet)
    assert 1 == len((await get(fleet, 0, "/api/tags")).json["models"])
    assert 200 == (await _generate(fleet)).status
    assert [M] == await _loaded(fleet)


async def test_a_missing_model_is_nowhere_until_it_is_pulled_or_healed(fleet: RunningFleet) -> None:
    for cure in ("pull", "heal"):
        fault = fleet.inject("no_model", ids=["llm-00001"])
        for path in ("/api/ps", "/api/tags"):
            assert b'{"models":[]}' == (await get(fleet, 0, path)).body
        assert 404 == (await _generate(fleet)).status
        if cure == "pull":
            async with connected(fleet) as client:
                await client.post("/api/pull", {"model": M})
        else:
            fleet.heal(fault.id)
        assert 200 == (await _generate(fleet)).status


async def test_a_model_partly_on_the_cpu_has_less_vram_than_its_size(fleet: RunningFleet) -> None:
    async def shares() -> list[float]:
        entries: list[dict[str, Any]] = (await get(fleet, 0, "/api/ps")).json["models"]
        return [entry["size_vram"] / entry["size"] for entry in entries]

    assert [1.0] == await shares()
    fleet.inject("partly_cpu", ids=["llm-00001"], ratio=0.25)
    assert [0.75] == pytest.approx(await shares())
    fleet.heal()
    assert [1.0] == await shares()


async def test_a_model_half_on_the_cpu_is_slower_than_half_as_fast(fleet: RunningFleet) -> None:
    async def speed() -> float:
        said = (await _generate(fleet)).json
        return float(said["eval_count"] / said["eval_duration"] * 1e9)

    usual = await speed()
    fleet.inject("partly_cpu", ids=["llm-00001"], ratio=0.5)
    assert usual * 2 / (1 + 187 / 42) == pytest.approx(await speed(), rel=0.01)
    fleet.heal()
    assert usual == pytest.approx(await speed(), rel=0.01)


async def test_a_busy_runner_s_requests_wait_and_only_their_total_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = clock_of_sleeping(monkeypatch)

    async def waited_s(fleet: RunningFleet) -> float:
        said = (await _generate(fleet)).json
        assert said["load_duration"] < 1e9
        parts = sum(said[f"{part}_duration"] for part in ("load", "prompt_eval", "eval"))
        return float(said["total_duration"] - parts) / 1e9

    async with running_fleet(replace(SPEC, time_scale=0.001), clock=clock) as fleet:
        fleet.inject("busy", ids=["llm-00001"], seconds=60)
        assert 60 == pytest.approx(await waited_s(fleet), abs=1)
        fleet.heal()
        assert 0 == pytest.approx(await waited_s(fleet), abs=1)


async def test_healing_a_busy_runner_lets_those_that_wait_pass() -> None:
    async with running_fleet(replace(SPEC, time_scale=1.0)) as fleet:
        fleet.inject("busy", ids=["llm-00001"], seconds=600)
        asked = asyncio.create_task(_generate(fleet))
        await eventually(lambda: fleet.fleet.states[0].n_generating == 1)
        assert [M] == await _loaded(fleet)
        fleet.heal()

        assert 200 == (await asked).status


async def test_a_restarted_server_closes_its_connections_and_has_the_version_for_good(
    fleet: RunningFleet,
) -> None:
    async with connected(fleet) as client:
        before = (await client.get("/api/version")).json["version"]
        assert "0.4.7" != before
        fleet.fleet.clock.now_s += 1  # type: ignore[attr-defined]
        fleet.inject("restart", ids=["llm-00001"], version="0.4.7")
        with pytest.raises(ConnectionResetError):
            await client.read_rest()
    for _ in range(2):
        assert {"version": "0.4.7"} == (await get(fleet, 0, "/api/version")).json
        (model,) = (await get(fleet, 0, "/api/ps")).json["models"]
        assert "context_length" not in model, "it behaves as its version does"
        fleet.heal()


async def test_a_restart_without_a_version_begins_the_counters_again() -> None:
    clock = FakeClock()
    async with running_fleet(FleetSpec(n_instances=1), clock=clock) as fleet:
        before = (await get(fleet, 0, "/api/metrics")).json
        fleet.inject("restart", share=1)
        after = (await get(fleet, 0, "/api/metrics")).json

    assert clock.now_s == after["start_time_seconds"] > before["start_time_seconds"]
    assert before["version"] == after["version"]
    assert 0 == after["generated_tokens_total"]


@pytest.mark.parametrize("kind", ["runner_hang", "runner_oom", "no_model"])
async def test_figures_stand_still_while_the_model_does_not_work_and_health_is_fine(
    kind: str,
) -> None:
    clock = FakeClock()
    async with running_fleet(FleetSpec(n_instances=1), clock=clock) as fleet:
        fleet.inject(kind, share=1)
        totals = []
        for _ in range(2):
            totals.append((await get(fleet, 0, "/api/metrics")).json["generated_tokens_total"])
            clock.now_s += 60
        assert 200 == (await get(fleet, 0, "/health")).status

    assert totals[0] == totals[1]


async def test_each_instance_recovers_by_itself(fleet: RunningFleet) -> None:
    fault = fleet.inject("runner_kill", share=1)
    await _generate(fleet)
    (left,) = fleet.fleet.faults
    assert ["llm-00002"] == fleet.ids_of(left)
    fleet.heal(fault.id)
    with pytest.raises(UnknownFaultError):
        fleet.heal(fault.id)
