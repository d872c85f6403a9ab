"""Decide, from what is wanted and what is observed, which actions come next; pure."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from provisioning.actions import Action, Assign, Observed, Unhealthy
from provisioning.model import (
    FOR_GOOD,
    ContainerState,
    Fleet,
    Instance,
    Limits,
    Node,
    ObservedContainer,
    Phase,
    Pool,
    Reason,
    Rotation,
    Spread,
)
from provisioning.scheduler import (
    ActionPlan,
    StatusCounts,
    allowed_down,
    is_suitable,
    replacements,
    unhealthy_stops,
)
from provisioning.state import NodeState, Usage
from provisioning.workload import workload_digest

MOST_KEPT = 300
"""For so many that wait is room sought in a pass, each time on all nodes, before a healthy instance
is moved. While more wait none is: a pass must not take seconds."""


def decide(desired: Fleet, observed: Observed, now_s: float) -> tuple[Action, ...]:
    """Return what is to be done now.

    At most one action that changes any one instance's container.
    """
    plan = ActionPlan(desired, observed, now_s=now_s)
    pool_by_name = {pool.name: pool for pool in desired.pools}
    staying, leaving = _sort(observed)
    pools = [PoolReconciler(plan, pool, staying.pop(pool.name, ())) for pool in desired.pools]
    for instances in staying.values():  # of pools that the specification does not have any more
        leaving += instances
    for one in pools:
        leaving += one.surplus
    _repair_all(plan, pools)
    for instance in leaving:
        scale_down(plan, instance, _rotation(pool_by_name.get(instance.pool)))
    for one in pools:
        one.complete(may_place=plan.orphans.may_place)
    # Last: however many removals hang, they take no operation from what somebody waits for.
    for node, container in plan.state.unwanted:
        if _may_collect(plan, node, container):
            plan.collect(node, container.name)
    return tuple(plan.actions)


def _repair_all(plan: ActionPlan, pools: Sequence[PoolReconciler]) -> None:
    """Let all pools mend what was healthy before any has an operation for what never was."""
    for one in pools:
        one.repair()
    failed = [retry for one in pools for retry in one.retries()]
    for retry in retry_queue(failed, now_s=plan.now_s):
        plan.replace_unit(retry.instance, retry.pool, retry.reason)
    may_move = _reserve_capacity(pools)
    for one in pools:
        one.replace(may_move=may_move)


def _reserve_capacity(pools: Sequence[PoolReconciler]) -> bool:
    """Keep room for those that wait for it; say whether others may give up their place now."""
    if not any(one.has_to_move for one in pools):
        return False
    n_left = MOST_KEPT
    for one in pools:
        n_left -= one.reserve_capacity(at_most=n_left)
    return n_left > 0


def _rotation(pool: Pool | None) -> Rotation:
    return pool.rotation if pool else Rotation()


def _sort(observed: Observed) -> tuple[dict[str, list[Instance]], list[Instance]]:
    """Return the instances by pool, and apart from them those on their way out."""
    staying: defaultdict[str, list[Instance]] = defaultdict(list)
    leaving: list[Instance] = []
    for stored in observed.stored.values():
        instance = stored.instance
        (leaving if is_leaving(instance) else staying[instance.pool]).append(instance)
    return dict(staying), leaving


def _may_collect(plan: ActionPlan, node: str, container: ObservedContainer) -> bool:
    if plan.state.state(node) is not NodeState.REACHABLE:
        return False
    if (node, container.name) in plan.observed.collecting or (
        node,
        container.name,
    ) in plan.orphans.kept:
        return False
    stored = plan.observed.stored.get(container.instance_id)
    # An outdated report may tell of what has gone since.
    return stored is None or not plan.state.is_outdated(node, stored.instance)


URGENCY = {Reason.REPLACED: 0, Reason.NODE_REMOVED: 1, Reason.CHANGED: 2, Reason.ROTATED: 3}
"""In which order instances that serve well are replaced."""
KILLED_WORDS = "the kernel killed a process of it for want of memory; raise the pool's `memory`"


class PoolReconciler:
    """One pass over the instances of one pool."""

    def __init__(self, plan: ActionPlan, pool: Pool, instances: Sequence[Instance]) -> None:
        self._plan = plan
        self._pool = pool
        self._digest = workload_digest(pool.workload)
        self._suitable = frozenset(
            node.name for node in plan.desired.nodes if is_suitable(node, pool)
        )
        self._serving_nodes = self._suitable & plan.state.reachable
        self._schedule = schedule_of(pool, plan.desired.limits)
        self._counts = StatusCounts()
        self._unhealthy: list[Instance] = []
        self._failed: list[Instance] = []
        self._waiting: list[Instance] = []
        """Those that need another place, now or once they have stopped."""
        self._outdated: list[tuple[Reason, Instance]] = []
        self.kept: Sequence[Instance] = instances
        self.surplus: Sequence[Instance] = ()
        if len(instances) > pool.count:
            ranked = self._ranked(instances)
            self.kept, self.surplus = ranked[: pool.count], ranked[pool.count :]

    def repair(self) -> None:
        """Go on with what has been begun, and put right what is broken but has run."""
        earliest_start_s = self._plan.now_s - self._schedule.earliest_s
        for instance in self.kept:
            if instance.started_s <= earliest_start_s or not self._is_fine(instance):
                self._repair(instance)
        self._stop_unhealthy()

    def retries(self) -> Iterator[Retry]:
        """Yield what could not be started, and may be tried again now."""
        for instance in self._failed:
            reason = why_anew(instance, self._digest)
            if reason or self._is_due(instance):
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
                n_kept += self._plan.reserve_capacity(instance, self._pool)
        return n_kept

    def replace(self, *, may_move: bool) -> None:
        """Drain the instances whose replacement is most urgent, as many as may be."""
        n_allowed = self._n_replaceable
        ranked = sorted(
            self._outdated, key=lambda one: (URGENCY[one[0]], one[1].started_s, one[1].id)
        )
        for reason, instance in ranked:
            if n_allowed <= 0:
                return
            if reason is not Reason.NODE_REMOVED:
                self._plan.drain(instance, reason)
                n_allowed -= 1
            elif may_move and self._plan.migrate(instance, self._pool):
                n_allowed -= 1

    def complete(self, *, may_place: bool) -> None:
        """Make the instances that are missing, if they may be; give instances to developers."""
        assignment = Assignment(self._pool, self.kept)
        for assign in assignment.changes():
            self._plan.assign(assign)
        number = 0
        n_missing = self._pool.count - len(self.kept) if may_place else 0
        for _ in range(n_missing):
            if self._plan.is_full:
                return
            number = self._plan.free_number(self._pool, after=number)
            if not self._plan.create_instance(self._pool, number, assignment.waiting):
                return
            assignment.serve()

    @property
    def _n_replaceable(self) -> int:
        return replacements(self._pool, self._plan.desired.limits, self._counts)

    def _ranked(self, instances: Sequence[Instance]) -> list[Instance]:
        """Return the instances, those in front that stay where there are too many."""
        keeping = ScaleDownRanking(
            self._pool,
            self._plan.desired.nodes,
            serving_nodes=self._serving_nodes,
            unhealthy=self._plan.observed.unhealthy.keys(),
        )
        stored = self._plan.observed.stored.values()
        others = (one.instance for one in stored if one.instance.pool != self._pool.name)
        return keeping.ranked(instances, others)

    def _is_fine(self, instance: Instance) -> bool:
        """Say whether nothing is to be done about an instance, its age aside."""
        container = self._plan.state.current.get(instance.id)
        return (
            container is not None
            and container.state is ContainerState.RUNNING
            and instance.phase is Phase.RUNNING
            and instance.workload == self._digest
            and instance.node in self._serving_nodes
            and instance.id not in self._plan.observed.unhealthy
            and not container.is_out_of_memory
            and not instance.is_replace_asked
        )

    def _repair(self, instance: Instance) -> None:
        state = self._plan.state.state(instance.node)
        is_busy = instance.id in self._plan.observed.working
        self._counts.count(instance, is_down=self._is_down(instance, state))
        is_leaving = instance.phase in LEAVING and instance.node not in self._suitable
        if is_leaving and (is_busy or state is not NodeState.LOST):
            self._waiting.append(instance)
        if is_busy:
            if reason := self._why_in_vain(instance):
                self._plan.cancel_start(instance, reason)
        elif instance.id not in self._plan.orphans.kept_ids:
            self._repair_idle(instance, state)

    def _repair_idle(self, instance: Instance, state: NodeState) -> None:
        """Mend what no operation is about, and what has no newer container that is kept."""
        if instance.phase is Phase.FAILED:
            self._failed.append(instance)
        elif state is NodeState.LOST:
            self._repair_lost(instance)
        elif state is NodeState.REACHABLE:
            self._RULES[instance.phase](self, instance)

    def _is_down(self, instance: Instance, state: NodeState) -> bool:
        if instance.id in self._plan.observed.unhealthy:
            return True
        seen = self._plan.state
        return state is NodeState.REACHABLE and (
            seen.is_out_of_memory(instance) or bool(seen.ending(instance))
        )

    def _repair_lost(self, instance: Instance) -> None:
        # Behind a node that is silent, an instance that still answers is not lost: it moves
        # where the node has left the specification, but no faster than any other.
        if instance.phase is not Phase.RUNNING or instance.id in self._plan.observed.unhealthy:
            self._move(instance, Reason.NODE_LOST)
        elif not self._plan.state.is_listed(instance.node):
            self._outdated.append((Reason.NODE_REMOVED, instance))

    def _repair_running(self, instance: Instance) -> None:
        is_out_of_memory = self._plan.state.is_out_of_memory(instance)
        if ending := self._plan.state.ending(instance):
            why = Reason.OUT_OF_MEMORY if is_out_of_memory else Reason.EXITED
            self._plan.stop(instance, why, ending)
        elif is_out_of_memory or instance.id in self._plan.observed.unhealthy:
            self._unhealthy.append(instance)
        elif reason := self._why_outdated(instance):
            self._outdated.append((reason, instance))

    def _repair_draining(self, instance: Instance) -> None:
        if has_drained(self._plan, instance, self._pool.rotation):
            ending = self._plan.state.ending(instance)
            self._plan.stop(instance, instance.reason or Reason.REPLACED, ending)

    def _repair_stopping(self, instance: Instance) -> None:
        self._plan.stop(instance, instance.reason or Reason.REPLACED)

    def _repair_starting(self, instance: Instance) -> None:
        if instance.workload == self._digest and instance.node in self._suitable:
            self._plan.start(instance, self._pool)
        elif instance.id in self._plan.state.current:
            self._plan.stop(instance, self._why_outdated(instance) or Reason.REPLACED)
        else:
            self._move(instance, self._why_outdated(instance))

    def _move(self, instance: Instance, reason: Reason | None = None) -> None:
        """Begin an instance's next generation; what waits for that has a claim to room."""
        if not self._plan.replace_unit(instance, self._pool, reason):
            self._waiting.append(instance)

    def _is_due(self, instance: Instance) -> bool:
        return is_due(
            instance,
            self._plan.desired.limits,
            suitable=self._suitable,
            serving=self._serving_nodes,
            now_s=self._plan.now_s,
        )

    _RULES: ClassVar = {
        Phase.STARTING: _repair_starting,
        Phase.RUNNING: _repair_running,
        Phase.DRAINING: _repair_draining,
        Phase.STOPPING: _repair_stopping,
    }

    def _why_outdated(self, instance: Instance) -> Reason | None:
        """Return why an instance that serves well is replaced; None: it is not."""
        age_s = self._plan.age_s(instance)
        if instance.is_replace_asked:
            return Reason.REPLACED
        if instance.node not in self._suitable:
            return Reason.NODE_REMOVED
        if instance.workload != self._digest:
            return Reason.CHANGED
        if age_s >= self._schedule.due_age_s(instance.id):
            return Reason.ROTATED
        return None

    def _why_in_vain(self, instance: Instance) -> Reason | None:
        """Return why a start that goes on is called off; None: it is not.

        One on a node that it has to leave goes on: there may be no room elsewhere.
        """
        if instance.phase is Phase.STOPPING:
            return instance.reason or Reason.REPLACED
        return Reason.CHANGED if instance.workload != self._digest else None

    def _stop_unhealthy(self) -> None:
        """Stop the instances that have been unhealthy for longest, as many as may be."""
        n_allowed = unhealthy_stops(self._pool, self._plan.desired.limits, self._counts)
        ranked = sorted(self._unhealthy, key=lambda one: (self._why_unhealthy(one).since_s, one.id))
        for instance in ranked[: max(0, n_allowed)]:
            is_out_of_memory = self._plan.state.is_out_of_memory(instance)
            reason = Reason.OUT_OF_MEMORY if is_out_of_memory else Reason.UNHEALTHY
            if self._plan.stop(instance, reason, self._why_unhealthy(instance).fault):
                self._counts.n_moving += 1
                self._counts.n_down -= 1

    def _why_unhealthy(self, instance: Instance) -> Unhealthy:
        """Return what is wrong with an instance that runs; that it lacks memory says the most."""
        if self._plan.state.is_out_of_memory(instance):
            return Unhealthy(math.inf, KILLED_WORDS)
        return self._plan.observed.unhealthy[instance.id]


