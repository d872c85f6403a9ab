"""How much may be done at once: operations over the fleet and on each node, kills in a pool.

In:   a Fleet, what is under way, and the state of a pool's instances.
Out:  whether one more may be begun. Pure; never fails.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from enum import IntEnum

import msgspec

from provisioning.model import Instance, Phase
from provisioning.spec_model import Fleet, Limits, Node, Pool

LARGEST_SHARE = 0.5
"""Of the fleet's operations that one of several nodes may have: it may be one where all hang."""
OPERATIONS_PER_CPU = 3
"""Making containers is bound by the CPU: more at once only makes each slower."""


class Claim(IntEnum):
    """What an operation is for; the later ones may hang, so they have a smaller share."""

    HEALING = 0
    """A removal, or a start of what was healthy with this workload."""
    NEW = 1
    """A start of what was never healthy: its model may have to come from a registry that hangs."""
    RETRY = 2
    """A start of what could not be started the last time."""


SHARES = {Claim.HEALING: 1.0, Claim.NEW: 0.9, Claim.RETRY: 0.5}
"""Of the operations, over the fleet and on a node, that a claim and those after it may have: what
was healthy must not wait until the time of starts that hang is up."""


def claim_of(instance: Instance, digest: str) -> Claim:
    """Return what the start of an instance's next unit is, by the digest of what that is to run."""
    if instance.n_failures > 0:
        return Claim.RETRY
    is_known = instance.has_served and instance.workload == digest
    return Claim.HEALING if is_known else Claim.NEW


def operations_on(node: Node, limits: Limits) -> int:
    """Return how many operations may be under way on a node at once."""
    if limits.operations_per_node:
        return limits.operations_per_node
    return max(1, math.ceil(OPERATIONS_PER_CPU * node.cpus))


class Slots:
    """The operations that may still be begun; changes as a pass decides."""

    def __init__(self, fleet: Fleet, busy: Iterable[tuple[str, Claim]]) -> None:
        """Take the operations under way, each with its node."""
        share = LARGEST_SHARE if len(fleet.nodes) > 1 else 1.0
        most = max(1, math.floor(share * fleet.limits.operations))
        self._limit_by_node = {
            node.name: min(most, operations_on(node, fleet.limits)) for node in fleet.nodes
        }
        self._n_free = {claim: share_of(claim, fleet.limits.operations) for claim in Claim}
        self._n_on = {claim: Counter[str]() for claim in Claim}
        for node, claim in busy:
            self._count(node, claim)

    def is_full(self, claim: Claim) -> bool:
        """Say whether no more operations of the kind may be begun on any node."""
        return any(self._n_free[one] <= 0 for one in _counted_as(claim))

    def has_free(self, node: str, claim: Claim) -> bool:
        """Say whether one more operation may be begun on a node."""
        limit = self._limit_by_node.get(node, OPERATIONS_PER_CPU)
        return not self.is_full(claim) and all(
            self._n_on[one][node] < share_of(one, limit) for one in _counted_as(claim)
        )

    def take(self, node: str, claim: Claim) -> bool:
        """Count one more operation on a node; say whether it may be begun."""
        is_free = self.has_free(node, claim)
        if is_free:
            self._count(node, claim)
        return is_free

    def _count(self, node: str, claim: Claim) -> None:
        for one in _counted_as(claim):
            self._n_free[one] -= 1
            self._n_on[one][node] += 1


def _counted_as(claim: Claim) -> tuple[Claim, ...]:
    """Return the claims out of whose share an operation is: a retry is a start, too."""
    return tuple(Claim)[: claim + 1]


def share_of(claim: Claim, n_operations: int) -> int:
    """Return how many of the operations a claim and those after it may have together."""
    return max(min(1, n_operations), math.floor(SHARES[claim] * n_operations + 1e-9))


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
