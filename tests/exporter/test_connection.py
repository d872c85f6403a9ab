"""What polls leave behind, counted without the garbage collector: the exporter hardly lets it come.

Counted are objects, not bytes: one that stays after each poll is all that is there after a day.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TypeVar

import pytest

from exporter.connection import Connection
from exporter.errors import PollError
from exporter.model import EngineName, Target
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
        targets.append(Target("no name", "no-such-host.invalid", 80, engine=EngineName.FLEET))
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
