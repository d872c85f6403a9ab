"""Polls: when they start, what they lead to, and whom they never delay."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from exporter.counters import update
from exporter.model import Answer, Outcome, State, Status, Target
from exporter.poller import AT_ONCE, MAX_SLOTS, TICK_S, Wheel, phase_s
from exporter.scrape_target import PollStart, ScrapeTarget
from exporter.selfmetrics import Request
from exporter.steps import STEP
from tests.exporter.engines.bodies import ANSWERS, LLAMACPP_METRICS
from tests.exporter.pollers import (
    PATIENCE_S,
    Polled,
    hastily_polling,
    polling,
    target,
    value_of,
    watching,
)
from tests.exporter.servers import (
    Handler,
    answering,
    hanging,
    read_request,
    response,
    saying,
    serving,
)
from tests.exporter.ui.building import HeldClock
from tests.ports import free_port
from tests.waiting import eventually

FLEET = {
    "/health": b'{"status":"ok"}',
    "/api/metrics": b'{"tokens_per_second":42,"latency_p99":0.089,"error_count":0}',
}
OLLAMA = {
    "/": b"Ollama is running",
    "/api/version": b'{"version":"0.23.0"}',
    "/api/ps": b'{"models":[]}',
}
LLAMACPP = {"/health": b'{"status":"ok"}', "/metrics": LLAMACPP_METRICS, "/props": b"{}"}


class Server:
    """A server whose behaviour a test changes while it runs."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.n_connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        self._writers.append(writer)
        await self.handler(reader, writer)

    def become(self, handler: Handler) -> None:
        """Behave otherwise from now on; connections that are open are closed."""
        self.handler = handler
        for writer in self._writers:
            writer.close()
        self._writers.clear()


def fleet_metrics(**figures: float) -> dict[str, bytes]:
    body = {"tokens_per_second": 42, "latency_p99": 0.089, "error_count": 0, **figures}
    return {**FLEET, "/api/metrics": json.dumps(body).encode()}


polling_over_cycles = partial(polling, interval_s=1.2, health_timeout_s=0.7, metrics_timeout_s=0.8)
"""Poll so that most hung polls outlast their cycle's last tick, and none comes near the next's."""


async def cycles_have_ended(polled: Polled, *, n: int) -> None:
    """Return once so many more cycles have ended."""
    ended = value_of(polled.metrics.cycles)
    await eventually(lambda: value_of(polled.metrics.cycles) >= ended + n)


def n_errors(polled: Polled) -> float:
    counters = polled.metrics.poll_errors.values()
    return sum([float(value_of(counter)) for counter in counters])


async def test_one_liar_among_slow_instances_does_not_hide_that_the_fleet_is_slow() -> None:
    """It stays healthy, its honest figures count, and each of its lies is counted as a failure."""
    lies = {"latency_p99": 2**53, "requests_queued": 2**53, "start_time_seconds": 2**52}
    liar = fleet_metrics(tokens_per_second=2**53, requests_running=1, **lies)
    async with serving(answering(fleet_metrics(tokens_per_second=4))) as port:
        async with serving(answering(liar)) as liars_port:
            honest = [target(f"slow-{n}", port, model="m") for n in range(5)]
            async with watching(*honest, target("liar", liars_port, model="m")) as polled:
                await polled.polled_all()
                page = await polled.page()
                outcomes = polled.outcomes("liar")

    assert 'ollama_fleet_tokens_per_second{shard="0",model="m"} 20.0\n' in page
    assert 'ollama_fleet_instances{shard="0",status="healthy"} 6\n' in page
    assert 'ollama_fleet_request_latency_p99_seconds{shard="0"} 0.089\n' in page
    assert 'ollama_instance_requests_running{instance_id="liar",node=""} 1.0\n' in page
    assert 'ollama_instance_requests_queued{instance_id="liar"' not in page
    assert (Outcome.OK, Outcome.IMPLAUSIBLE) == outcomes
    assert value_of(polled.metrics.poll_errors[Request.METRICS, Outcome.IMPLAUSIBLE])


def raw_tokens(polled: Polled, instance_id: str) -> float | None:
    generated = polled.poller.scrape_targets[instance_id].row.counters.generated
    return None if generated is None else generated.raw


