"""Ports for the servers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket

# Tests run beside each other, and some servers listen at every address of the machine: so each
# kind has ports of its own. From 20,000 on are those that `up` takes for simulated instances; from
# 32,768 on the kernel gives ports to connections.
HOSTED = range(12_000, 20_000)
"""Of simulations that host units, at every address."""
BENCHED = range(21_000, 22_000)
"""Of what a benchmark runs."""
LABS = range(22_000, 26_000)
"""Of the labs in which alerts are watched, some at every address."""
STEADY = range(26_000, 30_000)
"""Of servers that are started again at the same port."""
UNITS = range(30_000, 30_200)
"""Of a node's units, each node having an address of its own."""
OTHER_UNITS = range(30_200, 30_400)
"""Of the units of another node at the same address."""
IDLE_UNIT = 30_500
"""Of units that do not listen."""


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
        port = random.choice(STEADY)  # noqa: S311 # nothing to guess here
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
