"""The current state of the simulated fleet: its instances and their active faults."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain

from provisioning.simulator.errors import UnknownFaultError
from provisioning.simulator.faults import Fault, Kind, read_fault, select
from provisioning.simulator.instance import (
    NOTHING,
    Condition,
    Counters,
    Lifetime,
    ModelStore,
    changed,
    new_lifetime,
    speed_partly_on_cpu,
    with_request,
)
from provisioning.simulator.spec import RELEASE_BY_VERSION, FleetSpec, Instance, instances_of

OF_RUNNER = frozenset({Kind.RUNNER_HANG, Kind.RUNNER_KILL, Kind.RUNNER_OOM})
KILLS_RUNNER = frozenset({Kind.RUNNER_KILL, Kind.RUNNER_OOM})
ENDS_WITH_RUNNER = frozenset({Kind.RUNNER_HANG, Kind.RUNNER_KILL})
OF_MODELS = frozenset({Kind.RUNNER_OOM, Kind.UNLOAD, Kind.NO_MODEL})
"""Healing one has the instance's own model loaded again."""
ALTERS_ANSWERS = (
    frozenset(Kind)
    - OF_RUNNER
    - OF_MODELS
    - {Kind.SLOW, Kind.ERRORS, Kind.SHRINK, Kind.PARTLY_CPU, Kind.BUSY, Kind.RESTART}
)
ENDS_PROCESS = frozenset({Kind.KILL, Kind.OOM_KILL, Kind.NODE_GONE})
STOPS_WORK = ENDS_PROCESS | {Kind.HANG, Kind.LOADING, Kind.OOM_RESTART}
STOPS_MODEL = frozenset({Kind.RUNNER_HANG, Kind.RUNNER_OOM, Kind.NO_MODEL})
LOADING = Fault(Kind.LOADING)
OUT_OF_MEMORY = Counters(out_of_memory=1.0)


@dataclass(frozen=True, slots=True)
class ActiveFault:
    """A fault that was injected and not healed yet."""

    id: str
    fault: Fault
    indices: frozenset[int]
    """Of the instances that it befalls."""
    since_s: float
    ends_s: float = math.inf
    """Of a restart; other faults last until they are healed."""

    def is_over(self, now_s: float) -> bool:
        """Say whether a restart has ended."""
        return now_s >= self.ends_s

    def as_json(self) -> dict[str, object]:
        """Return the fault as the control API writes it."""
        return {
            "id": self.id,
            **self.fault.as_json(),
            "instances": len(self.indices),
            "since": self.since_s,
        }


def identity_of(instance: Instance) -> bytes:
    """Return model and version as they stand in /api/metrics."""
    return f'"model":"{instance.model.name}","version":"{instance.release.version}"'.encode()


class InstanceState:
    """What changes about one instance."""

    __slots__ = (
        "busy_s",
        "cpu_ratio",
        "identity",
        "instance",
        "is_absent",
        "life",
        "models",
        "n_asked",
        "n_generating",
        "n_runners_killed",
        "n_waiting",
        "runner",
        "starting",
        "trouble",
    )

    def __init__(self, instance: Instance, life: Lifetime) -> None:
        self.instance = instance
        self.life = life
        self.identity = identity_of(instance)
        self.is_absent = False
        """True for good once it has ended; whoever follows in its place has a state of its own."""
        self.starting: ActiveFault | None = None
        """What it does before it serves, where it began while somebody watched."""
        self.trouble: ActiveFault | None = None
        """Which of its faults decides how it answers; None: it answers well."""
        self.models: ModelStore | None = None
        """None: what is installed is as at first, and its own model is loaded."""
        self.runner: ActiveFault | None = None
        """The fault of the process that runs its models."""
        self.cpu_ratio = 0.0
        """How much of a model is not in its GPU's memory."""
        self.busy_s = 0.0
        """How long other clients' requests take before each that it is asked."""
        self.n_runners_killed = 0
        """How often a fault has killed the process that runs its models."""
        self.n_asked = 0
        """Requests to generate text, those that failed included."""
        self.n_generating = 0
        self.n_waiting = 0


