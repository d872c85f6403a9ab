"""The path between Prometheus and the exporter, which can be broken: a TCP proxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from provisioning.demo.ports import LOOPBACK

CHUNK_BYTES = 262_144


class Path:
    """A path that is whole until somebody breaks it."""

    def __init__(self, exporter_port: int) -> None:
        self._exporter_port = exporter_port
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def break_off(self) -> None:
        """Let nothing through any more."""
        self._whole.clear()

    def mend(self) -> None:
        """Let everything through again."""
        self._whole.set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            try:
                await self._whole.wait()
                onwards = await asyncio.open_connection(LOOPBACK, self._exporter_port)
                await self._both_ways((reader, writer), onwards)
            finally:
                writer.close()

    async def _both_ways(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        exporter: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._one_way(client[0], exporter[1]))
                ways.create_task(self._one_way(exporter[0], client[1]))
        except* OSError:
            pass
        finally:
            exporter[1].close()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes until one side ends, which ends the other way too."""
        while chunk := await reader.read(CHUNK_BYTES):
            await self._whole.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError("one side has ended the connection")


@asynccontextmanager
async def path(port: int, exporter_port: int) -> AsyncIterator[Path]:
    """Listen until the block ends."""
    made = Path(exporter_port)
    server = await asyncio.start_server(made.accept, LOOPBACK, port)
    try:
        yield made
    finally:
        server.close()
        await made.close()
        await server.wait_closed()