async def test_an_instance_that_counts_faster_than_can_be_adds_nothing_to_the_fleet() -> None:
    server = Server(answering(fleet_metrics(generated_tokens_total=1000)))
    async with serving(server) as port, watching(target("a", port, model="m")) as polled:
        await polled.polled_all()
        server.become(answering(fleet_metrics(generated_tokens_total=2**41, error_count=2**53)))
        await eventually(lambda: 2.0**41 == raw_tokens(polled, "a"))
        page = await polled.page()

    assert 'ollama_fleet_generated_tokens_total{shard="0",model="m"} 0.0\n' in page
    assert 'ollama_fleet_errors_total{shard="0",model="m",error_type="unspecified"} 0.0\n' in page
    assert 1 == value_of(polled.metrics.poll_errors[Request.METRICS, Outcome.IMPLAUSIBLE])


BAD: dict[str, tuple[Handler, Outcome, Status]] = {
    "hung": (hanging, Outcome.TIMEOUT, Status.UNHEALTHY),
    "garbage": (saying(b"\x00\xff\r\n\r\n"), Outcome.MALFORMED, Status.UNHEALTHY),
    "200 with garbage": (saying(response(b"\x00\xff")), Outcome.BAD_BODY, Status.UNHEALTHY),
    "closing in mid-answer": (saying(b"HTTP/1.1 200 O"), Outcome.CLOSED, Status.UNHEALTHY),
    "closing at once": (saying(), Outcome.RESET, Status.UNREACHABLE),
    "loading": (
        saying(response(b"{}", "503 Service Unavailable")),
        Outcome.LOADING,
        Status.LOADING,
    ),
    "failing": (
        saying(response(b"", "500 Internal Server Error")),
        Outcome.HTTP_STATUS,
        Status.UNHEALTHY,
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_instance_has_its_own_outcome_and_is_seen_again_when_it_recovers(
    case: str,
) -> None:
    """It delays nobody meanwhile, and one interval after its recovery it is healthy."""
    bad, outcome, status = BAD[case]
    server = Server(bad)
    async with serving(server) as port, serving(answering(FLEET)) as good_port:
        targets = [target("bad", port), target("good", good_port)]
        poll = hastily_polling if bad is hanging else watching
        async with poll(*targets) as polled:
            # On a busy machine a hung one may be out of time before it is even connected to.
            early = None, Outcome.CONNECT_TIMEOUT
            await eventually(lambda: polled.outcome("bad") not in early)
            assert (outcome, status) == (polled.outcome("bad"), polled.status("bad"))
            await eventually(lambda: polled.status("good") == Status.HEALTHY)
            await polled.polled_again("good")

            polled.be_patient()
            server.become(answering(FLEET))
            # The first of these may have begun before the recovery.
            await polled.polled_again("bad")
            await polled.polled_again("bad")

            assert Status.HEALTHY == polled.status("bad")


@pytest.mark.parametrize(
    ("engine", "bodies", "name"),
    [("fleet", FLEET, "fleet"), ("auto", FLEET, "fleet"), ("auto", OLLAMA, "ollama")],
)
async def test_a_refused_instance_is_seen_again_when_it_listens(
    engine: str, bodies: dict[str, bytes], name: str
) -> None:
    with socket.socket() as reserved:
        port = free_port()
        reserved.bind(("127.0.0.1", port))
        async with watching(target("a", port, engine)) as polled:
            await eventually(lambda: polled.status("a") == Status.UNREACHABLE)
            assert Outcome.REFUSED == polled.outcome("a")
            reserved.close()
            async with serving(answering(bodies), port):
                await eventually(lambda: polled.outcome("a") != Outcome.REFUSED)
                seen = polled.poller.scrape_targets["a"].row.reading
                assert seen is not None
                assert (Outcome.OK, name) == (seen.verdict.outcome, seen.engine)


@pytest.mark.parametrize("engine", ["auto", "fleet"])
async def test_an_instance_that_refuses_costs_no_task_at_each_poll(engine: str) -> None:
    made: list[str] = []

    def make(loop: asyncio.AbstractEventLoop, work: Any) -> asyncio.Task[Any]:
        made.append(repr(work))
        return asyncio.Task(work, loop=loop)

    async with watching(target("a", free_port(), engine)) as polled:
        await polled.polled_again("a")
        asyncio.get_running_loop().set_task_factory(make)
        for _ in range(2):
            await polled.polled_again("a")
        asyncio.get_running_loop().set_task_factory(None)
        assert Outcome.REFUSED == polled.outcome("a")

    assert [] == made


async def test_polls_of_an_instance_are_one_interval_apart() -> None:
    step_s, clock, moments_s = 0.05, HeldClock(1_800_000_000.02), list[float]()
    async with serving(answering(FLEET)) as port:
        async with watching(target("a", port), interval_s=1.0, clock=clock) as polled:

            def has_been_polled_often() -> bool:
                if polled.is_idle("a"):
                    clock.move(step_s)
                if (polled_at_s := polled.polled_at_s("a")) not in (0.0, *moments_s[-1:]):
                    moments_s.append(polled_at_s)
                return len(moments_s) == 5

            await eventually(has_been_polled_often)

    apart_s = [after_s - before_s for before_s, after_s in pairwise(moments_s)]
    assert [pytest.approx(1.0, abs=step_s)] * 4 == apart_s


async def test_an_unchanged_target_keeps_its_connection_when_others_change() -> None:
    server = Server(answering(FLEET))
    async with serving(server) as port, watching(target("a", port), target("b", port)) as polled:
        await eventually(lambda: polled.status("a") == polled.status("b") == Status.HEALTHY)

        await polled.update(target("a", port, developer="ada"), target("c", port))
        await eventually(lambda: polled.status("c") == Status.HEALTHY)
        await polled.polled_again("a")

        assert 3 == server.n_connections
        assert ["a", "c"] == list(polled.poller.scrape_targets)
        assert "ada" == polled.poller.scrape_targets["a"].row.target.developer


async def test_a_removed_instances_series_are_gone_with_the_next_page() -> None:
    async with serving(answering(FLEET)) as port:
        targets = target("a", port, node="n1"), target("b", port, node="n2")
        async with watching(*targets) as polled:
            await eventually(lambda: polled.status("a") == polled.status("b") == Status.HEALTHY)
            assert 'instance_id="b"' in await polled.page()

            await polled.update(targets[0])
            page = await polled.page()

    assert 'instance_id="b"' not in page
    assert 'node="n2"' not in page
    assert 'instance_id="a"' in page


async def test_a_removed_instances_poll_is_cancelled() -> None:
    has_ended = asyncio.Event()

    async def hang_until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hanging(reader, writer)
        has_ended.set()

    server = Server(hang_until_closed)
    async with serving(server) as port, watching(target("a", port)) as polled:
        await eventually(lambda: server.n_connections)

        await polled.update()

        assert {} == polled.poller.scrape_targets
        await eventually(has_ended.is_set)
        assert (0, 1) == (n_errors(polled), server.n_connections)


async def test_an_instance_that_moves_is_polled_at_its_new_place_and_counts_on() -> None:
    """The provisioner replaced it: the first count of the new one only sets the mark."""
    before, after = (
        fleet_metrics(generated_tokens_total=1000),
        fleet_metrics(generated_tokens_total=7),
    )
    async with serving(answering(before)) as old_port, serving(answering(after)) as new_port:
        async with watching(target("a", old_port, model="m")) as polled:
            await eventually(lambda: polled.status("a") == Status.HEALTHY)

            await polled.update(target("a", new_port, model="m"))
            assert Status.UNKNOWN == polled.status("a")
            await eventually(lambda: polled.status("a") == Status.HEALTHY)
            page = await polled.page()

    assert 'ollama_fleet_generated_tokens_total{shard="0",model="m"} 0.0\n' in page
    assert 'instance_id="a",node=""} 1000.0\n' in page


async def test_a_provisioning_instance_is_not_asked_until_it_runs() -> None:
    server = Server(answering(FLEET))
    async with serving(server) as port:
        targets = target("a", port, state=State.PROVISIONING), target("b", port)
        async with watching(*targets) as polled:
            await eventually(lambda: polled.status("b") == Status.HEALTHY)
            await polled.polled_again("b")
            assert (1, Status.PROVISIONING) == (server.n_connections, polled.status("a"))

            await polled.update(target("a", port), target("b", port))
            await eventually(lambda: polled.status("a") == Status.HEALTHY)


async def test_a_draining_instance_is_still_asked() -> None:
    async with serving(answering(FLEET)) as port:
        async with watching(target("a", port, state=State.DRAINING)) as polled:
            await eventually(lambda: polled.outcome("a") == Outcome.OK)
            page = await polled.page()

    assert 'ollama_fleet_instances{shard="0",status="draining"} 1\n' in page
    assert 'ollama_instance_up{instance_id="a",node=""} 1\n' in page


async def test_an_instance_that_is_not_healthy_is_not_asked_for_what_costs_it_work() -> None:
    asked: list[str] = []

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (path := await read_request(reader)) is not None:
            asked.append(path)
            writer.write(response(b"", "500 Broken"))

    async with serving(fail) as port, watching(target("a", port, "ollama")):
        await eventually(lambda: asked.count("/") >= 2)

    assert {"/", "/api/ps", "/api/version"} == set(asked)


async def test_a_mixed_fleet_is_told_apart_and_its_histograms_are_one() -> None:
    """One server of each kind; none is told which it is."""
    asked: dict[str, set[str]] = {}

    def server(name: str) -> Handler:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while (path := await read_request(reader)) is not None:
                asked.setdefault(name, set()).add(path)
                answer = ANSWERS[name].get(path, Answer(404, b""))
                writer.write(response(answer.body, f"{answer.status} ."))

        return serve

    async with AsyncExitStack() as stack:
        ports = {name: await stack.enter_async_context(serving(server(name))) for name in ANSWERS}
        targets = [target(name, port, "auto") for name, port in ports.items()]
        async with watching(*targets) as polled:
            await polled.polled_all()
            await eventually(lambda: all(polled.status(name) is Status.HEALTHY for name in ANSWERS))
            page = await polled.page()
            readings = [polled.poller.scrape_targets[name].row.reading for name in ANSWERS]

    assert [*ANSWERS] == [reading.engine for reading in readings if reading]
    assert {Outcome.OK} == {reading.verdict.metrics_outcome for reading in readings if reading}
    assert not [path for path in asked["sglang"] if "health" in path]
    for boundary_s in (0.0001, 0.1, 0.3, 2400.0, 7680.0):  # of all of them
        assert f'_duration_seconds_bucket{{shard="0",model="m",le="{boundary_s}"}} 0.0\n' in page


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        (FLEET, "fleet"),
        (OLLAMA, "ollama"),
        (LLAMACPP, "llamacpp"),
    ],
)
async def test_auto_finds_out_what_it_polls_and_remembers(
    bodies: dict[str, bytes], expected: str
) -> None:
    asked: Counter[str] = Counter()

    class Counting(dict[str, bytes]):
        def __contains__(self, path: object) -> bool:
            asked[str(path)] += 1
            return super().__contains__(path)

    async with serving(answering(Counting(bodies))) as port:
        async with watching(target("a", port, "auto")) as polled:
            await eventually(lambda: polled.status("a") == Status.HEALTHY)
            probed = Counter(asked)
            for _ in range(3):
                await polled.polled_again("a")
            seen = polled.poller.scrape_targets["a"].row.reading

    assert seen is not None
    assert expected == seen.engine
    assert {path for path in asked if asked[path] > probed[path]} <= set(bodies)


