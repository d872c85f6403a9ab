"""A plain client of simulated instances, for tests that look at bytes and sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from provisioning.simulator import runner
from provisioning.simulator.app import RunningFleet
from provisioning.simulator.fleet import ActiveFault
from provisioning.simulator.runner import Runners
from provisioning.simulator.spec import Instance

ANSWER_S = 100.0
SILENCE_S = 0.3


class FakeClock:
    """A wall clock in the test's hand."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection to one instance."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def get(
        self, path: str, *, method: str = "GET", host: str = "localhost", more: str = ""
    ) -> Answer:
        self.send(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())
        return await self.read_answer(has_body=method != "HEAD")

    async def post(self, path: str, body: object, *, method: str = "POST") -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        length = f"Content-Length: {len(data)}"
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n"
        self.send(head.encode() + data)
        return await self.read_answer()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read_answer(self, *, has_body: bool = True) -> Answer:
        async with asyncio.timeout(ANSWER_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            assert first.startswith("HTTP/1."), first
            headers = {
                name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
            }
            if headers.get("transfer-encoding") == "chunked":
                body = b"".join([piece async for piece in self._chunks()])
            else:
                body = await self.reader.readexactly(
                    int(headers.get("content-length", 0)) * has_body
                )
            return Answer(int(first.split()[1]), headers, body)

    async def read_rest_of_chunks(self) -> bytes:
        async with asyncio.timeout(ANSWER_S):
            return b"".join([piece async for piece in self._chunks()])

    async def _chunks(self) -> AsyncIterator[bytes]:
        while n_bytes := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(n_bytes + 2))[:-2]
        await self.reader.readexactly(2)

    async def read_rest(self) -> bytes:
        async with asyncio.timeout(ANSWER_S):
            return await self.reader.read()

    async def hears_nothing(self, *, within_s: float = SILENCE_S) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def connected(fleet: RunningFleet, instance: Instance | int = 0) -> AsyncIterator[Client]:
    """Connect to one instance, by index or itself."""
    if isinstance(instance, int):
        instance = fleet.fleet.instances[instance]
    reader, writer = await asyncio.open_connection(instance.address, instance.port or fleet.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def get(fleet: RunningFleet, index: int, path: str) -> Answer:
    """ModelJob one instance over a connection of its own."""
    async with connected(fleet, index) as client:
        return await client.get(path)


def victim(active: ActiveFault) -> int:
    """Return the index of the one instance that a fault befalls."""
    (index,) = active.indices
    return index


def clock_of_sleeping(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Return a clock that the generator goes by, and which moves only as the generator sleeps."""
    clock = FakeClock()

    async def sleep(duration_s: float) -> None:
        clock.now_s += duration_s

    monkeypatch.setattr(runner, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    monkeypatch.setattr(Runners, "_loop_s", lambda _: clock())
    return clock
