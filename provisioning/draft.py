"""What a pass has decided so far, and what it may still decide.

In:   a Fleet, an Observed, the time; then one wish after the other, the urgent ones first.
Out:  Actions, within the operations and the room that there are. Pure; never fails.

Each wish is granted or not, and says so; what is not granted is wished again by the next pass.
"""

from __future__ import annotations

from functools import cached_property

import msgspec

from provisioning.actions import (
    Action,
    Assign,
    Drain,
    Forget,
    Observed,
    Place,
    Renew,
    Start,
    Stop,
    Sweep,
)
from provisioning.limits import Claim, Slots, claim_of
from provisioning.model import Instance, Listing, Phase, Reason
from provisioning.orphans import orphan_policy
from provisioning.placement import Ledger, Spot
from provisioning.spec_model import Fleet, Node, Pool
from provisioning.survey import NodeState, Survey
from provisioning.units import instance_id, listing_of, workload_digest

CALLED_OFF = frozenset({Phase.STARTING, Phase.STOPPING})
"""STOPPING with a start under way: the Stop was written, but that answer of the store was lost."""


class Draft:
    """The actions of one pass, as they come together."""

    def __init__(self, desired: Fleet, observed: Observed, *, now_s: float) -> None:
        self.desired = desired
        self.observed = observed
        self.now_s = now_s
        self.survey = Survey(desired, observed, now_s=now_s)
        self.orphans = orphan_policy(desired, observed)
        self.actions: list[Action] = []
        busy = [observed.stored[id_].instance for id_ in observed.working & observed.stored.keys()]
        sweeps = [(node, Claim.HEALING) for node, _ in observed.sweeping]
        self._slots = Slots(desired, [*((one.node, _claim_of_busy(one)) for one in busy), *sweeps])

    def age_s(self, instance: Instance) -> float:
        """Return how long ago an instance was started; negative where the clock was set back."""
        started_s = instance.started_s
        skipped_s = (
            skip.by_s for skip in self.observed.skips if started_s <= skip.at_s - skip.by_s
        )
        return self.now_s - started_s - sum(skipped_s)

    @property
    def is_full(self) -> bool:
        """Say whether no further instance may be made in this pass."""
        return self._slots.is_full(Claim.NEW)

    @cached_property
    def _ledger(self) -> Ledger:
        """What is used of the nodes; made only when something has to be placed."""
        return Ledger(
            self.desired,
            (stored.instance for stored in self.observed.stored.values()),
            self.survey.unwanted_sizes(),
            reachable=self.survey.reachable,
            may_begin=self._slots.has_free,
            now_s=self.now_s,
        )

    @cached_property
    def _node_by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.desired.nodes}

    @cached_property
    def _generations(self) -> dict[str, int]:
        return self.survey.generations()

    @cached_property
    def _taken_ids(self) -> set[str]:
        # An id whose units are still around must not begin again with generation 1.
        return {*self.observed.stored, *self._generations}

    @cached_property
    def _unwanted_names(self) -> frozenset[str]:
        """Units that are being removed, or will be: their nodes answer."""
        reachable = self.survey.reachable
        return frozenset(unit.name for node, unit in self.survey.unwanted if node in reachable)

    def sweep(self, node: str, unit: str) -> bool:
        """Remove a unit that nobody wants."""
        return unit not in self.observed.resting and self._operate(node, Sweep(node, unit))

    def stop(self, instance: Instance, reason: Reason, detail: str = "") -> bool:
        """Remove an instance's unit."""
        if instance.unit in self.observed.resting:
            return False
        return self._operate(instance.node, Stop(instance.id, reason, detail))

    def call_off(self, instance: Instance, reason: Reason) -> None:
        """Stop an instance that is being started, where its node answers.

        The start gives its operation to the stop: starts that hang never keep themselves alive.
        """
        is_begun = instance.id in self.observed.starting and instance.phase in CALLED_OFF
        is_reachable = self.survey.state(instance.node) is NodeState.REACHABLE
        if is_begun and is_reachable:
            self.actions.append(Stop(instance.id, reason))

    def start(self, instance: Instance, pool: Pool) -> bool:
        """Go on with an instance's start, unless a unit of that name is still to be removed."""
        if instance.unit in self._unwanted_names:
            return False
        start = Start(instance.id, self._listing(pool, instance.node))
        return self._operate(instance.node, start, claim_of(instance, instance.workload))

    def drain(self, instance: Instance, reason: Reason) -> None:
        """Let an instance end what it has begun."""
        self.actions.append(Drain(instance.id, reason))

    def forget(self, instance: Instance) -> None:
        """Delete an instance's record."""
        self.actions.append(Forget(instance.id))

    def assign(self, assign: Assign) -> None:
        """Give an instance to a developer, or take it back."""
        self.actions.append(assign)

    def renew(self, instance: Instance, pool: Pool, reason: Reason | None = None) -> bool:
        """Begin an instance's next generation, where there is room."""
        claim = claim_of(instance, workload_digest(pool.workload))
        if self._slots.is_full(claim):
            return False
        ledger = self._ledger
        if ledger.is_full(pool, instance):
            return False
        ledger.release(instance)
        spot = ledger.spot_again(pool, instance, claim)
        if spot is None or not self._slots.take(spot.node, claim):
            ledger.reserve(instance)
            return False
        renew = self._renewal(instance, pool, spot, reason)
        self.actions.append(renew)
        ledger.reserve(_renewed(instance, renew))
        ledger.keep_port(instance)
        return True

    def move_away(self, instance: Instance, pool: Pool) -> bool:
        """Drain an instance whose node it has to leave, where another one has room for it."""
        if not self.keep_room(instance, pool):
            return False
        self.drain(instance, Reason.NODE_REMOVED)
        return True

    def keep_room(self, instance: Instance, pool: Pool) -> bool:
        """Reserve room elsewhere for an instance that leaves its node, if there is any.

        So that all who leave find room together; the place itself is chosen later.
        """
        spot = self._ledger.spot(pool, instance.id)
        if spot is None:
            return False
        self._ledger.reserve(
            msgspec.structs.replace(
                instance,
                node=spot.node,
                port=spot.port,
                cpus=pool.workload.cpus,
                memory_bytes=pool.workload.memory_bytes,
            )
        )
        return True

    def place(self, pool: Pool, number: int, developer: str) -> bool:
        """Make a new instance, where there is room."""
        if self.is_full:
            return False
        new_id = instance_id(pool.name, number)
        spot = self._ledger.spot(pool, new_id)
        if spot is None:
            return False
        instance = Instance(
            id=new_id,
            pool=pool.name,
            node=spot.node,
            port=spot.port,
            generation=1,
            phase=Phase.STARTING,
            since_s=self.now_s,
            workload=workload_digest(pool.workload),
            developer=developer,
            cpus=pool.workload.cpus,
            memory_bytes=pool.workload.memory_bytes,
            listing=self._listing(pool, spot.node),
        )
        if not self._operate(spot.node, Place(instance), Claim.NEW):
            return False
        self._ledger.reserve(instance)
        return True

    def free_number(self, pool: Pool, *, after: int) -> int:
        """Return the lowest number above `after` that no instance or unit of the pool has."""
        number = after + 1
        while instance_id(pool.name, number) in self._taken_ids:
            number += 1
        return number

    def _renewal(self, instance: Instance, pool: Pool, spot: Spot, reason: Reason | None) -> Renew:
        workload = pool.workload
        return Renew(
            id=instance.id,
            node=spot.node,
            port=spot.port,
            generation=max(instance.generation, self._generations.get(instance.id, 0)) + 1,
            workload=workload_digest(workload),
            cpus=workload.cpus,
            memory_bytes=workload.memory_bytes,
            listing=self._listing(pool, spot.node),
            reason=reason,
        )

    def _listing(self, pool: Pool, node: str) -> Listing:
        return listing_of(pool.workload, self._node_by_name[node])

    def _operate(self, node: str, action: Action, claim: Claim = Claim.HEALING) -> bool:
        if not self._slots.take(node, claim):
            return False
        self.actions.append(action)
        return True


def _claim_of_busy(instance: Instance) -> Claim:
    is_start = instance.phase is Phase.STARTING
    return claim_of(instance, instance.workload) if is_start else Claim.HEALING


def _renewed(instance: Instance, renew: Renew) -> Instance:
    return msgspec.structs.replace(
        instance,
        node=renew.node,
        port=renew.port,
        phase=Phase.STARTING,
        cpus=renew.cpus,
        memory_bytes=renew.memory_bytes,
    )
