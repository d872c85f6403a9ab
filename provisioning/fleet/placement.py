"""Where there is room: what each node has, what is used of it, and who gets the rest.

In:   a Fleet, the stored instances, the units that exist without being wanted, and which nodes may
      begin an operation.
Out:  Spots, none of which exceeds a node's CPUs, memory, instances or ports. Pure; never fails.

A unit that still exists uses its node whether it is wanted or not. A failed instance uses nothing
but its port: its unit is gone, and it is placed anew when it is tried again. But it weighs: a node
where every start fails would else stay the emptiest, and get every next one.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from provisioning.fleet.fleet import Fleet, Node, Pool, Spread
from provisioning.fleet.model import Instance, Phase

SLACK = 1e-9
"""CPUs are fractions; their sums are not exact."""
FAILURE_MEMORY_S = 3600.0
"""So long after its start, an instance still tells on which nodes it could not be started."""


class Spot(msgspec.Struct, frozen=True):
    """A place for an instance."""

    node: str
    port: int


class Size(msgspec.Struct, frozen=True):
    """What a unit holds of its node."""

    cpus: float
    memory_bytes: int

    def or_more(self, other: Size) -> Size:
        """Return what is enough for either."""
        return Size(max(self.cpus, other.cpus), max(self.memory_bytes, other.memory_bytes))


def is_suitable(node: Node | None, pool: Pool) -> bool:
    """Say whether the pool's instances may be on the node, room or not."""
    if node is None or node.is_cordoned:
        return False
    return set(pool.placement.selector) <= set(node.labels)


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


class Ledger:
    """What is used of every node that new units may be started on; changes as a pass decides."""

    def __init__(
        self,
        fleet: Fleet,
        instances: Iterable[Instance],
        strays: Iterable[tuple[str, Size]],
        *,
        reachable: frozenset[str],
        may_begin: Callable[[str], bool],
        now_s: float,
    ) -> None:
        self._usage = {node.name: Usage(node) for node in fleet.nodes if node.name in reachable}
        self._may_begin = may_begin
        for instance in instances:
            self.reserve(instance)
            self._note_failures(instance, now_s)
        for node, size in strays:
            if usage := self._usage.get(node):
                usage.held.add(size)

    def reserve(self, instance: Instance) -> None:
        """Count an instance where it is placed."""
        if usage := self._usage.get(instance.node):
            usage.ports.add(instance.port)
            usage.count(instance)

    def keep_port(self, instance: Instance) -> None:
        """Give a port that is given back to nobody else: a store makes one change a port."""
        if usage := self._usage.get(instance.node):
            usage.ports.add(instance.port)

    def release(self, instance: Instance) -> None:
        """Count an instance no more, so that it may be placed anew."""
        if usage := self._usage.get(instance.node):
            usage.ports.discard(instance.port)
            usage.count(instance, n=-1)

    def spot(self, pool: Pool, instance_id: str) -> Spot | None:
        """Return a place for a new instance; None: there is no room."""
        return _first_free(self._ranked(pool), instance_id)

    def spot_again(self, pool: Pool, instance: Instance) -> Spot | None:
        """Return a place for an instance's next generation; None: there is no room.

        It stays where it is if it can, except after a failed start: then it goes first where none
        has failed yet, stays only where there is no other place, and gets another port. The
        instance must have been released.
        """
        ranked = self._ranked(pool)
        here = [usage for usage in ranked if usage.node.name == instance.node]
        elsewhere = [usage for usage in ranked if usage.node.name != instance.node]
        if instance.n_failures:
            elsewhere.sort(key=lambda usage: usage.node.name in instance.failed_on)
            # A stranger may have the port, and those beside it, on other nodes too.
            seed = f"{instance.id} {instance.n_failures}"
            return _first_free(elsewhere + here, seed, avoided=instance.port)
        if here and here[0].is_free(instance.port):
            return Spot(instance.node, instance.port)
        return _first_free(here + elsewhere, instance.id)

    def _note_failures(self, instance: Instance, now_s: float) -> None:
        if instance.started_s and now_s - instance.started_s >= FAILURE_MEMORY_S:
            return
        for name in instance.failed_on:
            if usage := self._usage.get(name):
                usage.n_failures[instance.pool] += 1

    def _ranked(self, pool: Pool) -> list[Usage]:
        """Return the nodes that have room for one more of the pool, the best one first.

        Where an operation may begin now comes first, then where the fewest starts have failed.
        """
        workload = pool.workload
        size = Size(workload.cpus, workload.memory_bytes)
        limit = pool.placement.max_per_node
        fitting = [
            usage
            for usage in self._usage.values()
            if is_suitable(usage.node, pool)
            and usage.has_room(size)
            and (not limit or usage.n_by_pool[pool.name] < limit)
        ]
        sign = -1.0 if pool.placement.strategy is Spread.PACK else 1.0
        return sorted(
            fitting,
            key=lambda usage: (
                not self._may_begin(usage.node.name),
                usage.n_failures[pool.name],
                sign * usage.share,
                usage.node.name,
            ),
        )


def _first_free(usages: Sequence[Usage], seed: str, *, avoided: int = 0) -> Spot | None:
    for usage in usages:
        port = usage.free_port(seed, avoided=avoided)
        if port is not None:
            return Spot(usage.node.name, port)
    return None