async def test_auto_looks_again_when_another_server_took_the_place() -> None:
    server = Server(answering(FLEET))
    async with serving(server) as port, watching(target("a", port, "auto")) as polled:
        await eventually(lambda: polled.status("a") == Status.HEALTHY)

        server.become(answering(OLLAMA))

        def engine() -> str | None:
            seen = polled.poller.scrape_targets["a"].row.reading
            return None if seen is None else seen.engine

        await eventually(lambda: engine() == "ollama")
        await eventually(lambda: polled.status("a") == Status.HEALTHY)


def ollama(version: str) -> dict[str, bytes]:
    return OLLAMA | {"/api/version": json.dumps({"version": version}).encode()}


@pytest.mark.parametrize("engine", ["auto", "ollama"])
@pytest.mark.parametrize("is_idle", [True, False])
async def test_a_server_that_restarts_between_two_polls_is_asked_for_its_version(
    engine: str, *, is_idle: bool
) -> None:
    """No poll fails: only a kept connection closed, idle or with a request on its way."""
    is_ending = False

    async def first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while path := await read_request(reader):
            if is_ending:
                server.handler = answering(ollama("0.24.0"))
                return
            writer.write(response(ollama("0.23.0").get(path, b"")))

    server = Server(first)
    async with serving(server) as port, watching(target("a", port, engine)) as polled:
        scrape_target = polled.poller.scrape_targets["a"]
        await eventually(lambda: scrape_target.row.counters.version == "0.23.0")
        await polled.polled_again("a")

        is_ending = not is_idle
        if is_idle:
            server.become(answering(ollama("0.24.0")))

        await eventually(lambda: scrape_target.row.counters.version == "0.24.0")
        assert 0 == scrape_target.poll_counts.failed


