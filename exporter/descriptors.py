"""See that the fleet fits into the file descriptors which this process may open.

In:   the number of instances, and of connections that clients of the pages may have.
Out:  whether each may keep its connection, or how many may be open at once instead.
"""

from __future__ import annotations

import resource

RESERVE = 128
"""For inventories, logs, files and whatever Python opens."""
CLIENTS_SHARE = 4
"""Clients of the pages get at most a quarter of a low limit: most is for instances."""


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; return it.

    The soft limit is low only for the sake of programs that use select(), which this one does not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def n_clients(most: int, limit: int) -> int:
    """Return how many connections clients of the pages may have."""
    return max(1, min(most, limit // CLIENTS_SHARE))


def n_slots(n_instances: int, limit: int, *, n_clients: int) -> int | None:
    """Return how many connections may be open at once; None where every instance can keep one."""
    room = max(1, limit - RESERVE - n_clients)
    return None if n_instances <= room else room


def warning(n_instances: int, limit: int, *, max_clients: int) -> str:
    """Say what happens to a fleet that does not fit, and what helps."""
    return (
        f"{n_instances:,} instances need more open files than the limit of {limit:,}: connections "
        "are closed after each poll, which costs several times the CPU time; raise the limit "
        f"to {n_instances + RESERVE + max_clients:,} (ulimit -n, LimitNOFILE=) or use --shard"
    )
