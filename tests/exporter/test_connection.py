"""What polls leave behind, counted without the garbage collector: the exporter hardly lets it come.

Counted are objects, not bytes: one that stays after each poll is all that is there after a day.
"""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import TypeVar

import pytest

from exporter.connection import (
    Bounds,
    Connection,
    Deadlines,
    Exchange,
    OpenConnections,
    connect_error,
)
from exporter.errors import PollError
from exporter.model import Outcome, Target
from tests.exporter.pollers import Polled, hastily_polling, target
from tests.exporter.servers import Handler, answering, hanging, response, saying, serving
from tests.ports import free_port
from tests.waiting import eventually

N_POLLS = 5
T = TypeVar("T")


async def resetting(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


SERVERS: dict[str, Handler] = {
    "healthy": answering({"/health": b"ok", "/api/metrics": b'{"tokens_per_second":42}'}),
    "closes after each answer": saying(response(b"x" * 500_000, "200 OK", "Connection: close")),
    "too large": saying(response(b"x" * 2_000_000)),
    "too large, without a length": saying(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000_000),
    "cut off": saying(response(b"x" * 100)[:-1]),
    "malformed": saying(b"\x00\xffnonsense\r\n\r\n"),
    "hangs": hanging,
    "hangs in the body": saying(response(b"x" * 100)[:-1], then_close=False),
    "says one of two": saying(response(), then_close=False),
    "resets": resetting,
}


@pytest.fixture
async def fleet_without_collector() -> AsyncIterator[Polled]:
    """An instance of each kind, each polled several times."""
    async with AsyncExitStack() as stack:
        targets = [
            target(kind, await stack.enter_async_context(serving(handler)))
            for kind, handler in SERVERS.items()
        ]
        targets.append(target("refuses", free_port()))
        targets.append(Target("no name", "no-such-host.invalid", 80, engine="fleet"))
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        polled = await stack.enter_async_context(hastily_polling(*targets))
        scrape_targets = polled.poller.scrape_targets.values()
        await eventually(
            lambda: all(
                scrape_target.poll_counts.tried >= N_POLLS for scrape_target in scrape_targets
            )
        )
        yield polled


async def test_the_connections_in_memory_are_those_that_are_open_and_counted(
    fleet_without_collector: Polled,
) -> None:
    registry = fleet_without_collector.metrics.registry

    def are_all_open_and_counted() -> bool:
        connections = alive(Connection)
        n_counted = registry.get_sample_value("ollama_exporter_open_connections")
        return all(one.is_open for one in connections) and n_counted == len(connections)

    await eventually(are_all_open_and_counted)


async def test_no_failure_stays_with_the_frames_of_its_poll(
    fleet_without_collector: Polled,
) -> None:
    def are_all_gone() -> bool:
        failures = [*alive(PollError), *alive(socket.gaierror)]
        # Other tests' parameters were never raised.
        return not any(failure.__traceback__ for failure in failures)

    await eventually(are_all_gone)


def alive(kind: type[T]) -> list[T]:
    return [one for one in gc.get_objects() if isinstance(one, kind)]


def bound_alike() -> dict[str, socket.socket]:
    """Return sockets on one port of three addresses: as long as they do not listen, they refuse."""
    sockets = {address: socket.socket() for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3")}
    port = 0
    try:
        for address, one in sockets.items():
            one.bind((address, port))
            port = port_of(one)
    except OSError:  # another program has it at one of them
        close(sockets)
        return bound_alike()
    return sockets


def close(sockets: dict[str, socket.socket]) -> None:
    for one in sockets.values():
        one.close()


@pytest.fixture
def held() -> Iterator[dict[str, socket.socket]]:
    """Sockets by address, so that nobody else listens on their port while a test goes on."""
    sockets = bound_alike()
    yield sockets
    close(sockets)


@pytest.fixture
def listener(held: dict[str, socket.socket]) -> socket.socket:
    """Listens on 127.0.0.2 only, so that 127.0.0.1 and 127.0.0.3 refuse the same port."""
    held["127.0.0.2"].listen()
    return held["127.0.0.2"]


@pytest.fixture
def full(held: dict[str, socket.socket]) -> Iterator[socket.socket]:
    """Listens on 127.0.0.2, and is silent: its backlog is taken."""
    listening = held["127.0.0.2"]
    listening.listen(0)
    with socket.create_connection(listening.getsockname()):
        yield listening


@pytest.fixture
def other(held: dict[str, socket.socket]) -> socket.socket:
    """Listens on the same port of 127.0.0.3; accepting fails where nobody has connected."""
    held["127.0.0.3"].listen()
    held["127.0.0.3"].setblocking(False)
    return held["127.0.0.3"]


def port_of(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port


class Asked:
    """One request over a connection of its own to the first address that accepts."""

    def __init__(self, addresses: list[str], port: int, within_s: float = 100.0) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + within_s
        target = Target("asked", addresses[0], port)
        self.connection = Connection(loop, target, Bounds(), OpenConnections())
        self.connection.connect_to(addresses)
        self.exchange: asyncio.Future[Exchange] = loop.create_future()
        deadlines = Deadlines(deadline_s, deadline_s)
        self.connection.send(b"GET / HTTP/1.1\r\n\r\n", 1, deadlines, self.exchange.set_result)

    async def fails(self) -> PollError:
        """Return why no answer came."""
        failure = (await self.exchange).failure
        assert failure is not None
        return failure


@pytest.mark.parametrize("refuses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.3"], ["::1"]])
async def test_the_next_address_is_tried_where_one_fails(
    refuses: list[str], listener: socket.socket
) -> None:
    asked = Asked([*refuses, "127.0.0.2"], port_of(listener))

    await eventually(lambda: asked.connection.is_open)
    listener.accept()[0].close()
    assert Outcome.RESET == (await asked.fails()).outcome


async def test_the_reason_of_a_reset_is_without_the_systems_number(listener: socket.socket) -> None:
    asked = Asked(["127.0.0.2"], port_of(listener))
    await eventually(lambda: asked.connection.is_open)
    accepted, _ = listener.accept()
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    accepted.close()

    wanted = "closed before the first byte of an answer (Connection reset by peer)"
    assert wanted == (await asked.fails()).detail


def test_a_reset_has_one_cause() -> None:
    """That the connection was made and then closed; not that it could not be made."""
    failure = connect_error(target("a", 1), ConnectionResetError(104, "x"))

    assert Outcome.RESET == failure.outcome
    assert "closed before the first byte of an answer (Connection reset by peer)" == failure.detail


async def test_the_first_address_that_accepts_is_the_only_one_connected_to(
    listener: socket.socket, other: socket.socket
) -> None:
    asked = Asked(["127.0.0.2", "127.0.0.3"], port_of(listener))

    await eventually(lambda: asked.connection.is_open)
    asked.connection.close()
    listener.accept()[0].close()
    with pytest.raises(BlockingIOError):
        other.accept()


async def test_a_refusal_nearby_is_known_at_once(listener: socket.socket) -> None:
    asked = Asked(["127.0.0.1", "127.0.0.3"], port_of(listener))

    assert asked.exchange.done()
    assert Outcome.REFUSED == (await asked.fails()).outcome


async def test_the_first_error_is_reported_where_all_fail(listener: socket.socket) -> None:
    addresses = ["127.0.0.1", "255.255.255.255", "127.0.0.3"]

    first = await Asked(addresses, port_of(listener)).fails()
    second = await Asked(addresses[1:], port_of(listener)).fails()

    assert [Outcome.REFUSED, Outcome.CONNECT_FAILED] == [first.outcome, second.outcome]
    assert re.search(r"Permission denied|unreachable", str(second))


async def test_a_refusal_that_comes_late_leads_to_the_next_address(
    full: socket.socket, other: socket.socket
) -> None:
    asked = Asked(["127.0.0.2", "127.0.0.3"], port_of(full))
    assert not asked.exchange.done()
    full.close()  # the next attempt of the kernel, a second later, is refused

    await eventually(lambda: asked.connection.is_open)
    other.accept()[0].close()
    assert Outcome.RESET == (await asked.fails()).outcome


async def test_silence_takes_all_the_time(full: socket.socket, other: socket.socket) -> None:
    failure = await Asked(["127.0.0.2", "127.0.0.3"], port_of(full), within_s=0.1).fails()

    assert Outcome.CONNECT_TIMEOUT == failure.outcome
    with pytest.raises(BlockingIOError):
        other.accept()


async def test_the_deadline_is_for_all_addresses_together(full: socket.socket) -> None:
    """Would each silent one have half a second of its own, it would be longer than a test may."""
    addresses = ["127.0.0.1", *["127.0.0.2"] * 1000]

    failure = await Asked(addresses, port_of(full), within_s=0.5).fails()

    assert Outcome.CONNECT_TIMEOUT == failure.outcome


async def test_a_connection_that_is_given_up_while_it_connects_is_closed(
    full: socket.socket,
) -> None:
    asked = Asked(["127.0.0.2"], port_of(full))

    asked.connection.close()

    assert Outcome.CLOSED == (await asked.fails()).outcome
    full.accept()[0].close()  # there is room again, and nobody comes
    full.settimeout(2.0)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(full.accept)