async def test_a_server_that_keeps_its_connection_is_asked_for_its_version_once() -> None:
    asked: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while path := await read_request(reader):
            asked.append(path)
            writer.write(response(OLLAMA[path]))

    async with serving(handle) as port, watching(target("a", port, "ollama")) as polled:
        for _ in range(4):
            await polled.polled_again("a")

    assert 1 == asked.count("/api/version")


async def test_auto_gives_slow_figures_their_whole_time() -> None:
    """They come after the health time-out, as the probes' last answer does."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            for path in [part.split()[1].decode() for part in data.split(b"\r\n\r\n") if part]:
                if path == "/api/metrics":
                    await asyncio.sleep(0.3)
                known = path in FLEET
                writer.write(response(FLEET[path]) if known else response(b"", "404 Not Found"))

    async with serving(slow) as port:
        auto = target("a", port, "auto")
        async with watching(auto, health_timeout_s=0.1) as polled:
            await eventually(lambda: polled.outcome("a") == Outcome.OK)

            assert (Outcome.OK, Outcome.OK) == polled.outcomes("a")


async def test_figures_that_hang_end_at_the_metrics_timeout_and_leave_it_healthy() -> None:
    async with serving(saying(response(FLEET["/health"]), then_close=False)) as port:
        async with hastily_polling(target("a", port)) as polled:

            def has_ended_soon() -> bool:
                seen = polled.poller.scrape_targets["a"].row.reading
                return (
                    polled.outcomes("a") == (Outcome.OK, Outcome.TIMEOUT)
                    and seen is not None
                    and seen.duration_s < INTERVAL_S
                )

            await eventually(has_ended_soon)


async def test_an_instance_removed_in_the_middle_of_a_poll_is_let_go() -> None:
    """The poll is under way over the kept connection; cycles go on, and nothing is recorded."""
    asked = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(response(FLEET["/health"]) + response(FLEET["/api/metrics"]))
        await reader.read(4096)
        asked.set()
        await reader.read()

    server = Server(handle)
    async with serving(server) as port, watching(target("a", port)) as polled:
        await eventually(lambda: polled.status("a") == Status.HEALTHY)
        await eventually(asked.is_set)

        await polled.update()
        await cycles_have_ended(polled, n=2)

    assert (0, 1) == (n_errors(polled), server.n_connections)


async def test_the_loop_turns_between_polls_and_rows_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All are due in the same tick, as the interval has but one."""
    n_turns = 0
    begun_in: Counter[int] = Counter()
    begin = ScrapeTarget.start_poll

    async def turn() -> None:
        nonlocal n_turns
        while True:
            n_turns += 1
            await asyncio.sleep(0)

    def note(scrape_target: ScrapeTarget) -> PollStart:
        begun_in[n_turns] += 1
        return begin(scrape_target)

    monkeypatch.setattr(ScrapeTarget, "start_poll", note)
    port = free_port()
    targets = [target(f"{n:04}", port) for n in range(3 * STEP)]
    turning = asyncio.create_task(turn())
    async with watching(*targets, interval_s=TICK_S) as polled:
        await polled.polled_all()

        assert max(begun_in.values()) <= 2 * AT_ONCE
        assert 3 == sum(1 for _ in polled.poller.rows())
    turning.cancel()