class Fleet:
    """All instances and all active faults."""

    def __init__(
        self,
        spec: FleetSpec,
        *,
        clock: Callable[[], float],
        instances: Sequence[Instance] | None = None,
    ) -> None:
        self.spec = spec
        self.clock = clock
        self.n_changes_of_roster = 0
        """How often an instance has begun or ended."""
        now_s = clock()
        self.states = {
            instance.index: InstanceState(
                instance, new_lifetime(instance, start_s=now_s - instance.age_s)
            )
            for instance in (instances_of(spec) if instances is None else instances)
        }
        """By index; where nobody lives, there is none."""
        self._active: dict[str, ActiveFault] = {}
        self._n_injected = 0
        self._watchers: list[Callable[[frozenset[int]], None]] = []

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Return all instances there are, in the order in which they began."""
        return tuple(state.instance for state in self.states.values())

    @property
    def faults(self) -> tuple[ActiveFault, ...]:
        """Return the active faults, oldest first."""
        return tuple(self._active.values())

    @property
    def unlisted(self) -> frozenset[int]:
        """Return the indices of the instances that have left the inventory."""
        return frozenset().union(
            *(active.indices for active in self.faults if active.fault.kind is Kind.SHRINK)
        )

    @property
    def listed(self) -> list[Instance]:
        """Return the instances that the inventory shows."""
        unlisted = self.unlisted
        return [instance for instance in self.instances if instance.index not in unlisted]

    def is_gone(self, node: str) -> bool:
        """Say whether a node does not answer, as a fault has it."""
        return any(
            active.fault.kind is Kind.NODE_GONE and active.fault.node == node
            for active in self._active.values()
        )

    def watch(self, watcher: Callable[[frozenset[int]], None]) -> None:
        """Have `watcher` called with the indices of changed instances after every change."""
        self._watchers.append(watcher)

    def inject(self, fault: Fault | str, **parameters: object) -> ActiveFault:
        """Let a fault befall the instances that it selects; `inject("kill", count=200)` works too.

        Raises:
            FaultError: It cannot be read, or selects nothing.
        """
        if isinstance(fault, str):
            fault = read_fault({"kind": fault, **parameters})
        taken = frozenset().union(*(active.indices for active in self._active.values()))
        indices = select(fault, self.instances, taken=taken, seed=self.spec.seed)
        self._n_injected += 1
        now_s = self.clock()
        ends_s = now_s + fault.seconds if fault.kind is Kind.OOM_RESTART else math.inf
        active = ActiveFault(f"fault-{self._n_injected}", fault, indices, now_s, ends_s)
        self._active[active.id] = active
        self._settle(indices, begun=active)
        return active

    def heal(self, fault_id: str | None = None) -> tuple[ActiveFault, ...]:
        """End one fault, or all of them; return those that ended.

        Raises:
            UnknownFaultError: No active fault has this id.
        """
        if fault_id is None:
            healed = tuple(self._active.values())
        elif fault_id in self._active:
            healed = (self._active[fault_id],)
        else:
            raise UnknownFaultError(f"no active fault has the id {fault_id!r}")
        for active in healed:
            del self._active[active.id]
            if active.fault.kind in OF_MODELS:
                for index in active.indices:
                    self.states[index].models = None
        self._settle(frozenset().union(*(active.indices for active in healed)))
        return healed

    def begin(self, instance: Instance, *, load_s: float) -> None:
        """Start an instance where nobody lives; it serves once it has been loading for `load_s`."""
        index, now_s = instance.index, self.clock()
        state = InstanceState(instance, new_lifetime(instance, start_s=now_s))
        state.starting = ActiveFault("", LOADING, frozenset({index}), now_s, now_s + load_s)
        self.states[index] = state
        self.n_changes_of_roster += 1
        self._settle(frozenset({index}))

    def end(self, index: int) -> None:
        """End an instance; no fault is upon it, or upon who follows in its place, any more."""
        self.states.pop(index).is_absent = True
        self.n_changes_of_roster += 1
        for active in tuple(self._active.values()):
            if index in active.indices:
                self._spare(active, index)
        self._tell(frozenset({index}))

    def trouble_of(self, state: InstanceState, now_s: float) -> ActiveFault | None:
        """Return what keeps an instance from answering normally, a restart only while it lasts."""
        if state.trouble is not None and state.trouble.is_over(now_s):
            self._settle(frozenset({state.instance.index}))
        return state.trouble

    def models_of(self, state: InstanceState) -> ModelStore:
        """Return the models of an instance, to be changed."""
        if state.models is None:
            installed, most = state.instance.installed, self.spec.max_loaded_models
            state.models = ModelStore(
                installed, max_loaded=most, keep_alive_s=state.instance.keep_alive_s
            )
        return state.models

    def runner_was_renewed(self, state: InstanceState) -> None:
        """End the faults that were upon the process that ran an instance's models."""
        index = state.instance.index
        for active in tuple(self._active.values()):
            if active.fault.kind in ENDS_WITH_RUNNER and index in active.indices:
                self._spare(active, index)
        self._settle(frozenset({index}))

    def record(self, state: InstanceState, done: Counters) -> None:
        """Count a request that an instance was really asked."""
        state.life = with_request(state.life, done)

    def _spare(self, active: ActiveFault, index: int) -> None:
        """Take an instance out of a fault, which is over when it was the last."""
        left = active.indices - {index}
        if left:
            self._active[active.id] = replace(active, indices=left)
        else:
            del self._active[active.id]

    def _settle(self, indices: frozenset[int], *, begun: ActiveFault | None = None) -> None:
        """Bring the instances into line with the active faults, and tell the watchers."""
        now_s = self.clock()
        for index in indices:
            state = self.states[index]
            upon = chain((state.starting,), self._active.values())
            mine = [active for active in upon if active is not None and index in active.indices]
            trouble = worst(mine, now_s)
            condition = condition_under(trouble, mine, state.instance)
            counts = counts_of_restart(begun, state.trouble, trouble)
            if counts is None:
                state.life = changed(state.life, state.instance, now_s=now_s, condition=condition)
            else:
                self._restart(state, condition, counts)
            state.trouble = trouble
            state.runner = latest(mine, OF_RUNNER)
            state.cpu_ratio = cpu_ratio_under(mine)
            busy = latest(mine, {Kind.BUSY})
            state.busy_s = busy.fault.seconds if busy else 0.0
            if begun is not None:
                self._do_once(state, begun.fault)
        self._tell(indices)

    def _restart(self, state: InstanceState, condition: Condition, counts: Counters) -> None:
        state.life = restarted(state.instance, condition, self.clock(), counts)
        if state.models is not None:
            state.models.restart()

    def _do_once(self, state: InstanceState, begun: Fault) -> None:
        """Do what a fault does when it begins."""
        state.n_runners_killed += begun.kind in KILLS_RUNNER
        if begun.kind is Kind.UNLOAD:
            self.models_of(state).expire_all()
        elif begun.kind is Kind.NO_MODEL:
            self.models_of(state).clear()
        elif begun.kind is Kind.RUNNER_OOM:
            self.record(state, OUT_OF_MEMORY)
        elif begun.version is not None:
            release = RELEASE_BY_VERSION[begun.version]
            state.instance = replace(state.instance, release=release)
            state.identity = identity_of(state.instance)

    def _tell(self, indices: frozenset[int]) -> None:
        for watcher in self._watchers:
            watcher(indices)