LEAVING = frozenset({Phase.DRAINING, Phase.STOPPING})


def is_leaving(instance: Instance) -> bool:
    """Say whether an instance is on its way out for good."""
    return instance.phase in LEAVING and instance.reason in FOR_GOOD


def scale_down(plan: ActionPlan, instance: Instance, rotation: Rotation) -> None:
    """Take the next step towards the end of an instance, if one can be taken now."""
    if instance.id in plan.observed.working:
        plan.cancel_start(instance, Reason.SCALED_DOWN)
        return
    state = plan.state.state(instance.node)
    if instance.phase is Phase.FAILED or _is_out_of_sight(plan, instance.node, state):
        plan.delete_record(instance)
    elif instance.phase is Phase.RUNNING or not _is_in_order(instance):
        plan.drain(instance, Reason.SCALED_DOWN)
    elif state is NodeState.REACHABLE and _may_stop(plan, instance, rotation):
        plan.stop(instance, Reason.SCALED_DOWN)


def _is_out_of_sight(plan: ActionPlan, node: str, state: NodeState) -> bool:
    """Say whether a node is lost and has left the specification.

    One that is listed may return, with its containers: without their records they would be orphans,
    and many of them a reason to doubt the store.
    """
    return state is NodeState.LOST and not plan.state.is_listed(node)


