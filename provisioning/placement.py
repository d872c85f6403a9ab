"""Where there is room: what each node has, what is used of it, and who gets the rest.

In:   a Fleet, the stored instances, the units that exist without being wanted, and which nodes may
      begin an operation.
Out:  Spots, none of which exceeds a node's CPUs, memory, instances or ports. Pure; never fails.

A unit that still exists uses its node whether it is wanted or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from provisioning.limits import Claim
from provisioning.model import Instance, Phase
from provisioning.spec_model import Fleet, Node, Pool, Spread
from provisioning.usage import Size, Usage

FAILURE_MEMORY_S = 3600.0
"""So long after its start, an instance still tells on which nodes it could not be started."""


class Spot(msgspec.Struct, frozen=True):
    """A place for an instance."""

    node: str
    port: int


def is_suitable(node: Node | None, pool: Pool) -> bool:
    """Say whether the pool's instances may be on the node, room or not."""
    if node is None or node.is_cordoned:
        return False
    return set(pool.placement.selector) <= set(node.labels)


class Ledger:
    """What is used of every node that new units may be started on; changes as a pass decides."""

    def __init__(
        self,
        fleet: Fleet,
        instances: Iterable[Instance],
        unwanted: Iterable[tuple[str, Size]],
        *,
        reachable: frozenset[str],
        may_begin: Callable[[str, Claim], bool],
        now_s: float,
    ) -> None:
        """Take what says whether one more operation may be begun on a node."""
        self._usage = {node.name: Usage(node) for node in fleet.nodes if node.name in reachable}
        self._may_begin = may_begin
        self._full: set[str] = set()
        """Pools without room on any node, as long as nothing is released."""
        for instance in instances:
            self.reserve(instance)
            self._note_failures(instance, now_s)
        for node, size in unwanted:
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
            self._full.clear()

    def is_full(self, pool: Pool, instance: Instance) -> bool:
        """Say whether it is known that there is no room for an instance of the pool.

        One that holds room where the pool may be can have that at least.
        """
        usage = self._usage.get(instance.node)
        has_own = usage is not None and is_suitable(usage.node, pool)
        return pool.name in self._full and (not has_own or instance.phase is Phase.FAILED)

    def spot(self, pool: Pool, instance_id: str) -> Spot | None:
        """Return a place for a new instance; None: there is no room."""
        if pool.name in self._full:
            return None
        return _first_free(self._ranked(pool, Claim.NEW), instance_id)

    def spot_again(self, pool: Pool, instance: Instance, claim: Claim) -> Spot | None:
        """Return a place for an instance's next generation; None: there is no room.

        It stays where it is if it can, except after a failed start: then it goes first where none
        has failed yet, stays only where there is no other place, and gets another port. The
        instance must have been released.
        """
        ranked = self._ranked(pool, claim)
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

    def _ranked(self, pool: Pool, claim: Claim) -> list[Usage]:
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
        if not fitting:
            self._full.add(pool.name)
        sign = -1.0 if pool.placement.strategy is Spread.PACK else 1.0
        return sorted(
            fitting,
            key=lambda usage: (
                not self._may_begin(usage.node.name, claim),
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
