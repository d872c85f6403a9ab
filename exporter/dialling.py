"""Open a TCP connection before a deadline.

In:   the addresses of a host, a port, a deadline.
Out:  a connected, non-blocking socket. Fails with OSError, or TimeoutError at the deadline.
Instances that refuse are asked as often as those that answer, so refusals must cost little: most
are known when connect() returns, before a timer or the event loop have had anything to do.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

KIND = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


async def dial(addresses: Sequence[str], port: int, deadline_s: float) -> socket.socket:
    """Return a socket that is connected to the first address that accepts.

    The next address is tried as soon as one fails; one that stays silent takes all the time.

    Args:
        addresses: One or more, IPv4 or IPv6, of one host.
        port: The same at every address.
        deadline_s: For all addresses together, on the event loop's clock.

    Raises:
        OSError: What the first address failed with: refused, no route, no free descriptor, ...
        TimeoutError: Nothing was heard from the first address before the deadline.
    """
    try:
        return await _dial(addresses[0], port, deadline_s)
    except TimeoutError:
        raise
    except OSError:
        for address in addresses[1:]:
            with suppress(OSError):
                return await _dial(address, port, deadline_s)
        raise


async def _dial(address: str, port: int, deadline_s: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connecting = socket.socket(family, KIND)
    try:
        error = connecting.connect_ex((address, port))
        if error == errno.EINPROGRESS:
            error = _outcome(connecting) or await _outcome_later(connecting, deadline_s)
        if error:
            raise OSError(error, os.strerror(error))
    except BaseException:
        connecting.close()
        raise
    return connecting


def _outcome(connecting: socket.socket) -> int:
    """Return why connecting failed; 0 when it succeeded or is not decided yet."""
    return connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


async def _outcome_later(connecting: socket.socket, deadline_s: float) -> int:
    """Wait until connecting is decided; return why it failed, or 0."""
    loop = asyncio.get_running_loop()
    decided = loop.create_future()
    loop.add_writer(connecting.fileno(), _decide, decided)
    try:
        async with asyncio.timeout_at(deadline_s):
            await decided
    finally:
        loop.remove_writer(connecting.fileno())
    return _outcome(connecting)


def _decide(decided: asyncio.Future[None]) -> None:
    if not decided.done():
        decided.set_result(None)
