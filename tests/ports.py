"""Ports for the servers that tests start."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import cycle

from provisioning.demo.ports import EVERY_ADDRESS, can_bind

# Tests run beside each other, and some servers listen at every address of the machine: so each
# kind has ports of its own. From 20,000 on are those that `up` takes for simulated instances; from
# 32,768 on the kernel gives ports to connections.
HOSTED = range(12_000, 20_000)
"""Of simulations that host containers, at every address."""
BENCHED = range(21_000, 22_000)
"""Of what a benchmark runs."""
LABS = range(22_000, 26_000)
"""Of the labs in which alerts are watched, some at every address."""
OTHERS = range(26_000, 30_000)
"""Of all other servers."""
CONTAINER_PORTS = range(30_000, 30_200)
"""Of a node's containers, each node having an address of its own."""
IDLE_PORT = 30_500
"""Of containers that do not listen."""


N_PARTS = 6
"""Of each kind: one for tests that run without workers, and one for each of five workers."""


def free_ports(n: int) -> list[int]:
    """Return n different ports on which nothing listens, whatever the address.

    Seconds may pass until a server listens there, and a test may end it and start it again. So
    nobody else gets the ports meanwhile: the kernel, asked for any port or for a connection's,
    gives none below 32,768; another worker has a part of its own; and this one begins anew only
    when it has given away all of its part.
    """
    return [free_port() for _ in range(n)]


def free_port() -> int:
    """Return one port as `free_ports` does."""
    return next(_free_ones)


def own_part(ports: range) -> range:
    """Return those of a kind's ports that no worker beside this one takes."""
    size = len(ports) // N_PARTS
    return ports[size * _part(os.environ.get("PYTEST_XDIST_WORKER", "")) :][:size]


def _free_of_part() -> Iterator[int]:
    """Yield free ports of this process's part, in turn, without an end."""
    own = own_part(OTHERS)
    begin = random.randrange(len(own))  # noqa: S311 # two runs beside each other begin apart
    return (port for port in cycle([*own[begin:], *own[:begin]]) if can_bind(port, EVERY_ADDRESS))


def _part(worker: str) -> int:
    """Return the part of the worker `gw0`, `gw1`, …; of no worker, the first one."""
    return 1 + int(worker.removeprefix("gw")) % (N_PARTS - 1) if worker else 0


_free_ones = _free_of_part()
