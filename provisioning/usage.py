"""What units hold of their nodes, and what is left there.

In:   a Node, and Instances counted one by one.
Out:  whether one more fits, which ports are free, how full it is. Pure; never fails.

A failed instance uses nothing but its port: its unit is gone, and it is placed anew when it is
tried again. But it weighs: a node where every start fails would else stay the emptiest, and get
every next one.
"""

from __future__ import annotations

import zlib
from collections import Counter

import msgspec

from provisioning.model import Instance, Phase
from provisioning.spec_model import Fleet, Node

SLACK = 1e-9
"""CPUs are fractions; their sums are not exact."""


class Size(msgspec.Struct, frozen=True):
    """What a unit holds of its node."""

    cpus: float
    memory_bytes: int

    def or_more(self, other: Size) -> Size:
        """Return what is enough for either."""
        return Size(max(self.cpus, other.cpus), max(self.memory_bytes, other.memory_bytes))


def size_of(instance: Instance) -> Size:
    """Return what an instance's unit holds of its node."""
    return Size(instance.cpus, instance.memory_bytes)


def largest_size(fleet: Fleet) -> Size:
    """Return a size that no unit made by this specification exceeds."""
    workloads = [pool.workload for pool in fleet.pools]
    return Size(
        max((workload.cpus for workload in workloads), default=0.0),
        max((workload.memory_bytes for workload in workloads), default=0),
    )


class Load:
    """What some units hold together."""

    def __init__(self) -> None:
        self.cpus = 0.0
        self.memory_bytes = 0
        self.n_units = 0

    def add(self, size: Size, *, n: int = 1) -> None:
        """Count n more units, or less where n is negative."""
        self.cpus += n * size.cpus
        self.memory_bytes += n * size.memory_bytes
        self.n_units += n


class Usage:
    """What is used of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.held = Load()
        self.failed = Load()
        """What its failed instances would hold."""
        self.n_failures: Counter[str] = Counter()
        """Instances that could not be started here of late, by pool."""
        self.n_by_pool: Counter[str] = Counter()
        self.ports: set[int] = set()

    def count(self, instance: Instance, *, n: int = 1) -> None:
        """Count an instance, or no more where n is -1; its port aside."""
        if instance.phase is Phase.FAILED:
            self.failed.add(size_of(instance), n=n)
        else:
            self.held.add(size_of(instance), n=n)
            self.n_by_pool[instance.pool] += n

    def has_room(self, size: Size) -> bool:
        """Say whether one more unit fits."""
        node, held = self.node, self.held
        return (
            held.cpus + size.cpus <= node.cpus + SLACK
            and held.memory_bytes + size.memory_bytes <= node.memory_bytes
            and (not node.max_instances or held.n_units < node.max_instances)
        )

    @property
    def share(self) -> float:
        """Return the used share of what is scarcest, failed instances counted in; from 0 up."""
        node, held, failed = self.node, self.held, self.failed
        n_units = held.n_units + failed.n_units
        return max(
            (held.cpus + failed.cpus) / max(node.cpus, SLACK),
            (held.memory_bytes + failed.memory_bytes) / max(node.memory_bytes, 1),
            n_units / node.max_instances if node.max_instances else 0.0,
        )

    def is_free(self, port: int) -> bool:
        """Say whether the port is one of the node's, and no record claims it."""
        return self.node.first_port <= port <= self.node.last_port and port not in self.ports

    def free_port(self, seed: str, *, avoided: int = 0) -> int | None:
        """Return a port that no record claims; None: all are taken.

        The search begins where the seed says, not at the first port: what is just being stopped,
        or is held by a unit without a record, is then seldom hit. The avoided port is the last
        choice.
        """
        node = self.node
        n_ports = node.last_port - node.first_port + 1
        start = zlib.crc32(seed.encode())
        for n in range(n_ports):
            port = node.first_port + (start - node.first_port + n) % n_ports
            if port not in self.ports and port != avoided:
                return port
        return avoided if self.is_free(avoided) else None
