"""Canaries of stock Ollama: simulated servers, and one that says what a test wants."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from exporter.model import CanaryOutcome, HealthCheck, State, Status, Target
from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.instance import Loaded
from provisioning.simulator.spec import MODELS, FleetSpec, Hardware, Mode
from tests.exporter.canaries import (
    asked_again,
    canarying,
    n_stalled,
    outcome,
    read_head,
    state,
)
from tests.exporter.pollers import target, watching
from tests.exporter.servers import response, serving
from tests.provisioning.simulator.client import connected, get
from tests.waiting import eventually


@pytest.fixture
async def fleet() -> AsyncIterator[RunningFleet]:
    spec = FleetSpec(n_instances=3, mode=Mode.OLLAMA, hardware=((Hardware.GPU, 1),))
    async with running_fleet(spec) as running:
        yield running


def ollama(fleet: RunningFleet, index: int, **rest: Any) -> Target:
    instance = fleet.fleet.instances[index]
    return Target(instance.id, instance.address, fleet.port, engine="ollama", **rest)


async def load(fleet: RunningFleet, index: int, keep_alive: object) -> None:
    name = fleet.fleet.instances[index].model.name
    async with connected(fleet, index) as client:
        await client.post("/api/generate", {"model": name, "keep_alive": keep_alive})


async def loaded(fleet: RunningFleet, index: int) -> dict[str, str]:
    """Return when each loaded model expires, by name."""
    models = (await get(fleet, index, "/api/ps")).json["models"]
    return {one["name"]: one["expires_at"] for one in models}


def loaded_model(fleet: RunningFleet, index: int) -> Loaded:
    state = fleet.fleet.states[index]
    (found,) = fleet.fleet.models_of(state).loaded(time.time())
    return found


async def test_the_speed_of_a_stock_ollama_is_its_own(fleet: RunningFleet) -> None:
    instance = fleet.fleet.instances[0]
    async with watching(ollama(fleet, 0)) as polled, canarying(polled):
        await asked_again(polled, CanaryOutcome.OK)
        page = await polled.page()
        known = state(polled, instance.id)

    assert known is not None
    assert known.generation is not None
    first_s, whole_s = known.generation.time_to_first_token_s, known.generation.duration_s
    assert first_s is not None
    assert 0 < first_s < whole_s
    speed = known.generation.tokens_per_second
    assert pytest.approx(instance.tokens_per_second, rel=0.02) == speed
    assert f"{speed!r}\n" in page.partition("ollama_instance_tokens_per_second{")[2]


async def test_a_canary_neither_loads_nor_unloads_a_model_nor_moves_its_expiry(
    fleet: RunningFleet,
) -> None:
    """One that got the time of its load again would stay for 400 s more, by default for 100 s."""
    await load(fleet, 0, "10m")
    loaded_model(fleet, 0).free_since_s = time.time() - 400.0
    await load(fleet, 1, -1)
    await load(fleet, 2, 0)
    before = [await loaded(fleet, index) for index in range(3)]
    expires_s = loaded_model(fleet, 0).expires_s(time.time())
    ids = [instance.id for instance in fleet.fleet.instances]
    async with watching(*[ollama(fleet, index) for index in range(3)]) as polled:
        async with canarying(polled):
            await asked_again(polled, CanaryOutcome.OK, n=8)
            await eventually(lambda: CanaryOutcome.SKIPPED_NOT_LOADED is outcome(polled, ids[2]))
    after = [await loaded(fleet, index) for index in range(3)]

    assert [list(one) for one in before] == [list(one) for one in after]
    assert {} == after[2]
    assert pytest.approx(expires_s, abs=50.0) == loaded_model(fleet, 0).expires_s(time.time())
    assert all(expiry.startswith("23") for expiry in after[1].values())
    assert [True, True, False] == [fleet.fleet.states[index].n_asked > 0 for index in range(3)]


async def test_only_the_model_that_the_inventory_lists_is_asked_for(fleet: RunningFleet) -> None:
    async with watching(ollama(fleet, 0, model="another:7b")) as polled, canarying(polled):
        await asked_again(polled, CanaryOutcome.SKIPPED_NOT_LOADED)

    assert 0 == fleet.fleet.states[0].n_asked


async def test_an_instance_that_does_not_serve_is_not_asked(fleet: RunningFleet) -> None:
    ids = [instance.id for instance in fleet.fleet.instances]
    fleet.inject("hang", ids=[ids[1]])
    draining = ollama(fleet, 0, state=State.DRAINING)
    async with watching(draining, ollama(fleet, 1), ollama(fleet, 2)) as polled:
        async with canarying(polled):
            await asked_again(polled, CanaryOutcome.OK, n=4)

            assert Status.DRAINING is polled.status(ids[0])
            assert [None, None] == [state(polled, instance_id) for instance_id in ids[:2]]


async def test_a_frozen_runner_that_answers_polls_is_stalled_until_it_generates_again(
    fleet: RunningFleet,
) -> None:
    """After two canaries it is unhealthy where the inventory lets them decide, and goes on."""
    ids = [instance.id for instance in fleet.fleet.instances][:2]
    by_canary = ollama(fleet, 1, health=HealthCheck.CANARY)
    async with watching(ollama(fleet, 0), by_canary) as polled:
        async with canarying(polled, timeout_s=1.0, period_s=1.5):
            await asked_again(polled, CanaryOutcome.OK)
            fleet.inject("runner_hang", ids=ids, seconds=3600)
            await eventually(lambda: all(n_stalled(polled, one) >= 2 for one in ids))
            statuses = [polled.status(one) for one in ids]
            page = await polled.page()
            fleet.heal()
            await eventually(lambda: [0, 0] == [n_stalled(polled, one) for one in ids])
            healed = {polled.status(one) for one in ids}

    assert [Status.HEALTHY, Status.UNHEALTHY] == statuses
    assert {Status.HEALTHY} == healed
    assert "ollama_instance_tokens_per_second{" not in page
    assert 'ollama_fleet_instance_conditions{shard="0",condition="stalled"} 2\n' in page


async def test_of_several_loaded_models_the_one_is_asked_for_that_the_instance_is_known_for(
    fleet: RunningFleet,
) -> None:
    """The other one comes first in the list; nobody but its client changes its `keep_alive`."""
    own, other = MODELS[0].name, MODELS[2]
    assert other.name < own == fleet.fleet.instances[0].model.name
    store = fleet.fleet.models_of(fleet.fleet.states[0])
    store.install(other)
    async with watching(ollama(fleet, 0)) as polled, canarying(polled):
        await asked_again(polled, CanaryOutcome.OK)
        async with connected(fleet) as client:
            await client.post("/api/generate", {"model": other.name, "keep_alive": 1234})
        await polled.polled_again(fleet.fleet.instances[0].id)
        await asked_again(polled, CanaryOutcome.OK, n=3)

    found = store.find_loaded(other, time.time())
    assert found is not None
    assert 1234.0 == found.keep_alive_s


@asynccontextmanager
async def asking_ollama(
    model: dict[str, object], *, trained: int = 0, load_s: float = 0.0, n_busy: int = 0
) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """Send canaries to an Ollama with one model loaded, at its noon; give (path, body) of each.

    It answers `/api/show` with 503 while it has been sent no more than `n_busy` bodies.
    """
    sent: list[tuple[str, dict[str, Any]]] = []
    bodies = {
        "/": b"Ollama is running",
        "/api/ps": json.dumps({"models": [{"name": "m", **model}]}).encode(),
        "/api/show": json.dumps({"model_info": {"llama.context_length": trained}}).encode(),
        "/api/generate": b'{"done":true,"load_duration":%d}' % (load_s * 1e9),
    }

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await read_head(reader):
            path = head.split(b" ", 2)[1].decode()
            if n_bytes := head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]:
                sent.append((path, json.loads(await reader.readexactly(int(n_bytes)))))
            body = bodies.get(path, b"{}")
            is_busy = path == "/api/show" and len(sent) <= n_busy
            status = "503 Service Unavailable" if is_busy else "200 OK"
            writer.write(response(body, status, "Date: Tue, 01 Jan 2030 12:00:00 GMT"))

    async with serving(handle) as port:
        async with watching(target("a", port, engine="ollama")) as polled, canarying(polled):
            await asked_again(polled, CanaryOutcome.OK, n=3)
            yield sent


async def test_a_clock_that_is_wrong_does_not_move_an_expiry() -> None:
    """The server's clock is years ahead of ours; its model goes in ten minutes of its own time."""
    async with asking_ollama({"expires_at": "2030-01-01T12:10:00Z"}) as sent:
        left = [body["keep_alive"] for path, body in sent if path == "/api/generate"]

    assert all(598.5 < float(text.removesuffix("s")) <= 599.5 for text in left)