async def test_polls_are_counted_and_loading_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loading = saying(response(b"{}", "503 Service Unavailable"))
    async with serving(loading) as port, watching(target("a", port)) as polled:
        await eventually(lambda: value_of(polled.metrics.polls) >= 1)
        poll_counts = polled.poller.scrape_targets["a"].poll_counts

        assert poll_counts.tried >= 1
        assert (0, 0) == (poll_counts.failed, n_errors(polled))
    assert [] == [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]


async def test_an_instance_that_loads_for_too_long_is_unhealthy_until_it_has_loaded() -> None:
    answers = [response(b"{}", "503 Service Unavailable")]

    async def load(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader) is not None:
            writer.write(answers[0])

    async with serving(load) as port:
        async with watching(target("a", port), loading_timeout_s=2.0) as polled:
            await eventually(lambda: polled.status("a") is Status.LOADING)
            await eventually(lambda: polled.outcome("a") is Outcome.LOADING_TIMEOUT)
            failure = polled.poller.scrape_targets["a"].last_failure

            assert Status.UNHEALTHY is polled.status("a")
            assert failure is not None
            assert "poll.loading-timeout" in failure.detail
            answers[0] = response(b"ok")
            await eventually(lambda: polled.status("a") is Status.HEALTHY)
            answers[0] = response(b"{}", "503 Service Unavailable")
            await eventually(lambda: polled.status("a") is not Status.HEALTHY)
            assert Status.LOADING is polled.status("a")


