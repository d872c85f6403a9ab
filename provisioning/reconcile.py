"""Decide, from what is wanted and what is observed, which actions come next; pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from provisioning.actions import (
    Action,
    AssignDeveloper,
    DeleteRecord,
    Drain,
    StateSnapshot,
    Unhealthy,
)
from provisioning.budget import StatusCounts, replacements, schedule_of, unhealthy_stops
from provisioning.model import (
    FOR_GOOD,
    TERMINATING,
    ContainerState,
    Fleet,
    Instance,
    ObservedContainer,
    Phase,
    PlacementStrategy,
    Pool,
    Reason,
    Rotation,
)
from provisioning.scheduler import Scheduler, is_eligible
from provisioning.state import KILLED_WORDS, NodeState
from provisioning.store.base import StoredInstance

MOST_RESERVED = 300
"""Instances that wait for room and have it reserved before a healthy one is moved; while more wait
none is moved: each looks at all nodes, and to reconcile must not take seconds."""


def decide(desired: Fleet, observed: StateSnapshot, now_s: float) -> tuple[Action, ...]:
    """Return what is to be done now: at most one action that changes an instance's container."""
    scheduler = Scheduler(desired, observed, now_s=now_s)
    pool_by_name = {pool.name: pool for pool in desired.pools}
    staying, leaving = _sort(observed)
    pools = [PoolReconciler(scheduler, pool, staying.pop(pool.name, ())) for pool in desired.pools]
    for instances in staying.values():  # of pools that the specification does not have any more
        leaving += instances
    for one in pools:
        leaving += one.surplus
    _repair_all(scheduler, pools)
    for instance in leaving:
        scale_down(scheduler, instance, _rotation(pool_by_name.get(instance.pool)))
    for one in pools:
        one.complete(may_place=scheduler.orphans.may_place)
    # Last: however many removals hang, they take no operation from what somebody waits for.
    for node, container in scheduler.state.unwanted:
        if _may_collect(scheduler, node, container):
            scheduler.collect(node, container.name)
    return tuple(scheduler.actions)


def _repair_all(scheduler: Scheduler, pools: Sequence[PoolReconciler]) -> None:
    """Let all pools repair what was healthy before any starts what never was."""
    for one in pools:
        one.repair()
    failed = [retry for one in pools for retry in one.retries()]
    for retry in retry_queue(failed):
        scheduler.reschedule(retry.instance, retry.pool, retry.reason)
    may_move = _reserve_capacity(pools)
    for one in pools:
        one.drain_outdated(may_move=may_move)


def _reserve_capacity(pools: Sequence[PoolReconciler]) -> bool:
    """Reserve room for those that wait for it; say whether others may give up their place now."""
    if not any(one.has_to_move for one in pools):
        return False
    n_left = MOST_RESERVED
    for one in pools:
        n_left -= one.reserve_capacity(at_most=n_left)
    return n_left > 0


def _rotation(pool: Pool | None) -> Rotation:
    return pool.rotation if pool else Rotation()


def _sort(observed: StateSnapshot) -> tuple[dict[str, list[Instance]], list[Instance]]:
    """Return the instances by pool, and apart from them those on their way out."""
    staying: defaultdict[str, list[Instance]] = defaultdict(list)
    leaving: list[Instance] = []
    for stored in observed.stored.values():
        instance = stored.instance
        (leaving if is_scaled_down(instance) else staying[instance.pool]).append(instance)
    return dict(staying), leaving


def _may_collect(scheduler: Scheduler, node: str, container: ObservedContainer) -> bool:
    key = (node, container.name)
    if scheduler.state.node_state(node) is not NodeState.REACHABLE:
        return False
    if key in scheduler.observed.collecting or key in scheduler.orphans.kept:
        return False
    stored = scheduler.observed.stored.get(container.instance_id)
    # An outdated report may list what was removed since.
    return stored is None or not scheduler.state.is_outdated(node, stored.instance)