@pytest.mark.parametrize(
    ("context_length", "load_s", "expected"),
    [
        (8_192, 0.3, [8_192, 8_192, 8_192]),
        (131_072, 0.3, [None, None, None]),
        (131_072, 3.0, [None, 131_072, None]),
        (8_192, 3.0, [8_192, None, 8_192]),
    ],
)
async def test_the_context_length_is_one_with_which_the_model_is_not_loaded_again(
    context_length: int, load_s: float, expected: list[int | None]
) -> None:
    """The longest is what Ollama made of a longer default. A choice that was wrong is reversed."""
    pinned = {"expires_at": "2318-01-01T00:00:00Z", "context_length": context_length}
    async with asking_ollama(pinned, trained=131_072, load_s=load_s) as sent:
        asked = [body["options"].get("num_ctx") for path, body in sent if path == "/api/generate"]
        n_shown = sum(path == "/api/show" for path, _ in sent)

    assert (expected, 1) == (asked[:3], n_shown)


async def test_no_canary_is_sent_until_the_trained_length_is_known() -> None:
    """Without it a canary may reload the model."""
    pinned = {"expires_at": "2318-01-01T00:00:00Z", "context_length": 131_072}
    async with asking_ollama(pinned, trained=131_072, n_busy=2) as sent:
        paths = [path for path, _ in sent]
        asked = [body["options"].get("num_ctx") for path, body in sent if path == "/api/generate"]

    assert [*["/api/show"] * 3, *["/api/generate"] * 3] == paths[:6]
    assert [None, None, None] == asked[:3]