async def test_an_ollama_is_asked_for_the_metrics_that_it_has_with_each_poll() -> None:
    asked: list[str] = []
    metrics = b"# TYPE x counter\n# TYPE ollama_eval_total counter\nollama_eval_total 7\n"
    bodies = {**OLLAMA, "/metrics": metrics, "/api/tags": b'{"models":[{"name":"m:latest"}]}'}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (path := await read_request(reader)) is not None:
            asked.append(path)
            known = path in bodies
            writer.write(response(bodies[path]) if known else response(b"", "404 Not Found"))

    async with serving(serve) as port, watching(target("a", port, "auto")) as polled:
        await eventually(lambda: asked.count("/metrics") >= 3)
        counters = polled.poller.scrape_targets["a"].row.counters

        assert 1 == asked.count("/api/tags") == asked.count("/api/version")
        assert ("m",) == counters.installed
        assert counters.generated is not None


async def test_aggregates_wait_for_the_first_whole_cycle() -> None:
    """Some hang: until the last of their polls has ended, no page tells what others have said."""
    async with serving(hanging) as hung_port, serving(answering(FLEET)) as port:
        targets = target("a", port), *targets_in_every_tick(hung_port)
        async with polling_over_cycles(*targets) as polled:
            publishing = asyncio.create_task(polled.publisher.run(60.0))
            await eventually(lambda: polled.publisher.rendered_scrape)

            assert None not in outcomes_of_all(polled)
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)


def targets_in_every_tick(port: int) -> list[Target]:
    return [target(f"i{n}", port) for n in range(200)]


def outcomes_of_all(polled: Polled) -> set[Outcome | None]:
    return {polled.outcome(name) for name in polled.poller.scrape_targets}


async def test_failures_are_counted_by_request_and_reason() -> None:
    no_metrics = {"/health": FLEET["/health"]}
    async with serving(answering(no_metrics)) as port, watching(target("a", port)) as polled:
        await eventually(lambda: counted_failures(polled))
        assert {("metrics", "http_status")} == counted_failures(polled)

    async with serving(hanging) as port, hastily_polling(target("a", port)) as polled:
        await eventually(lambda: ("health", "timeout") in counted_failures(polled))
        early = {("health", "connect_timeout")}  # as a busy machine may see it
        assert {("health", "timeout")} == counted_failures(polled) - early


def counted_failures(polled: Polled) -> set[tuple[str, str]]:
    """Return which requests have failed for which reasons."""
    return {
        (str(request), str(reason))
        for (request, reason), counter in polled.metrics.poll_errors.items()
        if value_of(counter)
    }