URGENCY = {Reason.REPLACED: 0, Reason.NODE_REMOVED: 1, Reason.CHANGED: 2, Reason.ROTATED: 3}
"""The order in which instances that serve well are replaced."""


class PoolReconciler:
    """Decides for the instances of one pool."""

    def __init__(self, scheduler: Scheduler, pool: Pool, instances: Sequence[Instance]) -> None:
        self._scheduler = scheduler
        self._pool = pool
        self._digest = pool.workload.digest
        self._eligible = frozenset(
            node.name for node in scheduler.desired.nodes if is_eligible(node, pool)
        )
        self._serving_nodes = self._eligible & scheduler.state.reachable
        self._schedule = schedule_of(pool, scheduler.desired.limits)
        self._counts = StatusCounts()
        self._unhealthy: list[Instance] = []
        self._failed: list[Instance] = []
        self._waiting: list[Instance] = []
        """Those that need another place, now or once they have stopped."""
        self._outdated: list[tuple[Reason, Instance]] = []
        self.kept: Sequence[Instance] = instances
        self.surplus: Sequence[Instance] = ()
        if len(instances) > pool.count:
            ranked = scale_down_ranking(
                pool,
                instances,
                serving_nodes=self._serving_nodes,
                unhealthy=scheduler.observed.unhealthy,
            )
            self.kept, self.surplus = ranked[: pool.count], ranked[pool.count :]

    def repair(self) -> None:
        """Go on with what has been begun, and put right what is broken but has run."""
        earliest_start_s = self._scheduler.now_s - self._schedule.earliest_s
        for instance in self.kept:
            if instance.started_s <= earliest_start_s or not self._is_fine(instance):
                self._repair(instance)
        self._stop_unhealthy()

    def retries(self) -> Iterator[Retry]:
        """Yield what could not be started, and may be tried again now."""
        for instance in self._failed:
            reason = self._why_now(instance)
            if reason or self._scheduler.now_s >= instance.retry_at_s:
                yield Retry(instance, self._pool, reason)

    @property
    def has_to_move(self) -> bool:
        """Say whether any instance that serves well has to leave its node, and may do so now."""
        return Reason.NODE_REMOVED in dict(self._outdated) and self._n_replaceable > 0

    def reserve_capacity(self, *, at_most: int) -> int:
        """Reserve room for those that wait for it already, before more do; return for how many."""
        n_kept = 0
        for instance in self._waiting:
            if n_kept < at_most:
                n_kept += self._scheduler.reserve_capacity(instance, self._pool)
        return n_kept

    def drain_outdated(self, *, may_move: bool) -> None:
        """Drain the instances whose replacement is most urgent, as many as may be."""
        n_allowed = self._n_replaceable
        ranked = sorted(
            self._outdated, key=lambda one: (URGENCY[one[0]], one[1].started_s, one[1].id)
        )
        for reason, instance in ranked:
            if n_allowed <= 0:
                return
            if reason is not Reason.NODE_REMOVED:
                self._scheduler.add(Drain(instance.id, reason))
                n_allowed -= 1
            elif may_move and self._scheduler.migrate(instance, self._pool):
                n_allowed -= 1

    def complete(self, *, may_place: bool) -> None:
        """Make the instances that are missing, if they may be; give instances to developers."""
        assignment = DeveloperAssignment(self._pool, self.kept)
        for assign in assignment.changes():
            self._scheduler.add(assign)
        number = 0
        n_missing = self._pool.count - len(self.kept) if may_place else 0
        for _ in range(n_missing):
            if self._scheduler.is_full:
                return
            number = self._scheduler.free_number(self._pool, after=number)
            if not self._scheduler.create_instance(self._pool, number, assignment.waiting):
                return
            assignment.serve()

    @property
    def _n_replaceable(self) -> int:
        return replacements(self._pool, self._scheduler.desired.limits, self._counts)

    def _is_fine(self, instance: Instance) -> bool:
        """Say whether nothing is to be done about an instance, its age aside."""
        container = self._scheduler.state.current.get(instance.id)
        return (
            container is not None
            and container.state is ContainerState.RUNNING
            and instance.phase is Phase.RUNNING
            and instance.workload == self._digest
            and instance.node in self._serving_nodes
            and instance.id not in self._scheduler.observed.unhealthy
            and not container.is_out_of_memory
            and not instance.is_replace_asked
        )

    def _repair(self, instance: Instance) -> None:
        state = self._scheduler.state.node_state(instance.node)
        is_busy = instance.id in self._scheduler.observed.working
        self._counts.count(instance, is_down=self._is_down(instance, state))
        must_move = instance.phase in TERMINATING and instance.node not in self._eligible
        if must_move and (is_busy or state is not NodeState.LOST):
            self._waiting.append(instance)
        if is_busy:
            if reason := self._why_cancelled(instance):
                self._scheduler.cancel_start(instance, reason)
        elif instance.id not in self._scheduler.orphans.kept_ids:
            self._repair_idle(instance, state)

    def _repair_idle(self, instance: Instance, state: NodeState) -> None:
        """Repair what no operation is about, and what has no newer container that is kept."""
        if instance.phase is Phase.FAILED:
            self._failed.append(instance)
        elif state is NodeState.LOST:
            self._repair_lost(instance)
        elif state is NodeState.REACHABLE:
            self._RULES[instance.phase](self, instance)

    def _is_down(self, instance: Instance, state: NodeState) -> bool:
        if instance.id in self._scheduler.observed.unhealthy:
            return True
        seen = self._scheduler.state
        return state is NodeState.REACHABLE and (
            seen.is_out_of_memory(instance) or bool(seen.ending(instance))
        )

    def _repair_lost(self, instance: Instance) -> None:
        # Behind a node that is silent, an instance that still answers is not lost: it moves
        # where the node has left the specification, but no faster than any other.
        if instance.phase is not Phase.RUNNING or instance.id in self._scheduler.observed.unhealthy:
            self._move(instance, Reason.NODE_LOST)
        elif not self._scheduler.state.is_listed(instance.node):
            self._outdated.append((Reason.NODE_REMOVED, instance))

    def _repair_running(self, instance: Instance) -> None:
        is_out_of_memory = self._scheduler.state.is_out_of_memory(instance)
        if ending := self._scheduler.state.ending(instance):
            why = Reason.OUT_OF_MEMORY if is_out_of_memory else Reason.EXITED
            self._scheduler.stop(instance, why, ending)
        elif is_out_of_memory or instance.id in self._scheduler.observed.unhealthy:
            self._unhealthy.append(instance)
        elif reason := self._why_outdated(instance):
            self._outdated.append((reason, instance))

    def _repair_draining(self, instance: Instance) -> None:
        if has_drained(self._scheduler, instance, self._pool.rotation):
            ending = self._scheduler.state.ending(instance)
            self._scheduler.stop(instance, instance.reason or Reason.REPLACED, ending)

    def _repair_stopping(self, instance: Instance) -> None:
        self._scheduler.stop(instance, instance.reason or Reason.REPLACED)

    def _repair_starting(self, instance: Instance) -> None:
        if instance.workload == self._digest and instance.node in self._eligible:
            self._scheduler.start(instance, self._pool)
        elif instance.id in self._scheduler.state.current:
            self._scheduler.stop(instance, self._why_outdated(instance) or Reason.REPLACED)
        else:
            self._move(instance, self._why_outdated(instance))

    def _move(self, instance: Instance, reason: Reason | None = None) -> None:
        """Begin an instance's next generation; what waits for that has a claim to room."""
        if not self._scheduler.reschedule(instance, self._pool, reason):
            self._waiting.append(instance)

    def _why_now(self, instance: Instance) -> Reason | None:
        """Return why a failed instance need not wait for its back-off; None: it has to."""
        if instance.workload != self._digest:
            return Reason.CHANGED
        return Reason.REPLACED if instance.is_replace_asked else None

    _RULES: ClassVar = {
        Phase.STARTING: _repair_starting,
        Phase.RUNNING: _repair_running,
        Phase.DRAINING: _repair_draining,
        Phase.STOPPING: _repair_stopping,
    }

    def _why_outdated(self, instance: Instance) -> Reason | None:
        """Return why an instance that serves well is replaced; None: it is not."""
        age_s = self._scheduler.now_s - instance.started_s
        if instance.is_replace_asked:
            return Reason.REPLACED
        if instance.node not in self._eligible:
            return Reason.NODE_REMOVED
        if instance.workload != self._digest:
            return Reason.CHANGED
        if age_s >= self._schedule.due_age_s(instance.id):
            return Reason.ROTATED
        return None

    def _why_cancelled(self, instance: Instance) -> Reason | None:
        """Return why a start that goes on is cancelled; None: it is not.

        One on a node that it has to leave goes on: there may be no room elsewhere.
        """
        if instance.phase is Phase.STOPPING:
            return instance.reason or Reason.REPLACED
        return Reason.CHANGED if instance.workload != self._digest else None

    def _stop_unhealthy(self) -> None:
        """Stop the instances that have been unhealthy for longest, as many as may be."""
        n_allowed = unhealthy_stops(self._pool, self._scheduler.desired.limits, self._counts)
        ranked = sorted(self._unhealthy, key=lambda one: (self._why_unhealthy(one).since_s, one.id))
        for instance in ranked[: max(0, n_allowed)]:
            is_out_of_memory = self._scheduler.state.is_out_of_memory(instance)
            reason = Reason.OUT_OF_MEMORY if is_out_of_memory else Reason.UNHEALTHY
            if self._scheduler.stop(instance, reason, self._why_unhealthy(instance).fault):
                self._counts.n_moving += 1
                self._counts.n_down -= 1

    def _why_unhealthy(self, instance: Instance) -> Unhealthy:
        """Return what is wrong with an instance that runs; that it lacks memory says the most."""
        if self._scheduler.state.is_out_of_memory(instance):
            return Unhealthy(math.inf, KILLED_WORDS)
        return self._scheduler.observed.unhealthy[instance.id]


