"""How much may be done at once: operations over the fleet and on each node, kills in a pool.

In:   a Fleet, what is under way, and the state of a pool's instances.
Out:  whether one more may be begun. Pure; never fails.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import msgspec

from provisioning.fleet.fleet import Fleet, Limits, Node, Pool
from provisioning.fleet.model import Instance, Phase

LARGEST_SHARE = 0.5
"""Of the fleet's operations that one of several nodes may have: it may be one where all hang."""
OPERATIONS_PER_CPU = 3
"""Making containers is bound by the CPU: more at once only makes each slower."""
ON_THE_WAY = frozenset({Phase.STARTING, Phase.DRAINING, Phase.STOPPING})


def operations_on(node: Node, limits: Limits) -> int:
    """Return how many operations may be under way on a node at once."""
    if limits.operations_per_node:
        return limits.operations_per_node
    return max(1, math.ceil(OPERATIONS_PER_CPU * node.cpus))


class Slots:
    """The operations that may still be begun; changes as a pass decides."""

    def __init__(self, fleet: Fleet, busy_nodes: Iterable[str]) -> None:
        share = LARGEST_SHARE if len(fleet.nodes) > 1 else 1.0
        most = max(1, math.floor(share * fleet.limits.operations))
        self._limit_by_node = {
            node.name: min(most, operations_on(node, fleet.limits)) for node in fleet.nodes
        }
        self._n_by_node = Counter(busy_nodes)
        self.n_free = fleet.limits.operations - self._n_by_node.total()

    def has_free(self, node: str) -> bool:
        """Say whether one more operation may be begun on a node."""
        limit = self._limit_by_node.get(node, OPERATIONS_PER_CPU)
        return self.n_free > 0 and self._n_by_node[node] < limit

    def take(self, node: str) -> bool:
        """Count one more operation on a node; say whether it may be begun."""
        if not self.has_free(node):
            return False
        self.n_free -= 1
        self._n_by_node[node] += 1
        return True


class Tally(msgspec.Struct):
    """How many of a pool's wanted instances are not serving, by whose doing."""

    n_moving: int = 0
    """Drained, stopped, or started anew: by our own doing."""
    n_failed: int = 0
    n_down: int = 0
    """Running by the record, but unhealthy or ended."""

    def count(self, instance: Instance, *, is_down: bool) -> None:
        """Take an instance into account.

        One that is started for the first time was never there to be missed.
        """
        if instance.phase is Phase.FAILED:
            self.n_failed += 1
        elif instance.phase is Phase.RUNNING:
            self.n_down += is_down
        elif instance.phase is not Phase.STARTING or instance.generation > 1:
            self.n_moving += 1


def allowed_down(pool: Pool, limits: Limits) -> int:
    """Return how many of a pool's instances may be down by our own doing."""
    return max(1, math.floor(limits.unavailable_ratio * pool.count + 1e-9))


def kills_of_ill(pool: Pool, limits: Limits, tally: Tally) -> int:
    """Return how many unhealthy instances may be stopped now.

    They may be healthy after all, and only out of our sight: so as slowly as healthy ones. Those
    that wait for it do not count, or nothing would be done once too many are unhealthy.
    """
    return allowed_down(pool, limits) - tally.n_moving


def replacements(pool: Pool, limits: Limits, tally: Tally) -> int:
    """Return how many healthy instances may be drained now, to be replaced.

    None while too many are down for whatever reason: a bad workload stops rolling out there.
    """
    n_missing = tally.n_moving + tally.n_failed + tally.n_down
    return min(
        pool.rotation.at_once - tally.n_moving,
        allowed_down(pool, limits) - n_missing,
    )
