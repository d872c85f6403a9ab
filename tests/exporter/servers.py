"""Loopback servers that answer as badly as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def response(body: bytes = b"ok", status: str = "200 OK", *headers: str) -> bytes:
    """Return a whole HTTP/1.1 answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def read_request(reader: asyncio.StreamReader) -> str | None:
    """Return the path of the next request; None when the client has gone."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return head.split(b" ", 2)[1].decode()


@asynccontextmanager
async def serving(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """Serve on a loopback port (0: a free one); yield it. What still runs at the end is cut off."""
    handlers: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        writers.append(writer)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            handlers.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


def answering(bodies: dict[str, bytes], *, status: str = "200 OK") -> Handler:
    """Return a handler that answers known paths and says 404 to others, keeping connections."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (path := await read_request(reader)) is not None:
            known = path in bodies
            answer = response(bodies[path], status) if known else response(b"", "404 Not Found")
            writer.write(answer)
            await writer.drain()

    return handle


def saying(*pieces: bytes, then_close: bool = True) -> Handler:
    """Return a handler that says the same to whatever the first request is."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if not then_close:
            await reader.read()

    return handle


async def hanging(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Take requests and never answer."""
    while await reader.read(1024):
        pass