def is_scaled_down(instance: Instance) -> bool:
    """Say whether an instance terminates and does not come back."""
    return instance.phase in TERMINATING and instance.reason in FOR_GOOD


def scale_down(scheduler: Scheduler, instance: Instance, rotation: Rotation) -> None:
    """Take the next step towards the end of an instance, if one can be taken now."""
    if instance.id in scheduler.observed.working:
        scheduler.cancel_start(instance, Reason.SCALED_DOWN)
        return
    state = scheduler.state.node_state(instance.node)
    # A lost node that is listed may return with its containers: without records, as orphans.
    is_node_gone = state is NodeState.LOST and not scheduler.state.is_listed(instance.node)
    is_draining = instance.phase is Phase.DRAINING
    if instance.phase is Phase.FAILED or is_node_gone:
        scheduler.add(DeleteRecord(instance.id))
    elif instance.phase is Phase.RUNNING or (is_draining and instance.reason not in FOR_GOOD):
        scheduler.add(Drain(instance.id, Reason.SCALED_DOWN))
    elif state is NodeState.REACHABLE and (
        not is_draining or has_drained(scheduler, instance, rotation)
    ):
        scheduler.stop(instance, Reason.SCALED_DOWN)


def has_drained(scheduler: Scheduler, instance: Instance, rotation: Rotation) -> bool:
    """Say whether a draining instance had its time, or has nothing under way, or has ended."""
    is_over = scheduler.now_s - instance.phase_since_s >= rotation.drain_s
    is_idle = instance.container in scheduler.observed.idle
    return is_over or is_idle or bool(scheduler.state.ending(instance))


