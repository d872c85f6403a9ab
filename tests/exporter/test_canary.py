"""Canaries of simulated Ollama servers, of bad servers, and of a real llama-server."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trustme

from exporter.canary import Canary, CanaryOptions, CanaryResult, TimedConnection, next_state
from exporter.model import CanaryOutcome, CanaryState, HealthCheck, State, Status, Target
from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.spec import MODELS, FleetSpec, Hardware, Mode
from tests.conftest import StartLlamaServer
from tests.exporter.engines.bodies import LLAMACPP_METRICS
from tests.exporter.engines.test_generation import LLAMACPP_LINES
from tests.exporter.pollers import Polled, polling, target
from tests.exporter.servers import Handler, response, serving
from tests.llama import LlamaServer
from tests.provisioning.simulator.client import connected, get
from tests.waiting import eventually

PERIOD_S = 0.2
IDLE = LLAMACPP_METRICS.replace(b"requests_processing 1", b"requests_processing 0")
ANSWER = b"\n\n".join(LLAMACPP_LINES) + b"\n\n"


@asynccontextmanager
async def canarying(polled: Polled, **changed: Any) -> AsyncIterator[Canary]:
    """Send canaries to what is polled until the block ends."""
    given = {"period_s": PERIOD_S, "concurrency": 20, "timeout_s": 100.0, "n_tokens": 8}
    options = CanaryOptions(
        **{"prompt": "1, 2, 3,", "max_tokens_per_second": 1e6, **given, **changed}
    )
    targets = [scrape_target.target for scrape_target in polled.poller.scrape_targets.values()]
    await polled.update()
    canary = Canary(
        options,
        polled.poller,
        polled.fleet_counters,
        polled.options.transport,
        polled.options.clock,
    )
    await polled.update(*targets)
    running = asyncio.create_task(canary.run())
    try:
        yield canary
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await canary.close()


def state(polled: Polled, instance_id: str = "a") -> CanaryState | None:
    return polled.poller.scrape_targets[instance_id].row.canary


def outcome(polled: Polled, instance_id: str = "a") -> CanaryOutcome | None:
    known = state(polled, instance_id)
    return None if known is None else known.outcome


def n_results(polled: Polled, which: CanaryOutcome) -> int:
    assert polled.fleet_counters.canary is not None
    return polled.fleet_counters.canary.results[which]


async def asked_again(polled: Polled, which: CanaryOutcome, n: int = 2) -> None:
    """Return once more canaries have ended so."""
    before = n_results(polled, which)
    await eventually(lambda: n_results(polled, which) >= before + n)


# Simulated Ollama servers


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


async def test_the_speed_of_a_stock_ollama_is_its_own(fleet: RunningFleet) -> None:
    instance = fleet.fleet.instances[0]
    async with polling(ollama(fleet, 0)) as polled, canarying(polled):
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
    await load(fleet, 0, "10m")
    await load(fleet, 1, -1)
    await load(fleet, 2, 0)
    before = [await loaded(fleet, index) for index in range(3)]
    ids = [instance.id for instance in fleet.fleet.instances]
    async with polling(*[ollama(fleet, index) for index in range(3)]) as polled:
        async with canarying(polled):
            await asked_again(polled, CanaryOutcome.OK, n=8)
            await eventually(lambda: CanaryOutcome.SKIPPED_NOT_LOADED is outcome(polled, ids[2]))
    after = [await loaded(fleet, index) for index in range(3)]

    assert [list(one) for one in before] == [list(one) for one in after]
    assert {} == after[2]
    (was,), (now,) = before[0].values(), after[0].values()
    assert abs(seconds(now) - seconds(was)) < 1.0
    assert all(expiry.startswith("23") for expiry in after[1].values())
    assert [True, True, False] == [fleet.fleet.states[index].n_asked > 0 for index in range(3)]


def seconds(expires_at: str) -> float:
    """Return the seconds within the hour of a time such as 2026-12-01T20:03:47.123456Z."""
    _, minute, second = expires_at.removesuffix("Z").split(":")
    return int(minute) * 60 + float(second[:9])


async def test_only_the_model_that_the_inventory_lists_is_asked_for(fleet: RunningFleet) -> None:
    async with polling(ollama(fleet, 0, model="another:7b")) as polled, canarying(polled):
        await asked_again(polled, CanaryOutcome.SKIPPED_NOT_LOADED)

    assert 0 == fleet.fleet.states[0].n_asked


async def test_an_instance_that_does_not_serve_is_not_asked(fleet: RunningFleet) -> None:
    ids = [instance.id for instance in fleet.fleet.instances]
    fleet.inject("hang", ids=[ids[1]])
    draining = ollama(fleet, 0, state=State.DRAINING)
    async with polling(draining, ollama(fleet, 1), ollama(fleet, 2)) as polled:
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
    async with polling(ollama(fleet, 0), by_canary) as polled:
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


def n_stalled(polled: Polled, instance_id: str) -> int:
    known = state(polled, instance_id)
    return 0 if known is None else known.n_stalled


async def test_of_several_loaded_models_the_one_is_asked_for_that_the_instance_is_known_for(
    fleet: RunningFleet,
) -> None:
    """The other one comes first in the list; nobody but its client changes its `keep_alive`."""
    own, other = MODELS[0].name, MODELS[2]
    assert other.name < own == fleet.fleet.instances[0].model.name
    store = fleet.fleet.models_of(fleet.fleet.states[0])
    store.install(other)
    async with polling(ollama(fleet, 0)) as polled, canarying(polled):
        await asked_again(polled, CanaryOutcome.OK)
        async with connected(fleet) as client:
            await client.post("/api/generate", {"model": other.name, "keep_alive": 1234})
        await polled.polled_again(fleet.fleet.instances[0].id)
        await asked_again(polled, CanaryOutcome.OK, n=3)

    found = store.find_loaded(other, time.time())
    assert found is not None
    assert 1234.0 == found.keep_alive_s


# Other servers


def llama_server(generate: Handler, metrics: bytes = IDLE) -> Handler:
    """Return a handler that is polled as an idle llama-server, and generates as a test wants."""
    bodies = {"/health": b'{"status":"ok"}', "/metrics": metrics}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            path = head.split(b" ", 2)[1].decode()
            if path == "/completion":
                await generate(reader, writer)
                return
            writer.write(response(bodies.get(path, b"{}")))

    return handle


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def answering(answer: bytes) -> Handler:
    async def generate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return generate


@asynccontextmanager
async def asking(generate: Handler, metrics: bytes = IDLE, **changed: Any) -> AsyncIterator[Polled]:
    """Send canaries to one llama-server."""
    async with serving(llama_server(generate, metrics)) as port:
        async with polling(target("a", port, engine="llamacpp")) as polled:
            async with canarying(polled, **changed):
                yield polled


async def test_a_busy_instance_is_skipped_and_never_asked() -> None:
    asked: list[bool] = []

    async def generate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(True)

    async with asking(generate, LLAMACPP_METRICS) as polled:
        await asked_again(polled, CanaryOutcome.SKIPPED_BUSY)

    assert [] == asked


ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096
BUSY = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'


@pytest.mark.parametrize(
    ("answer", "expected", "detail"),
    [
        (response(ANSWER), CanaryOutcome.OK, ""),
        (response(b"", "404 Not Found"), CanaryOutcome.ERROR, "/completion answered 404"),
        (response(BUSY, "503 Service Unavailable"), CanaryOutcome.SKIPPED_BUSY, "server busy"),
        (response(b"slow down", "429 Too Many"), CanaryOutcome.SKIPPED_BUSY, "429"),
        (response(b"loading", "503 Unavailable"), CanaryOutcome.ERROR, "503"),
        (
            response(b'{"error":"\\"e\\" does not support generate"}', "400 Bad Request"),
            CanaryOutcome.SKIPPED_NOT_LOADED,
            "does not support generate",
        ),
        (response(LLAMACPP_LINES[0]), CanaryOutcome.ERROR, "ends before it is done"),
        (
            b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_100_000,
            CanaryOutcome.ERROR,
            "larger than 1,048,576",
        ),
        (response(ANSWER)[:-40], CanaryOutcome.ERROR, "closed in the middle of an answer"),
        (b"", CanaryOutcome.ERROR, "closed before the first byte"),
        (b"SSH-2.0\r\n", CanaryOutcome.ERROR, "not HTTP"),
    ],
)
async def test_each_answer_is_an_outcome(
    answer: bytes, expected: CanaryOutcome, detail: str
) -> None:
    async with asking(answering(answer)) as polled:
        await asked_again(polled, expected)
        known = state(polled)

    assert known is not None
    assert detail in known.detail
    assert (known.generation is not None) == (expected is CanaryOutcome.OK)


async def test_an_answer_that_never_ends_is_stalled_at_the_deadline() -> None:
    async def generate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\n\n\r\n")
            await asyncio.sleep(0.02)

    async with asking(generate, timeout_s=0.5, period_s=1.0) as polled:
        await asked_again(polled, CanaryOutcome.STALLED)


async def test_no_instance_has_two_canaries_at_once() -> None:
    under_way, most = 0, 0

    async def generate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(3 * PERIOD_S)
        under_way -= 1
        writer.write(response(ANSWER))

    async with asking(generate) as polled:
        await asked_again(polled, CanaryOutcome.OK)

    assert 1 == most


async def test_no_more_than_may_are_under_way_at_once() -> None:
    async def generate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(PERIOD_S)
        writer.write(response(ANSWER))

    async with serving(llama_server(generate)) as port:
        targets = [target(f"i{n}", port, engine="llamacpp") for n in range(6)]
        async with polling(*targets) as polled, canarying(polled, concurrency=2) as canary:
            assert 2 == await most_under_way(polled, canary, CanaryOutcome.OK, n=8)


async def test_those_that_wait_make_room_for_others_up_to_a_bound() -> None:
    """Of 16 two at once, of which 14 are frozen: the others are asked again and again."""

    async def freeze(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    well = llama_server(answering(response(ANSWER)))
    async with serving(llama_server(freeze)) as frozen, serving(well) as port:
        targets = [target(f"i{n}", frozen, engine="llamacpp") for n in range(14)]
        targets += [target(f"j{n}", port, engine="llamacpp") for n in range(2)]
        changed = {"concurrency": 1, "patience_s": 0.02, "timeout_s": 2.0}
        async with polling(*targets) as polled, canarying(polled, **changed) as canary:
            most = await most_under_way(polled, canary, CanaryOutcome.STALLED, n=20)
            n_ok = n_results(polled, CanaryOutcome.OK)

    assert 10 == most
    assert n_ok >= 2


async def most_under_way(polled: Polled, canary: Canary, until: CanaryOutcome, *, n: int) -> int:
    """Return how many canaries were under way at most, until so many more have ended so."""
    before, most = n_results(polled, until), 0
    while n_results(polled, until) < before + n:
        most = max(most, int(repr(canary).split()[1]))
        await asyncio.sleep(0.01)
    return most


@pytest.mark.parametrize("change", ["removed", "draining"])
async def test_an_instance_that_goes_while_it_waits_is_not_asked(change: str) -> None:
    asked: list[int] = []
    may_end = asyncio.Event()

    async def generate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port: int = writer.get_extra_info("sockname")[1]
        asked.append(port)
        await may_end.wait()
        writer.write(response(ANSWER))

    async with serving(llama_server(generate)) as one, serving(llama_server(generate)) as two:
        targets = {port: target(f"i{port}", port, engine="llamacpp") for port in (one, two)}
        async with polling(*targets.values()) as polled:
            async with canarying(polled, concurrency=1) as canary:
                await eventually(lambda: asked and "1 under way, 1 waiting" in repr(canary))
                (first,) = asked
                waits = targets[one + two - first]
                left = [replace(waits, state=State.DRAINING)] if change == "draining" else []
                await polled.update(targets[first], *left)
                may_end.set()
                await asked_again(polled, CanaryOutcome.OK)

    assert {first} == set(asked)


async def test_an_instance_that_leaves_meanwhile_is_forgotten() -> None:
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def generate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        has_begun.set()
        await may_end.wait()
        writer.write(response(ANSWER))

    async with asking(generate) as polled:
        await has_begun.wait()
        await polled.update()
        may_end.set()
        await eventually(lambda: n_results(polled, CanaryOutcome.OK))

        assert {} == polled.poller.scrape_targets


@asynccontextmanager
async def asking_ollama(
    model: dict[str, object], *, trained: int = 0, load_s: float = 0.0
) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """Send canaries to an Ollama with one model loaded, at its noon; give (path, body) of each."""
    sent: list[tuple[str, dict[str, Any]]] = []
    bodies = {
        "/": b"Ollama is running",
        "/api/ps": json.dumps({"models": [{"name": "m", **model}]}).encode(),
        "/api/show": json.dumps({"model_info": {"llama.context_length": trained}}).encode(),
        "/api/generate": b'{"done":true,"load_duration":%d}' % (load_s * 1e9),
    }

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            path = head.split(b" ", 2)[1].decode()
            if n_bytes := head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]:
                sent.append((path, json.loads(await reader.readexactly(int(n_bytes)))))
            body = bodies.get(path, b"{}")
            writer.write(response(body, "200 OK", "Date: Tue, 01 Jan 2030 12:00:00 GMT"))

    async with serving(handle) as port:
        async with polling(target("a", port, engine="ollama")) as polled, canarying(polled):
            await asked_again(polled, CanaryOutcome.OK, n=3)
            yield sent


async def test_a_clock_that_is_wrong_does_not_move_an_expiry() -> None:
    """The server's clock is years ahead of ours; its model goes in ten minutes of its own time."""
    async with asking_ollama({"expires_at": "2030-01-01T12:10:00Z"}) as sent:
        keep_alives = {body["keep_alive"] for path, body in sent if path == "/api/generate"}

    assert {"599.500s"} == keep_alives


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