def _is_in_order(instance: Instance) -> bool:
    """Say whether a draining instance knows that it does not come back."""
    return instance.phase is not Phase.DRAINING or instance.reason in FOR_GOOD


def _may_stop(plan: ActionPlan, instance: Instance, rotation: Rotation) -> bool:
    return instance.phase is not Phase.DRAINING or has_drained(plan, instance, rotation)


def has_drained(plan: ActionPlan, instance: Instance, rotation: Rotation) -> bool:
    """Say whether a draining instance had its time, or has nothing under way, or has ended."""
    # Negative once the clock was set back: then nobody knows how long it has drained.
    is_over = not 0 <= plan.now_s - instance.since_s < rotation.drain_s
    is_idle = instance.container in plan.observed.idle
    return is_over or is_idle or bool(plan.state.ending(instance))


MOST_NODES_TRIED = 3
"""A start that fails for good on so many nodes fails by the workload's fault."""


class Retry(NamedTuple):
    """A failed instance that may be started anew."""

    instance: Instance
    pool: Pool
    reason: Reason | None
    """Why it need not wait until it is due; None: it is due."""


def why_anew(instance: Instance, digest: str) -> Reason | None:
    """Return why a failed instance need not wait until it is due; None: it has to.

    The digest is that of the workload which it is to have.
    """
    if instance.workload != digest:
        return Reason.CHANGED
    return Reason.REPLACED if instance.is_replace_asked else None