class Retry(NamedTuple):
    """A failed instance that may be started again."""

    instance: Instance
    pool: Pool
    reason: Reason | None
    """Why it need not wait until its back-off is over; None: it is over."""


def retry_queue(retries: Iterable[Retry]) -> list[Retry]:
    """Return them in their turn: first those that a person changed or asked for."""
    return sorted(
        retries, key=lambda one: (one.reason is None, one.instance.retry_at_s, one.instance.id)
    )


KEPT_FIRST = {
    Phase.RUNNING: 0,
    Phase.DRAINING: 1,
    Phase.STARTING: 2,
    Phase.STOPPING: 3,
    Phase.FAILED: 4,
}


def scale_down_ranking(
    pool: Pool,
    instances: Iterable[Instance],
    *,
    serving_nodes: Collection[str],
    unhealthy: Collection[str],
) -> list[Instance]:
    """Return a pool's instances, those that are kept first in front.

    Where the pool is spread, the nodes with most of its instances lose one first.
    """
    developers = frozenset(pool.developers)

    def rank(one: Instance) -> tuple[bool, int, bool, bool]:
        return (
            one.id in unhealthy,
            KEPT_FIRST[one.phase],
            one.node not in serving_nodes,
            one.developer not in developers,
        )

    ranked = sorted(instances, key=lambda one: (rank(one), -one.started_s, one.id))
    if pool.placement.strategy is PlacementStrategy.SPREAD:
        n_on_node: Counter[str] = Counter()
        n_before: dict[str, int] = {}
        for one in ranked:
            n_before[one.id] = n_on_node[one.node]
            n_on_node[one.node] += 1
        ranked.sort(key=lambda one: (rank(one), n_before[one.id]))
    return ranked


