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
RETRIES_SHARE = 0.5
"""Of the operations, over the fleet and on a node, that may be starts of what could not be started
before: each may hang until its time is up, and what was healthy must not wait for that."""


def operations_on(node: Node, limits: Limits) -> int:
    """Return how many operations may be under way on a node at once."""
    if limits.operations_per_node:
        return limits.operations_per_node
    return max(1, math.ceil(OPERATIONS_PER_CPU * node.cpus))


class Slots:
    """The operations that may still be begun; changes as a pass decides."""

    def __init__(
        self, fleet: Fleet, busy_nodes: Iterable[str], *, retrying_nodes: Iterable[str] = ()
    ) -> None:
        """Take the nodes of the operations under way, and again those of them that are retries."""
        share = LARGEST_SHARE if len(fleet.nodes) > 1 else 1.0
        most = max(1, math.floor(share * fleet.limits.operations))
        self._limit_by_node = {
            node.name: min(most, operations_on(node, fleet.limits)) for node in fleet.nodes
        }
        self._n_by_node = Counter(busy_nodes)
        self._n_retries_by_node = Counter(retrying_nodes)
        self.n_free = fleet.limits.operations - self._n_by_node.total()
        self.n_free_retries = _retries_of(fleet.limits.operations) - self._n_retries_by_node.total()

    def has_free(self, node: str, *, is_retry: bool = False) -> bool:
        """Say whether one more operation may be begun on a node."""
        limit = self._limit_by_node.get(node, OPERATIONS_PER_CPU)
        if self.n_free <= 0 or self._n_by_node[node] >= limit:
            return False
        if not is_retry:
            return True
        return self.n_free_retries > 0 and self._n_retries_by_node[node] < _retries_of(limit)

    def take(self, node: str, *, is_retry: bool = False) -> bool:
        """Count one more operation on a node; say whether it may be begun."""
        if not self.has_free(node, is_retry=is_retry):
            return False
        self.n_free -= 1
        self._n_by_node[node] += 1
        if is_retry:
            self.n_free_retries -= 1
            self._n_retries_by_node[node] += 1
        return True


def _retries_of(n_operations: int) -> int:
    return max(1, math.floor(RETRIES_SHARE * n_operations))


class Tally(msgspec.Struct):
    """How many of a pool's wanted instances are not serving, by whose doing."""

    n_moving: int = 0
    """Drained, stopped, or started anew: by our own doing."""
    n_stuck: int = 0
    """Those of them whose unit could not be removed: for how long, nobody knows."""
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
            self.n_stuck += instance.n_stop_tries > 0


def allowed_down(pool: Pool, limits: Limits) -> int:
    """Return how many of a pool's instances may be down by our own doing."""
    return max(1, math.floor(limits.unavailable_ratio * pool.count + 1e-9))


def kills_of_ill(pool: Pool, limits: Limits, tally: Tally) -> int:
    """Return how many unhealthy instances may be stopped now.

    They may be healthy after all, and only out of our sight: so as slowly as healthy ones. Those
    that wait for it do not count, or nothing would be done once too many are unhealthy; nor do
    those that cannot be removed, or one of a small pool would keep all others ill. But no more of
    these than may be down: where no removal succeeds, all would be stopped, one after the other.
    """
    n_allowed = allowed_down(pool, limits)
    return n_allowed - (tally.n_moving - min(tally.n_stuck, n_allowed))


def replacements(pool: Pool, limits: Limits, tally: Tally) -> int:
    """Return how many healthy instances may be drained now, to be replaced.

    None while too many are down for whatever reason: a bad workload stops rolling out there.
    """
    n_missing = tally.n_moving + tally.n_failed + tally.n_down
    return min(
        pool.rotation.at_once - tally.n_moving,
        allowed_down(pool, limits) - n_missing,
    )
