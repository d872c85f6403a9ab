"""Where the API listens, how many connections it has, and whose it closes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ollama_fleet import http_server
from provisioning.api.server import bound, serving, url_of
from provisioning.errors import ListenError
from tests.provisioning.api.board import Board, running_board

GET = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = b"POST /plan HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[str], Awaitable[Client]]


@asynccontextmanager
async def limited(folder: Path, max_connections: int) -> AsyncIterator[tuple[Board, str]]:
    async with running_board(folder) as board:
        with bound("127.0.0.1", 0) as sockets:
            async with serving(board.api, sockets, max_connections=max_connections) as url:
                yield board, url


@pytest.fixture
async def connected() -> AsyncIterator[Connect]:
    """`await connected(url)`: a client's connection."""
    writers = []

    async def connect(url: str) -> Client:
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.transport.abort()


async def is_answered(client: Client) -> bool:
    client[1].write(GET)
    return (await client[0].readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")


async def keep_busy(client: Client, board: Board) -> None:
    """Send a request whose body does not come; the server says that it waits for it."""
    headers = f"Authorization: Bearer {board.token}\r\nContent-Length: 9\r\n"
    client[1].write(SLOW + headers.encode() + b"Expect: 100-continue\r\n\r\n")
    assert (await client[0].readline()).startswith(b"HTTP/1.1 100")


async def is_closed(client: Client) -> bool:
    try:
        return not await asyncio.wait_for(client[0].read(1), 60.0)  # less than IDLE_S
    except ConnectionError:
        return True


async def test_one_connection_too_many_closes_the_longest_idle_one(
    tmp_path: Path, connected: Connect
) -> None:
    async with limited(tmp_path, 3) as (board, url):
        busy = await connected(url)
        await keep_busy(busy, board)
        idle, used = await connected(url), await connected(url)
        assert await is_answered(used)

        newest = await connected(url)

        assert await is_answered(newest)
        assert await is_closed(idle)
        assert await is_answered(used)
        assert busy[0].at_eof() is False
        assert 1 == board.metrics.registry.get_sample_value(
            "ollama_provisioner_api_closed_connections_total"
        )


async def test_while_all_are_busy_no_more_are_taken(tmp_path: Path, connected: Connect) -> None:
    async with limited(tmp_path, 1) as (board, url):
        await keep_busy(await connected(url), board)

        assert await is_closed(await connected(url))


async def test_a_connection_that_asks_nothing_is_closed(
    tmp_path: Path, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "IDLE_S", 0.1)

    async with limited(tmp_path, 3) as (_, url):
        assert await is_closed(await connected(url))


async def test_an_address_that_is_taken_is_an_error_with_what_helps(board: Board) -> None:
    port = int(board.url.rpartition(":")[2])

    with pytest.raises(ListenError) as caught:
        with bound("127.0.0.1", port):
            pass

    assert (
        f"cannot listen on 127.0.0.1:{port} for the API: Address already in use; "
        "choose another with --web.listen-address, port 0 for any"
    ) == str(caught.value)


def test_all_addresses_of_a_host_get_one_port_before_anybody_is_answered() -> None:
    with bound("localhost", 0) as sockets:
        ports = {one.getsockname()[1] for one in sockets}

        assert 1 == len(ports)
        assert url_of(sockets).endswith(f":{ports.pop()}")
    assert {-1} == {one.fileno() for one in sockets}


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1"), ("::", "http://[::1]")],  # noqa: S104 - it is the case
)
def test_a_wildcard_address_is_reached_at_this_machines_own(host: str, url: str) -> None:
    with bound(host, 0) as sockets:
        assert url == url_of(sockets).rpartition(":")[0]