def is_due(
    instance: Instance,
    limits: Limits,
    *,
    suitable: frozenset[str],
    serving: frozenset[str],
    now_s: float,
) -> bool:
    """Say whether a failed instance's time has come, given the nodes that suit it and serve.

    One that has failed for good is due as long as that may be its nodes' fault.
    """
    if not instance.retry_at_s:
        tried = {*instance.failed_on, instance.node} & suitable
        return len(tried) < MOST_NODES_TRIED and bool(serving - tried)
    # No wait is longer than the longest: then the clock was set back.
    return not 0 < instance.retry_at_s - now_s <= max(1.0, limits.retry_failed_s)


def retry_queue(retries: Iterable[Retry], *, now_s: float) -> list[Retry]:
    """Return them in their turn: before all others those that somebody changed or asked for.

    None of these is one of them any more once it was tried, so they keep nobody waiting for ever.
    """
    return sorted(
        retries,
        key=lambda one: (one.reason is None, _due_s(one.instance, now_s), one.instance.id),
    )


def _due_s(instance: Instance, now_s: float) -> float:
    """Return since when an instance may be tried again."""
    due_s = instance.retry_at_s or instance.since_s
    # Later than now: the clock was set back since, which makes it older than all others.
    return due_s if due_s <= now_s else 0.0