async def test_hundreds_of_names_that_hang_delay_no_poll_of_a_good_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They were there first, and their look-ups never end."""
    over = threading.Event()

    def getaddrinfo(host: str, *_: object, **__: object) -> list[object]:
        if host != "good":
            over.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    dead = [Target(f"dead-{n}", f"dead-{n}", 1) for n in range(400)]
    try:
        async with serving(answering(FLEET)) as port, watching(*dead) as polled:
            await eventually(lambda: 400 == sum(not polled.is_idle(one.id) for one in dead))
            await polled.update(*dead, Target("good", "good", port, engine="fleet"))
            for _ in range(3):
                await polled.polled_again("good")
                assert Outcome.OK == polled.outcome("good")
            assert {None} == {polled.outcome(one.id) for one in dead}
    finally:
        over.set()


async def test_a_fault_of_our_own_in_one_poll_is_logged_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(counters: object, values: object, of: Target, **rest: float) -> object:
        if of.id == "a":
            raise RuntimeError("a bug")
        return update(counters, values, of, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr("exporter.scrape_target.update", broken)
    with caplog.at_level(logging.ERROR, "exporter.poller"):
        async with serving(answering(FLEET)) as port:
            async with watching(target("a", port), target("b", port)) as polled:
                await eventually(lambda: polled.status("b") == Status.HEALTHY)
                await eventually(polled.poller.has_seen_all.is_set)
                await eventually(lambda: "bug in a poll instance=a" in caplog.text)


async def test_a_fault_of_our_own_over_a_kept_connection_is_logged_and_ends_no_cycle(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("a bug")

    async with serving(answering(FLEET)) as port, watching(target("a", port)) as polled:
        await eventually(lambda: polled.status("a") == Status.HEALTHY)
        with caplog.at_level(logging.ERROR), monkeypatch.context() as patch:
            patch.setattr("exporter.scrape_target.update", broken)
            await eventually(lambda: "a bug" in caplog.text)
        await cycles_have_ended(polled, n=2)

        assert Status.HEALTHY == polled.status("a")


class LeapingClock:
    """A clock that sleeps at once, and once stalls for a long time."""

    def __init__(self, *, stall_s: float, end_s: float) -> None:
        self._now_s = 0.0
        self._stall_s = stall_s
        self._end_s = end_s
        self.n_sleeps = 0

    def monotonic_s(self) -> float:
        return self._now_s

    def unix_s(self) -> float:
        return 1_800_000_000.0 + self._now_s

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(0)
        self.n_sleeps += 1
        self._now_s += max(duration_s, 1e-6)
        if self._stall_s and self._now_s > 5.0:
            self._now_s += self._stall_s
            self._stall_s = 0.0
        if self._now_s > self._end_s:
            raise asyncio.CancelledError


class SluggishClock(LeapingClock):
    """A clock of a machine that stalls for longer than an interval, again and again."""

    async def sleep(self, duration_s: float) -> None:
        await super().sleep(duration_s + 25.0)


async def _cycles(clock: LeapingClock) -> Polled:
    async with watching(interval_s=10.0, clock=clock) as polled:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
    return polled


async def test_a_cycle_ends_every_interval() -> None:
    polled = await _cycles(LeapingClock(stall_s=0.0, end_s=105.0))

    assert 10 == value_of(polled.metrics.cycles)
    assert pytest.approx(10.0, abs=0.1) == value_of(polled.metrics.cycle_duration_s)


async def test_each_poll_is_counted_soon_after_it_ended_not_with_its_cycle() -> None:
    clock = HeldClock()
    async with serving(answering(fleet_metrics())) as port:
        async with watching(target("a", port), interval_s=1000.0, clock=clock) as polled:

            def is_polled() -> bool:
                clock.move(1.0)
                return polled.outcome("a") is not None

            await eventually(is_polled)
            clock.move(1.0)
            await eventually(lambda: value_of(polled.metrics.polls) > 0)

            assert (1, 0) == (value_of(polled.metrics.polls), value_of(polled.metrics.cycles))


async def test_after_a_long_stall_only_one_interval_is_made_up_for() -> None:
    """The stalled cycle ends right after it, and one more in what is left."""
    polled = await _cycles(LeapingClock(stall_s=1000.0, end_s=1024.0))

    assert 2 == value_of(polled.metrics.cycles)


async def test_a_long_stall_ends_no_cycle_in_which_some_instance_was_never_due() -> None:
    """It begins in the middle of the first cycle; what was leapt over is due only after it."""
    polled = await _cycles(LeapingClock(stall_s=1000.0, end_s=1005.15))

    assert (0, False) == (value_of(polled.metrics.cycles), polled.poller.has_seen_all.is_set())


async def test_cycles_end_though_each_poll_begins_after_a_long_stall() -> None:
    """Each stall brings every instance its turn, and each but the first at least ends a cycle."""
    clock = SluggishClock(stall_s=0.0, end_s=260.0)
    polled = await _cycles(clock)

    n_stalls = clock.n_sleeps - 1  # the last one was cancelled
    assert n_stalls - 1 <= value_of(polled.metrics.cycles)


async def test_polls_that_begin_late_are_told() -> None:
    polled = await _cycles(LeapingClock(stall_s=4.0, end_s=15.0))

    assert pytest.approx(4.0, abs=0.3) == value_of(polled.metrics.poll_lateness_s)


INTERVAL_S = 10.0


@pytest.mark.parametrize(
    ("instance_id", "expected_s"),
    [
        ("a", 2.625896),
        ("node-1:11434", 7.677636),
        ("ollama-00042", 8.167231),
        ("größe", 8.748411),
    ],
)
def test_an_instance_keeps_its_phase_from_release_to_release(
    instance_id: str, expected_s: float
) -> None:
    """A changed hash would move every instance's polls on an upgrade: that must be meant."""
    assert pytest.approx(expected_s, abs=1e-6) == phase_s(instance_id, INTERVAL_S)


