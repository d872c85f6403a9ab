"""Open a TCP connection before a deadline.

In:   an address, a port, a deadline.
Out:  a connected, non-blocking socket. Fails with OSError, or TimeoutError at the deadline.
Instances that refuse are asked as often as those that answer, so refusals must cost little: most
are known when connect() returns, before a timer or the event loop have had anything to do.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket

KIND = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


async def dial(address: str, port: int, deadline_s: float) -> socket.socket:
    """Return a socket that is connected to an IPv4 or IPv6 address.

    Raises:
        OSError: Refused, no route, no free descriptor, and so on.
        TimeoutError: Nothing was heard before the deadline.
    """
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