async def test_an_https_instance_is_asked_as_it_is_polled() -> None:
    """By its name, with the CA of the polls."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    handler = llama_server(answering(response(ANSWER)))
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    one = Target("a", "localhost", port, tls=True, engine="llamacpp")
    async with polling() as polled:
        authority.configure_trust(polled.options.transport.tls)
        await polled.update(one)
        async with canarying(polled):
            await asked_again(polled, CanaryOutcome.OK)
    server.close()


async def test_nothing_of_a_canary_is_left_to_the_garbage_collector() -> None:
    async with asking(answering(response(ANSWER))) as polled:
        await asked_again(polled, CanaryOutcome.OK)
        gc.collect()
        gc.disable()
        try:
            await asked_again(polled, CanaryOutcome.OK, n=5)
            left = sum(type(one) is TimedConnection for one in gc.get_objects())
        finally:
            gc.enable()

    assert left <= 1  # that of one under way


# A real llama-server


async def test_the_speed_of_a_real_llama_server_is_its_own(
    start_llama_server: StartLlamaServer,
) -> None:
    server = await start_llama_server()
    page = await _metrics(server)
    async with polling(target("a", server.port, engine="llamacpp")) as polled:
        async with canarying(polled, n_tokens=64):
            await eventually(lambda: (known := state(polled)) and known.generation)
            known = state(polled)
            assert polled.fleet_counters.canary is not None
    n_asked = polled.fleet_counters.canary.requests
    after = await _metrics(server)

    assert known is not None
    assert known.generation is not None
    assert n_asked * 64 == after["tokens_predicted_total"] - page["tokens_predicted_total"]
    if n_asked == 1:  # then the counters are those of this one
        own = 64 / (
            after["tokens_predicted_seconds_total"] - page["tokens_predicted_seconds_total"]
        )
        assert pytest.approx(own, rel=0.1) == known.generation.tokens_per_second


async def _metrics(server: LlamaServer) -> dict[str, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    lines = (await reader.read()).decode().splitlines()
    writer.close()
    samples = [line.removeprefix("llamacpp:").split() for line in lines if line[:9] == "llamacpp:"]
    return {name: float(value) for name, value in samples}


async def test_a_frozen_llama_server_is_stalled_within_a_period_and_the_deadline(
    start_llama_server: StartLlamaServer,
) -> None:
    """It is polled so seldom that the poll still has it for healthy."""
    server = await start_llama_server()
    async with polling(target("a", server.port, engine="llamacpp"), interval_s=3600.0) as polled:
        scrape_target = polled.poller.scrape_targets["a"]
        async with canarying(polled, period_s=2.0, timeout_s=1.0):
            scrape_target = polled.poller.scrape_targets["a"]
            await scrape_target.poll(scrape_target.start_poll())
            await asked_again(polled, CanaryOutcome.OK, n=1)
            loop = asyncio.get_running_loop()
            server.process.send_signal(signal.SIGSTOP)
            began_s = loop.time()
            await asked_again(polled, CanaryOutcome.STALLED, n=1)
            took_s = loop.time() - began_s
            server.process.send_signal(signal.SIGCONT)
            await asked_again(polled, CanaryOutcome.OK, n=1)

    assert took_s < 10 * (2.0 + 1.0)  # a busy machine is late


# What is known after each


def after(*outcomes: CanaryOutcome) -> CanaryState:
    known = None
    for at_s, one in enumerate(outcomes):
        known = next_state(known, CanaryResult(one), float(at_s))
    assert known is not None
    return known


OK, STALLED = CanaryOutcome.OK, CanaryOutcome.STALLED
SKIPPED_BUSY, NOT_LOADED = CanaryOutcome.SKIPPED_BUSY, CanaryOutcome.SKIPPED_NOT_LOADED


@pytest.mark.parametrize(
    ("outcomes", "n_stalled", "asked_at_s"),
    [
        ((OK,), 0, 0.0),
        ((STALLED, STALLED), 2, 1.0),
        ((STALLED, SKIPPED_BUSY), 1, 0.0),
        ((STALLED, SKIPPED_BUSY, STALLED), 2, 2.0),
        ((STALLED, NOT_LOADED), 0, 0.0),
        ((STALLED, CanaryOutcome.ERROR), 0, 1.0),
        ((STALLED, STALLED, OK), 0, 2.0),
        ((SKIPPED_BUSY,), 0, None),
    ],
)
def test_only_stalls_in_a_row_add_up(
    outcomes: tuple[CanaryOutcome, ...], n_stalled: int, asked_at_s: float | None
) -> None:
    known = after(*outcomes)

    assert (n_stalled, asked_at_s) == (known.n_stalled, known.asked_at_s)