def test_phases_are_spread_evenly() -> None:
    """Pearson's chi-square over 100 equal parts: above 150 happens by chance once in 1,000."""
    counts = Counter(int(phase_s(f"ollama-{n:05}", 100.0)) for n in range(10_000))
    expected = 10_000 / 100

    assert sum((counts[part] - expected) ** 2 / expected for part in range(100)) < 150


def test_each_item_is_due_once_in_an_interval_at_its_phase() -> None:
    wheel: Wheel[str] = Wheel(INTERVAL_S)
    names = [f"i{n}" for n in range(500)]
    for name in names:
        wheel.add(name, name)

    due = [(name, tick) for tick in range(wheel.n_slots) for name in wheel.due(tick)]

    assert sorted(names) == sorted(name for name, _ in due)
    for name, tick in due:
        starts_s = wheel.starts_at_s(tick)
        assert starts_s <= phase_s(name, INTERVAL_S) < starts_s + wheel.tick_s + 1e-9


def test_an_item_under_the_same_id_is_replaced_and_a_removed_one_is_gone() -> None:
    wheel: Wheel[str] = Wheel(1.0)
    wheel.add("a", "old")
    wheel.add("a", "new")
    assert ["new"] == [item for tick in range(wheel.n_slots) for item in wheel.due(tick)]

    wheel.remove("a")
    wheel.remove("never there")

    assert [] == [item for tick in range(wheel.n_slots) for item in wheel.due(tick)]


def test_a_long_interval_does_not_cost_memory() -> None:
    wheel: Wheel[str] = Wheel(1e9)

    assert MAX_SLOTS == wheel.n_slots
    assert pytest.approx(1e9) == wheel.n_slots * wheel.tick_s


async def test_a_poll_that_outlasts_its_interval_is_not_started_twice() -> None:
    async with (
        serving(hanging) as port,
        serving(answering(FLEET)) as other,
        polling(
            target("a", port),
            target("b", other),
            interval_s=0.3,
            health_timeout_s=PATIENCE_S,
            metrics_timeout_s=PATIENCE_S,
        ) as polled,
    ):
        for _ in range(4):
            await polled.polled_again("b")

        polls = [task for task in asyncio.all_tasks() if "Poller._poll" in repr(task.get_coro())]
        assert 1 == len(polls)
