"""Ports for the servers that tests start."""

from __future__ import annotations

import socket


def free_ports(n: int) -> list[int]:
    """Return n different loopback ports on which nothing listens."""
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
