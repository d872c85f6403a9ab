"""Share the limit of open files between instances and HTTP clients."""

from __future__ import annotations

RESERVE = 128
"""For inventories, logs, files and whatever Python opens."""
CLIENTS_SHARE = 4
"""HTTP clients get at most a quarter of a low limit: most is for instances."""


def client_connections(most: int, limit: int) -> int:
    """Return how many connections HTTP clients may have."""
    return max(1, min(most, limit // CLIENTS_SHARE))


def instance_connections(n_instances: int, limit: int, *, n_others: int) -> int | None:
    """Return how many connections may be open at once; None where every instance can keep one."""
    room = max(1, limit - RESERVE - n_others)
    return None if n_instances <= room else room


def descriptor_shortage(n_instances: int, limit: int, *, n_others: int) -> str:
    """Say what happens to a fleet that does not fit, and what helps."""
    return (
        f"{n_instances:,} instances need more open files than the limit of {limit:,}: connections "
        "are closed after each poll, which costs several times the CPU time; raise the limit "
        f"to {n_instances + RESERVE + n_others:,} (ulimit -n, LimitNOFILE=) or use --shard"
    )
