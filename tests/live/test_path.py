"""The breakable path between Prometheus and the exporter."""

from __future__ import annotations

import asyncio

import pytest

from tests.live.path import path
from tests.ports import free_ports

SILENCE_S = 0.2


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1024):
        writer.write(chunk)
    writer.close()


async def test_a_broken_path_carries_nothing_until_it_is_mended() -> None:
    echo_port, port = free_ports(2)
    server = await asyncio.start_server(_echo, "127.0.0.1", echo_port)
    async with server, path(port, echo_port) as between:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        assert b"one" == await reader.readexactly(3)

        between.break_off()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), SILENCE_S)

        between.mend()
        assert b"two" == await reader.readexactly(3)
        writer.close()


async def test_an_exporter_that_is_gone_ends_the_connection() -> None:
    port, nobody_port = free_ports(2)
    async with path(port, nobody_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        assert b"" == await asyncio.wait_for(reader.read(), 5)
        writer.close()
