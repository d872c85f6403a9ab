from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from exporter.connection import dial


def soon_s(within_s: float = 30.0) -> float:
    """Return a deadline that only a test which fails reaches."""
    return asyncio.get_running_loop().time() + within_s


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


@pytest.mark.parametrize("refuses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.3"], ["::1"]])
async def test_the_next_address_is_tried_where_one_fails(
    refuses: list[str], listener: socket.socket
) -> None:
    addresses = [*refuses, "127.0.0.2"]

    with closing(await dial(addresses, port_of(listener), soon_s())) as connected:
        assert listener.getsockname() == connected.getpeername()


async def test_the_first_address_that_accepts_is_the_only_one_connected_to(
    listener: socket.socket, other: socket.socket
) -> None:
    addresses = ["127.0.0.2", "127.0.0.3"]

    with closing(await dial(addresses, port_of(listener), soon_s())) as connected:
        assert listener.getsockname() == connected.getpeername()
    with pytest.raises(BlockingIOError):
        other.accept()


async def test_the_first_error_is_raised_where_all_fail(listener: socket.socket) -> None:
    addresses = ["127.0.0.1", "255.255.255.255", "127.0.0.3"]

    with pytest.raises(ConnectionRefusedError):
        await dial(addresses, port_of(listener), soon_s())
    with pytest.raises(OSError, match=r"Permission denied|unreachable"):
        await dial(addresses[1:], port_of(listener), soon_s())


async def test_silence_takes_all_the_time(full: socket.socket, other: socket.socket) -> None:
    with pytest.raises(TimeoutError):
        await dial(["127.0.0.2", "127.0.0.3"], port_of(full), soon_s(0.1))
    with pytest.raises(BlockingIOError):
        other.accept()


async def test_the_deadline_is_for_all_addresses_together(full: socket.socket) -> None:
    """Would each silent one have a second of its own, it would take seven."""
    deadline_s = soon_s(1.0)

    with pytest.raises(ConnectionRefusedError):
        await dial(["127.0.0.1", *["127.0.0.2"] * 7], port_of(full), deadline_s)

    assert deadline_s + 5.0 > asyncio.get_running_loop().time()
