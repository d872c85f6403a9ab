"""Canaries of bad servers and of a real llama-server, their schedule, and what follows."""

from __future__ import annotations

import asyncio
import gc
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
from tests.exporter.pollers import Polled, polling, target
from tests.exporter.servers import response, serving
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
        async with polling(*targets) as polled, canarying(polled, **changed) as canary:
            assert 1 == await most_under_way(polled, canary, CanaryOutcome.STALLED, n=3)


async def most_under_way(
    polled: Polled, canary: CanaryScheduler, until: CanaryOutcome, *, n: int
) -> int:
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