KEPT_FIRST = {
    Phase.RUNNING: 0,
    Phase.DRAINING: 1,
    Phase.STARTING: 2,
    Phase.STOPPING: 3,
    Phase.FAILED: 4,
}
Rank = tuple[bool, int, bool, bool]


class ScaleDownRanking:
    """Puts the instances of one pool in order."""

    def __init__(
        self,
        pool: Pool,
        nodes: Iterable[Node],
        *,
        serving_nodes: Collection[str],
        unhealthy: Collection[str],
    ) -> None:
        self._pool = pool
        self._nodes = tuple(nodes)
        self._serving_nodes = serving_nodes
        self._unhealthy = unhealthy
        self._developers = frozenset(pool.developers)

    def ranked(self, instances: Iterable[Instance], others: Iterable[Instance]) -> list[Instance]:
        """Return the pool's instances, those that are kept first in front.

        `others` are of other pools, and fill the nodes as well.
        """
        ranked = sorted(instances, key=lambda one: (self._rank(one), -one.started_s, one.id))
        if self._pool.placement.strategy is Spread.SPREAD:
            share_by_id = self._shares(ranked, others)
            ranked.sort(key=lambda one: (self._rank(one), share_by_id[one.id]))
        return ranked

    def _rank(self, instance: Instance) -> Rank:
        return (
            instance.id in self._unhealthy,
            KEPT_FIRST[instance.phase],
            instance.node not in self._serving_nodes,
            instance.developer not in self._developers,
        )

    def _shares(
        self, ranked: Sequence[Instance], others: Iterable[Instance]
    ) -> Mapping[str, float]:
        """Return how full each instance's node is with it, and with those kept before it."""
        usages = {node.name: Usage(node) for node in self._nodes}
        shares = {}
        for instance in others:
            if usage := usages.get(instance.node):
                usage.count(instance)
        for instance in ranked:
            usage = usages.get(instance.node)
            if usage:
                usage.count(instance)
            shares[instance.id] = usage.share if usage else 0.0
        return shares


