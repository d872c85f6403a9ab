"""Seeing a stranger where a container is to listen."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket

import pytest

from provisioning.errors import ResourceExhaustedError
from provisioning.runtime import probe
from tests.ports import free_port

HOST = "127.0.0.1"


async def test_a_port_on_which_nobody_listens_is_free() -> None:
    await probe.refuse_taken(HOST, free_port())


@pytest.mark.parametrize("listening_on", [HOST, "0.0.0.0"])  # noqa: S104 # what strangers do
async def test_a_port_on_which_somebody_listens_is_refused(listening_on: str) -> None:
    with socket.create_server((listening_on, 0)) as stranger:
        port = stranger.getsockname()[1]

        with pytest.raises(ResourceExhaustedError, match=rf"{HOST}:{port}: somebody does already"):
            await probe.refuse_taken(HOST, port)


async def test_a_host_that_is_silent_does_not_hold_up_a_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "CONNECT_LIMIT_S", 0.05)
    with socket.create_server((HOST, 0), backlog=0) as full, contextlib.ExitStack() as stack:
        for _ in range(2):  # more than it keeps waiting: to the next one it does not answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())

        await probe.refuse_taken(*full.getsockname())


async def test_a_connection_that_has_reached_itself_is_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    from_there = functools.partial(asyncio.open_connection, local_addr=(HOST, port))
    monkeypatch.setattr(asyncio, "open_connection", from_there)

    await probe.refuse_taken(HOST, port)
