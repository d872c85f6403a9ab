"""Canaries of bad servers and of a real llama-server, their schedule, and what follows."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import ssl
from dataclasses import replace

import pytest
import trustme

from exporter.canary import CanaryResult, CanaryScheduler, TimedConnection, next_state
from exporter.model import CanaryOutcome, CanaryState, State, Target
from tests.conftest import StartLlamaServer
from tests.exporter.canaries import (
    ANSWER,
    IDLE,
    PERIOD_S,
    answering,
    asked_again,
    asking,
    canarying,
    llama_server,
    n_results,
    read_head,
    state,
)
from tests.exporter.engines.bodies import LLAMACPP_METRICS
from tests.exporter.engines.test_generation import LLAMACPP_LINES
from tests.exporter.fetching import fetch
from tests.exporter.pollers import Polled, target, watching
from tests.exporter.servers import response, serving
from tests.exporter.ui.building import HeldClock
from tests.llama import LlamaServer
from tests.waiting import eventually


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
            b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 66_000,
            CanaryOutcome.ERROR,
            "larger than 65,536 bytes; reduce canary.tokens",
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
        changed = {"concurrency": 2, "patience_s": 100.0}
        async with watching(*targets) as polled, canarying(polled, **changed) as canary:
            most = await most_under_way(polled, canary, CanaryOutcome.OK, n=8, at_least=2)

    assert 2 == most


async def test_those_that_wait_make_room_for_others_up_to_a_bound() -> None:
    """Of 16 two at once, of which 14 are frozen: the others are asked again and again."""

    async def freeze(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    well = llama_server(answering(response(ANSWER)))
    async with serving(llama_server(freeze)) as frozen, serving(well) as port:
        targets = [target(f"i{n}", frozen, engine="llamacpp") for n in range(14)]
        targets += [target(f"j{n}", port, engine="llamacpp") for n in range(2)]
        changed = {"concurrency": 1, "patience_s": 0.02, "timeout_s": 2.0}
        async with watching(*targets) as polled, canarying(polled, **changed) as canary:
            most = await most_under_way(polled, canary, CanaryOutcome.STALLED, n=20, at_least=10)
            await asked_again(polled, CanaryOutcome.OK)

    assert 10 == most


async def test_one_that_waits_for_its_re_poll_makes_no_room() -> None:
    """Each answer of a re-poll may be large: no more than `concurrency` may come at once."""

    async def answer_polls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer nothing on a connection on which `/props` was not asked for, as a first poll."""
        bodies = {"/health": b'{"status":"ok"}', "/metrics": IDLE}
        held, is_poll = b"", False
        while head := await read_head(reader):
            path = head.split(b" ", 2)[1].decode()
            held += response(bodies.get(path, b"{}"))
            is_poll = is_poll or path == "/props"
            if is_poll:
                writer.write(held)
                held = b""

    async with serving(answer_polls) as port:
        targets = [target(f"i{n}", port, engine="llamacpp") for n in range(4)]
        changed = {"concurrency": 1, "patience_s": 0.02, "timeout_s": 0.3}
        async with watching(*targets) as polled, canarying(polled, **changed) as canary:
            most = await most_under_way(polled, canary, CanaryOutcome.STALLED, n=3, at_least=1)

    assert 1 == most


async def most_under_way(
    polled: Polled, canary: CanaryScheduler, until: CanaryOutcome, *, n: int, at_least: int
) -> int:
    """Return how many canaries were under way at most, until so many more have ended so."""
    before, most = n_results(polled, until), 0

    def have_ended() -> bool:
        nonlocal most
        most = max(most, int(repr(canary).split()[1]))
        return n_results(polled, until) >= before + n and most >= at_least

    await eventually(have_ended)
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
        async with watching(*targets.values()) as polled:
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


async def test_an_https_instance_is_asked_as_it_is_polled() -> None:
    """By its name, with the CA of the polls."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    handler = llama_server(answering(response(ANSWER)))
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    one = Target("a", "localhost", port, tls=True, engine="llamacpp")
    async with watching() as polled:
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

NOT_AT_A_TICK_S = 1_800_000_000.05


async def test_the_speed_of_a_real_llama_server_is_its_own(
    start_llama_server: StartLlamaServer,
) -> None:
    """It leaves out what the canary took besides; a thousand times as much is implausible."""
    server, clock = await start_llama_server(), HeldClock(NOT_AT_A_TICK_S)
    before = await _n_tokens(server)
    async with watching(target("a", server.port, engine="llamacpp"), clock=clock) as polled:
        async with canarying(polled, n_tokens=64) as canary:
            await until_ended(polled, canary, clock, CanaryOutcome.OK, period_s=PERIOD_S)
            known = state(polled)

    assert known is not None
    assert known.generation is not None
    assert 64 == await _n_tokens(server) - before
    speed, duration_s = known.generation.tokens_per_second, known.generation.duration_s
    assert speed is not None
    assert speed > 64 / duration_s


async def until_ended(
    polled: Polled,
    canary: CanaryScheduler,
    clock: HeldClock,
    how: CanaryOutcome,
    *,
    period_s: float,
) -> None:
    """Move the clock, by a period at a time and never during a canary, until one has ended so."""
    before = n_results(polled, how)

    def has_ended() -> bool:
        is_over = n_results(polled, how) > before
        if not is_over and " 0 under way" in repr(canary):
            clock.move(period_s)
        return is_over

    await eventually(has_ended)


async def _n_tokens(server: LlamaServer) -> float:
    """Return how many tokens it has generated."""
    page = (await fetch(server.port, "/metrics")).text
    (n_tokens,) = re.findall(r"^llamacpp:tokens_predicted_total (\S+)", page, re.MULTILINE)
    return float(n_tokens)


async def test_a_frozen_llama_server_is_stalled_within_a_period_and_the_deadline(
    start_llama_server: StartLlamaServer,
) -> None:
    """It is polled so seldom that the poll still has it for healthy."""
    server, clock = await start_llama_server(), HeldClock(NOT_AT_A_TICK_S)
    one = target("a", server.port, engine="llamacpp")
    async with watching(one, interval_s=36_000.0, clock=clock) as polled:
        async with canarying(polled, period_s=2.0, timeout_s=1.0) as canary:
            scrape_target = polled.poller.scrape_targets["a"]
            await scrape_target.poll(scrape_target.start_poll())
            await until_ended(polled, canary, clock, CanaryOutcome.OK, period_s=2.0)
            server.process.send_signal(signal.SIGSTOP)
            clock.move(2.0)
            await asked_again(polled, CanaryOutcome.STALLED, n=1)
            server.process.send_signal(signal.SIGCONT)
            await until_ended(polled, canary, clock, CanaryOutcome.OK, period_s=2.0)


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