SPREAD_RATIO = 1 / 7
"""Share of the period over which a pool created at once is replaced, if it need not take longer."""
PASSES_S = 5.0
"""For the passes that notice that a drain, a stop and a start have ended."""


class Throughput(NamedTuple):
    """How fast a pool can be rotated."""

    turn_s: float
    """From the drain of an instance until it runs again, at most."""
    n_at_once: int
    bounds: tuple[str, ...]
    """The settings that keep it from being more at once."""
    whole_s: float
    """To replace all instances of the pool."""


class Schedule(NamedTuple):
    """The ages at which a pool's instances are due."""

    earliest_s: float
    latest_s: float

    def due_age_s(self, instance_id: str) -> float:
        """Return the age at which an instance is due; infinite where the pool does not rotate."""
        if math.isinf(self.latest_s):
            return self.latest_s
        return self.latest_s - (self.latest_s - self.earliest_s) * phase_ratio(instance_id)


def phase_ratio(instance_id: str) -> float:
    """Return a number that stays with the id: 0 <= ratio < 1, evenly spread over ids."""
    digest = hashlib.blake2b(instance_id.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def warm_up_s_of(pool: Pool) -> float:
    """Return how long an instance of a pool is expected to load its model before it is ready."""
    return pool.rotation.warm_up_s if pool.workload.warm_up else 0.0


def throughput_of(pool: Pool, limits: Limits) -> Throughput:
    """Return how fast a pool can be rotated.

    Stops and starts take as long as they may, and models load as long as is expected: as long as
    `limits.warm_up_timeout` allows would be hours a turn.
    """
    operation_s = limits.stop_grace_s + limits.start_timeout_s + warm_up_s_of(pool)
    operation_s = max(0.001, operation_s)
    turn_s = pool.rotation.drain_s + operation_s + PASSES_S
    n_by_bound = {
        "at_once": pool.rotation.at_once,
        "limits.unavailable": allowed_down(pool, limits),
        # While an instance drains, it takes no operation.
        "limits.operations": max(1, int(limits.operations * turn_s / operation_s)),
    }
    n_at_once = min(n_by_bound.values())
    return Throughput(
        turn_s=turn_s,
        n_at_once=n_at_once,
        bounds=tuple(name for name, n in n_by_bound.items() if n == n_at_once),
        whole_s=turn_s * -(-pool.count // n_at_once),
    )


def schedule_of(pool: Pool, limits: Limits) -> Schedule:
    """Return the ages at which a pool's instances are due."""
    every_s = pool.rotation.every_s
    if every_s <= 0:
        return Schedule(math.inf, math.inf)
    whole_s = throughput_of(pool, limits).whole_s
    if whole_s > every_s:
        # It cannot be kept: to begin earlier would replace young instances again and again.
        whole_s = 0.0
    return Schedule(every_s - max(SPREAD_RATIO * every_s, whole_s), every_s - whole_s)


READINESS = {
    Phase.RUNNING: 0,
    Phase.STARTING: 1,
    Phase.DRAINING: 2,
    Phase.STOPPING: 3,
    Phase.FAILED: 4,
}


class Assignment:
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

    def changes(self) -> list[Assign]:
        """Return what must change for the instances that there are."""
        free = sorted(self._free + self._returned, key=lambda one: (READINESS[one.phase], one.id))
        assigns = [Assign(one.id, name) for one, name in zip(free, self._waiting, strict=False)]
        del self._waiting[: len(assigns)]
        taken = {assign.id for assign in assigns}
        assigns += [Assign(one.id, "") for one in self._returned if one.id not in taken]
        return assigns

    @property
    def waiting(self) -> str:
        """Return who gets the next instance that is made; empty: nobody waits."""
        return self._waiting[0] if self._waiting else ""

    def serve(self) -> None:
        """Take note that an instance was made for who waited."""
        del self._waiting[:1]
