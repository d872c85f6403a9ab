"""See that the fleet fits into the file descriptors which this process may open.

In:   the number of instances.
Out:  whether each may keep its connection, or how many may be open at once instead.
"""

from __future__ import annotations

import resource

RESERVE = 128
"""For scrapers, inventories, logs, files and whatever Python opens."""


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; return it.

    The soft limit is low only for the sake of programs that use select(), which this one does not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def n_slots(n_instances: int, limit: int) -> int | None:
    """Return how many connections may be open at once; None where every instance can keep one."""
    room = max(1, limit - RESERVE)
    return None if n_instances <= room else room


def warning(n_instances: int, limit: int) -> str:
    """Say what happens to a fleet that does not fit, and what helps."""
    return (
        f"{n_instances:,} instances need more open files than the limit of {limit:,}: connections "
        "are closed after each poll, which costs several times the CPU time; raise the limit "
        f"to {n_instances + RESERVE:,} (ulimit -n, LimitNOFILE=) or use --shard"
    )