READINESS = {
    Phase.RUNNING: 0,
    Phase.STARTING: 1,
    Phase.DRAINING: 2,
    Phase.STOPPING: 3,
    Phase.FAILED: 4,
}


class DeveloperAssignment:
    """Who of a pool's developers waits for an instance, and which instances must be given back."""

    def __init__(self, pool: Pool, instances: Sequence[Instance]) -> None:
        listed = frozenset(pool.developers)
        served: set[str] = set()
        self._returned: list[Instance] = []
        self._free: list[Instance] = []
        for instance in instances:
            developer = instance.developer
            if not developer:
                self._free.append(instance)
            elif developer in listed and developer not in served:
                served.add(developer)
            else:
                self._returned.append(instance)
        self._waiting = [name for name in dict.fromkeys(pool.developers) if name not in served]

    def changes(self) -> list[AssignDeveloper]:
        """Return what must change for the instances that there are."""
        free = sorted(self._free + self._returned, key=lambda one: (READINESS[one.phase], one.id))
        assigns = [
            AssignDeveloper(one.id, name) for one, name in zip(free, self._waiting, strict=False)
        ]
        del self._waiting[: len(assigns)]
        taken = {assign.id for assign in assigns}
        assigns += [AssignDeveloper(one.id, "") for one in self._returned if one.id not in taken]
        return assigns

    @property
    def waiting(self) -> str:
        """Return who gets the next instance that is made; empty: nobody waits."""
        return self._waiting[0] if self._waiting else ""

    def serve(self) -> None:
        """Take note that an instance was made for who waited."""
        del self._waiting[:1]


MARGIN_S = 0.001
"""A drain has to be over when it is looked at, however clocks round."""


def next_wakeup_s(desired: Fleet, stored: Mapping[str, StoredInstance], *, now_s: float) -> float:
    """Return how long it takes until the next drain is over; infinite where there is none."""
    drain_s = {pool.name: pool.rotation.drain_s for pool in desired.pools}
    ends_s = (
        one.instance.phase_since_s + drain_s.get(one.instance.pool, Rotation().drain_s) + MARGIN_S
        for one in stored.values()
        if one.instance.phase is Phase.DRAINING
    )
    return min((end_s - now_s for end_s in ends_s if end_s > now_s), default=math.inf)
