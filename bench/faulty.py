"""Servers that answer badly, each kind on a port of its own: `python -m bench.faulty`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import click
import uvloop

from tests.exporter.servers import Handler, read_request, response, saying

LARGE_BYTES = 2_000_000
"""More than `poll.max-body-bytes` allows."""
BULKY_BYTES = 500_000
"""Less than that."""
PIECE = b"x" * 64_000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIP_S = 0.05


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer well and at length, over a connection for each answer."""
    path = await read_request(reader)
    body = b'{"status":"ok"}' if path == "/health" else b'{"x":"%s"}' % (b"x" * BULKY_BYTES)
    writer.write(response(body, "200 OK", "Connection: close"))
    await writer.drain()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send an answer byte by byte."""
    await read_request(reader)
    for byte in response(b"x" * 1000):
        writer.write(bytes((byte,)))
        await asyncio.sleep(DRIP_S)


def endless(*pieces: bytes) -> Handler:
    """Return a handler that says some pieces and then never stops."""
    return saying(*pieces, *[PIECE] * (2 * LARGE_BYTES // len(PIECE)))


HEALTH = response(b'{"status":"ok"}')
HANDLERS: Mapping[str, Handler] = {
    "healthy, closes after each answer of 500 kB": closing,
    "announces too large a body": saying(response(b"x" * LARGE_BYTES)),
    "sends too large a body": endless(b"HTTP/1.1 200 OK\r\n\r\n"),
    "sends an endless header": endless(b"HTTP/1.1 200 OK\r\nX: "),
    "sends endless trailers": endless(CHUNKED + b"2\r\nok\r\n0\r\nX: "),
    "answers one of two requests": saying(HEALTH, then_close=False),
    "answers once too often": saying(HEALTH * 3, then_close=False),
    "drips": dripping,
}
"""By kind; the first one answers well."""


async def serve(first_port: int) -> None:
    """Serve each kind on a port of its own, in the order of the handlers."""
    for port, handler in enumerate(HANDLERS.values(), first_port):
        await asyncio.start_server(_ending(handler), "127.0.0.1", port)
    await asyncio.Event().wait()


def _ending(handler: Handler) -> Handler:
    """Return a handler that closes the connection in the end, and bears that the other side did."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            await handler(reader, writer)

    return handle


@click.command()
@click.argument("first_port", type=int)
def main(first_port: int) -> None:
    """Serve the kinds on ports in a row."""
    uvloop.run(serve(first_port))


if __name__ == "__main__":
    main()
