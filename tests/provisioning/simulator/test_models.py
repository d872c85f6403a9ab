"""Models are loaded, kept, evicted and unloaded as clients ask, and as a real Ollama does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime

import pytest

from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.endpoints import FOREVER_S
from provisioning.simulator.instance import ModelStore
from provisioning.simulator.ollama import MAX_INSTALLED
from provisioning.simulator.runner import Runners, TextGenerator
from provisioning.simulator.spec import KEEP_ALIVE_S, MODELS, FleetSpec, Hardware, Mode
from tests.provisioning.simulator.client import Answer, FakeClock, connected, get
from tests.waiting import eventually

GPUS = ((Hardware.GPU, 1),)
OWN, SECOND, THIRD, FOURTH = (model.name for model in MODELS)
SPEC = FleetSpec(n_instances=2, mode=Mode.OLLAMA, hardware=GPUS, time_scale=0.0, installed_models=4)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def fleet(clock: FakeClock) -> AsyncIterator[RunningFleet]:
    async with running_fleet(SPEC, clock=clock) as running:
        assert OWN == running.fleet.instances[0].model.name
        yield running


async def _generate(fleet: RunningFleet, model: str = OWN, **others: object) -> Answer:
    async with connected(fleet) as client:
        ask = {"model": model, "prompt": "hi", "stream": False, "options": {"num_predict": 1}}
        return await client.post("/api/generate", ask | others)


async def _loaded(fleet: RunningFleet) -> dict[str, float]:
    """Return the loaded models and when they will be unloaded."""
    return {
        model["name"]: datetime.fromisoformat(model["expires_at"]).timestamp()
        for model in (await get(fleet, 0, "/api/ps")).json["models"]
    }


async def test_an_instance_that_nobody_changed_has_its_model_loaded_and_costs_nothing(
    fleet: RunningFleet, clock: FakeClock
) -> None:
    for _ in range(2):
        assert {OWN: clock.now_s + KEEP_ALIVE_S} == await _loaded(fleet)
        clock.now_s += 3600

    assert 4 == len((await get(fleet, 0, "/api/tags")).json["models"])
    assert fleet.fleet.states[0].models is None


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [("5m", 300), (42, 42), (42.5, 42), ("1h30m", 5400), (-1, 2**63 / 1e9), ("-1m", 2**63 / 1e9)],
)
async def test_a_model_stays_for_as_long_as_the_last_request_said(
    fleet: RunningFleet, clock: FakeClock, keep_alive: object, seconds: float
) -> None:
    await _generate(fleet, keep_alive=keep_alive)

    assert {OWN: pytest.approx(clock.now_s + seconds, abs=1)} == await _loaded(fleet)
    clock.now_s += min(seconds, 10**9) - 1
    assert [OWN] == list(await _loaded(fleet))
    clock.now_s += 2
    assert ([OWN] if seconds > 10**9 else []) == list(await _loaded(fleet))


async def test_a_pinned_model_stays_for_ever_and_a_request_that_does_not_say_leaves_it_pinned(
    clock: FakeClock,
) -> None:
    spec = replace(SPEC, keep_alive_s=FOREVER_S)
    async with running_fleet(spec, clock=clock) as fleet:
        for _ in range(2):
            assert {OWN: pytest.approx(clock.now_s + FOREVER_S, abs=1)} == await _loaded(fleet)
            await _generate(fleet)
            clock.now_s += 10**6

        await _generate(fleet, keep_alive=10)
        await _generate(fleet)
        assert {OWN: clock.now_s + 10} == await _loaded(fleet), "the last time said counts"


async def test_a_request_without_a_time_begins_the_last_one_anew(
    fleet: RunningFleet, clock: FakeClock
) -> None:
    await _generate(fleet, keep_alive=100)
    clock.now_s += 60
    await _generate(fleet)

    assert {OWN: clock.now_s + 100} == await _loaded(fleet)


@pytest.mark.parametrize("keep_alive", [0, "0", "0s"])
async def test_a_model_is_unloaded_at_once_and_loaded_again_by_the_next_request(
    fleet: RunningFleet, clock: FakeClock, keep_alive: object
) -> None:
    answer = await _generate(fleet, prompt="", keep_alive=keep_alive)
    assert "unload" == answer.json["done_reason"]
    assert {} == await _loaded(fleet)

    cold = (await _generate(fleet)).json["load_duration"]
    warm = (await _generate(fleet)).json["load_duration"]

    assert cold > 2e9 > 1e7 > warm
    assert {OWN: clock.now_s + KEEP_ALIVE_S} == await _loaded(fleet)


async def test_a_restart_empties_the_memory_and_not_the_store(fleet: RunningFleet) -> None:
    async with connected(fleet) as client:
        await client.post("/api/copy", {"source": OWN, "destination": "mine"})
    await _generate(fleet, keep_alive=0)
    fleet.inject("kill", ids=["llm-00001"])
    fleet.heal()

    assert [OWN] == list(await _loaded(fleet)), "its imagined clients have asked it"
    assert 5 == len((await get(fleet, 0, "/api/tags")).json["models"])


async def test_without_a_prompt_another_model_is_loaded_beside(fleet: RunningFleet) -> None:
    answer = await _generate(fleet, SECOND, prompt="", keep_alive="1h")

    assert "load" == answer.json["done_reason"]
    assert [SECOND, OWN] == list(await _loaded(fleet)), "the one that stays longest comes first"


async def test_one_more_than_may_be_loaded_takes_the_place_of_the_one_that_stays_shortest(
    fleet: RunningFleet,
) -> None:
    for model, keep_alive in ((SECOND, "1m"), (THIRD, "1h"), (FOURTH, "1h")):
        await _generate(fleet, model, keep_alive=keep_alive)

    assert {OWN, THIRD, FOURTH} == set(await _loaded(fleet))


async def test_models_that_are_loaded_at_once_are_no_more_than_may_be_loaded() -> None:
    spec = replace(SPEC, time_scale=0.05, max_loaded_models=1)
    async with running_fleet(spec) as fleet:
        answers = await asyncio.gather(
            *(_generate(fleet, model, prompt="") for model in (SECOND, THIRD, FOURTH))
        )

        assert [200] * 3 == [answer.status for answer in answers]
        assert 1 == len(await _loaded(fleet))


async def test_a_client_that_leaves_while_its_model_loads_leaves_the_place_to_others() -> None:
    spec = replace(SPEC, time_scale=1000.0, max_loaded_models=1)
    async with running_fleet(spec) as fleet:
        state = fleet.fleet.states[0]
        asked = asyncio.create_task(_generate(fleet, SECOND))
        await eventually(lambda: state.models is not None and state.models.victim() == MODELS[1])
        assert {} == await _loaded(fleet), "a model that is still loading is not listed"
        asked.cancel()
        await eventually(lambda: state.n_generating == 0)

        assert {} == await _loaded(fleet)
        assert state.models is not None
        assert state.models.reserve(MODELS[2], 0.0) is not None


async def test_a_model_copied_over_another_is_loaded_once(fleet: RunningFleet) -> None:
    await _generate(fleet, SECOND)
    async with connected(fleet) as client:
        await client.post("/api/copy", {"source": OWN, "destination": SECOND})
    first, second = [(await _generate(fleet, SECOND)).json["load_duration"] for _ in range(2)]

    assert first > 2e9 > 1e7 > second


async def test_a_request_that_waited_while_its_model_went_and_came_back_is_answered() -> None:
    async with running_fleet(replace(SPEC, time_scale=1.0)) as fleet:
        state = fleet.fleet.states[0]
        asked = [
            asyncio.create_task(_generate(fleet, options={"num_predict": 50})) for _ in range(2)
        ]
        await eventually(lambda: state.n_waiting == 1)
        fleet.inject("no_model", ids=["llm-00001"])
        fleet.heal()

        assert [200, 200] == [(await one).status for one in asked]


async def test_copies_end_at_a_bound_and_their_locks_with_their_requests(
    fleet: RunningFleet,
) -> None:
    async with connected(fleet) as client:
        copied = [
            (await client.post("/api/copy", {"source": OWN, "destination": f"m{n}"})).status
            for n in range(MAX_INSTALLED)
        ]
    generator = fleet._server.generator
    assert isinstance(generator, TextGenerator)
    for n in range(5):
        assert 200 == (await _generate(fleet, f"m{n}")).status

    assert copied.count(200) == MAX_INSTALLED - len(MODELS)
    assert copied[-1] == 500
    await eventually(lambda: not generator._runners._locks)


async def test_a_model_stays_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = asyncio.Event()

    monkeypatch.setattr(Runners, "_left_s", lambda *_: 0.0 if may_end.is_set() else 1.0)
    spec = FleetSpec(n_instances=1, mode=Mode.OLLAMA, installed_models=2, max_loaded_models=1)
    async with running_fleet(spec) as fleet:
        state = fleet.fleet.states[0]
        working = asyncio.create_task(_generate(fleet, keep_alive=0))
        await eventually(lambda: state.n_generating == 1)
        assert [OWN] == list(await _loaded(fleet))
        coming = asyncio.create_task(_generate(fleet, SECOND))
        await eventually(lambda: state.n_generating == 2)
        assert [OWN] == list(await _loaded(fleet))
        may_end.set()

        assert [200, 200] == [(await task).status for task in (working, coming)]
        assert [SECOND] == list(await _loaded(fleet))


async def test_a_model_that_works_stays_before_an_idle_one_and_its_time_has_not_begun() -> None:
    clock, models = FakeClock(), ModelStore(MODELS[:1], max_loaded=2)
    working = models.reserve(MODELS[1], clock())
    assert working is not None
    working.is_loading = False

    with working.using(60.0, clock):
        clock.now_s += 1000
        assert clock.now_s + 60 == working.expires_s(clock.now_s)
        assert MODELS[0] == models.victim()
    assert MODELS[1] == models.victim()


async def test_a_model_is_known_by_any_case_and_with_latest_where_no_tag_is_given() -> None:
    models = ModelStore(MODELS, max_loaded=1)
    models.copy(MODELS[0], "mine")

    for name in ("mine", "MINE", "mine:latest", "Mine:Latest"):
        found = models.find(name)
        assert found is not None
        assert ("mine:latest", MODELS[0].digest) == (found.name, found.digest)
    assert models.find("mine:other") is None


async def test_waiting_for_a_load_counts_as_loading_and_for_a_turn_as_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, may_pass = 0.0, asyncio.Event()

    def left_s(_: Runners, began_s: float, due_ns: int) -> float:
        nonlocal now_s
        if not may_pass.is_set():
            return 1.0
        now_s = max(now_s, began_s + due_ns / 1e9)
        return 0.0

    monkeypatch.setattr(Runners, "_left_s", left_s)
    monkeypatch.setattr(Runners, "_loop_s", lambda _: now_s)
    async with running_fleet(replace(SPEC, time_scale=1.0), clock=FakeClock()) as fleet:
        fleet.inject("unload", share=1)
        state = fleet.fleet.states[0]
        asked = [asyncio.create_task(_generate(fleet)) for _ in range(2)]
        await eventually(lambda: (state.n_generating, state.n_waiting) == (1, 1))
        may_pass.set()
        first, second = sorted(
            [(await one).json for one in asked], key=lambda one: one["total_duration"]
        )

    assert first["load_duration"] == pytest.approx(second["load_duration"], rel=0.01)
    parts = ("load_duration", "prompt_eval_duration", "eval_duration")
    waited_ns = second["total_duration"] - sum(second[part] for part in parts)
    worked_ns = sum(first[part] for part in parts[1:])
    assert worked_ns == pytest.approx(waited_ns, rel=0.5)
