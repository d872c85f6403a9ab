"""Ports for the servers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket

BELOW_EPHEMERAL = (20_000, 32_000)


def free_ports(n: int) -> list[int]:
    """Return n different loopback ports on which nothing listens."""
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def free_steady_port() -> int:
    """Return a free loopback port that no connection of a test beside this one gets by chance."""
    while True:
        port = random.randrange(*BELOW_EPHEMERAL)  # noqa: S311 # nothing to guess here
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