def worst(faults: Sequence[ActiveFault], now_s: float) -> ActiveFault | None:
    """Choose the fault that decides how an instance answers.

    Death outdoes hanging, hanging outdoes the rest, and of equals the latest counts.
    """
    altering = [
        (active.fault.kind in ENDS_PROCESS, active.fault.kind is Kind.HANG, order, active)
        for order, active in enumerate(faults)
        if active.fault.kind in ALTERS_ANSWERS and not active.is_over(now_s)
    ]
    return max(altering)[-1] if altering else None


def counts_of_restart(
    begun: ActiveFault | None, before: ActiveFault | None, after: ActiveFault | None
) -> Counters | None:
    """Return what the counters of a process that starts now begin with; None: none starts."""
    if begun is not None and begun.fault.kind is Kind.OOM_RESTART:
        return OUT_OF_MEMORY
    is_asked = begun is not None and begun.fault.kind is Kind.RESTART
    return NOTHING if is_asked or (_has_ended(before) and not _has_ended(after)) else None


def latest(faults: Sequence[ActiveFault], kinds: Set[Kind]) -> ActiveFault | None:
    """Return the latest fault of some kinds."""
    return next((active for active in reversed(faults) if active.fault.kind in kinds), None)


def cpu_ratio_under(faults: Sequence[ActiveFault]) -> float:
    """Return how much of a GPU instance's model its faults keep out of the GPU's memory."""
    partly = latest(faults, {Kind.PARTLY_CPU})
    return partly.fault.ratio if partly else 0.0


def condition_under(
    trouble: ActiveFault | None, faults: Sequence[ActiveFault], instance: Instance
) -> Condition:
    """Return how an instance works under all its faults."""
    factors = [active.fault.factor for active in faults if active.fault.kind is Kind.SLOW]
    factors.append(speed_partly_on_cpu(instance, cpu_ratio_under(faults)))
    ratios = [active.fault.ratio for active in faults if active.fault.kind is Kind.ERRORS]
    is_stopped = trouble is not None and trouble.fault.kind in STOPS_WORK
    return Condition(
        is_running=not is_stopped and latest(faults, STOPS_MODEL) is None,
        speed_factor=math.prod(factors),
        error_ratio=ratios[-1] if ratios else None,
    )


def restarted(instance: Instance, condition: Condition, now_s: float, counts: Counters) -> Lifetime:
    """Begin a new life whose counters start at `counts`."""
    return replace(new_lifetime(instance, start_s=now_s, condition=condition), at_since=counts)


def _has_ended(trouble: ActiveFault | None) -> bool:
    return trouble is not None and trouble.fault.kind in ENDS_PROCESS
