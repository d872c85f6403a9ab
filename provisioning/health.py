"""Probe running instances for their health, and draining ones for requests under way."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from ollama_fleet import descriptors
from ollama_fleet.canary_outcome import SKIPPED
from ollama_fleet.clock import Clock
from provisioning.actions import Unhealthy
from provisioning.budget import phase_ratio
from provisioning.errors import NotAskedError
from provisioning.eventlog import EventLog
from provisioning.model import Canary, Instance, Phase, Probe
from provisioning.runtime.base import ProberOf
from provisioning.spec.defaults import ENGINES, Engine
from provisioning.store.base import StoredInstance

log = logging.getLogger("provisioning.health")

IDLE_S = 0.5
"""How long to wait for something to be watched, and how soon something new may be due."""
MAX_AT_ONCE = 1000
"""10,000 instances that all hang for 2 s would take 2,000 descriptors. A probe that waits for its
turn is late, which is no failure."""
MAX_CANARIES_AT_ONCE = 100
"""In addition: stalled canaries must not delay health checks."""
BURST = 5
"""Lines per window about unhealthy instances: a node that is gone has many."""
MAX_FAULT = 300
TICK_S = 0.05
"""Probes due within this time start together: it halves the wake-ups of a large fleet."""


class ProbeTarget(msgspec.Struct, frozen=True):
    """A container that is asked."""

    container: str
    node: str
    host: str
    port: int
    probe: Probe
    canary: Canary | None = None
    engine: str = ""
    model: str = ""


class ProbeState:
    """A probe target, how it is probed, and its failures in a row."""

    __slots__ = (
        "canary",
        "first_failure_s",
        "interval_s",
        "is_reset",
        "is_under_way",
        "n_allowed",
        "n_failures",
        "target",
        "unhealthy",
    )

    def __init__(self, target: ProbeTarget, canary: Canary | None = None) -> None:
        """Probe by the canary; None: by the target's health check."""
        self.target = target
        self.canary = canary
        self.interval_s = canary.period_s if canary else target.probe.interval_s
        self.n_allowed = (canary or target.probe).n_failures - 1
        self.unhealthy: Unhealthy | None = None
        self.n_failures = 0
        self.first_failure_s = 0.0
        self.is_under_way = False
        self.is_reset = False
        """Its failures were reset, and it has not passed since."""


class HealthMonitor:
    """Keeps which running instances are unhealthy."""

    def __init__(self, prober_of: ProberOf, clock: Clock, *, on_change: Callable[[], None]) -> None:
        self._prober_of = prober_of
        self._clock = clock
        self._on_change = on_change
        self._states: dict[str, tuple[ProbeState, ...]] = {}
        self._unhealthy: dict[str, Unhealthy] = {}
        self._due: list[tuple[float, int, str, ProbeState]] = []
        self._numbers = itertools.count()  # so that no two in the heap compare equal
        self._tasks: set[asyncio.Task[None]] = set()
        self._events = EventLog(log, clock)
        self._canaries: Counter[str] = Counter()
        self._slots = asyncio.Semaphore(descriptors.share(MAX_AT_ONCE))
        self._canary_slots = asyncio.Semaphore(descriptors.share(MAX_CANARIES_AT_ONCE))

    def __repr__(self) -> str:
        n_unhealthy = len(self._unhealthy)
        return f"<HealthMonitor of {len(self._states):,} instances, {n_unhealthy:,} unhealthy>"

    @property
    def unhealthy(self) -> Mapping[str, Unhealthy]:
        """Return the unhealthy ones by instance id."""
        return self._unhealthy

    def take_canaries(self) -> Mapping[str, int]:
        """Return the number of canaries by outcome since the last call."""
        taken, self._canaries = self._canaries, Counter()
        return taken

    def watch(self, instance_id: str, target: ProbeTarget) -> None:
        """Probe an instance from now on; one already probed in this way is left as it is."""
        states = self._states.get(instance_id)
        if states and states[0].target == target:
            return
        self._unhealthy.pop(instance_id, None)
        probed = ProbeState(target)
        canaries = (ProbeState(target, target.canary),) if target.canary else ()
        new = self._states[instance_id] = (probed, *canaries)
        for state in new:
            self._push(self._first_due_s(instance_id, state.interval_s), instance_id, state)

    def unwatch(self, instance_id: str) -> None:
        """Stop probing an instance."""
        self._states.pop(instance_id, None)
        self._unhealthy.pop(instance_id, None)

    def reset_failures(self, node: str) -> None:
        """Forget the failures of a node's instances: the node was silent, they say nothing.

        Only once until an instance answers well again: a node that flaps hides no failure.
        """
        for instance_id, states in self._states.items():
            if states[0].target.node == node:
                for state in states:
                    self._reset(instance_id, state)

    def _reset(self, instance_id: str, state: ProbeState) -> None:
        if state.n_failures and not state.is_reset:
            state.is_reset = True
            state.n_failures = 0
            self._judge(instance_id, state, None)

    def clear(self) -> None:
        """Stop all probes and forget all results."""
        self._states.clear()
        self._unhealthy.clear()
        self._due.clear()

    async def run(self) -> None:
        """Send probes when they are due, until cancelled."""
        try:
            while True:
                self._start_due()
                await self._clock.sleep(self._wait_s())
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _first_due_s(self, instance_id: str, interval_s: float) -> float:
        """Return when an instance is asked first: at its phase, the same after every restart."""
        phase_s = phase_ratio(instance_id) * interval_s
        wait_s = (phase_s - self._clock.unix_s()) % interval_s
        return self._clock.monotonic_s() + wait_s

    def _push(self, due_s: float, instance_id: str, state: ProbeState) -> None:
        heapq.heappush(self._due, (due_s, next(self._numbers), instance_id, state))

    def _wait_s(self) -> float:
        if not self._due:
            return IDLE_S
        return min(IDLE_S, max(TICK_S, self._due[0][0] - self._clock.monotonic_s()))

    def _start_due(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._due and self._due[0][0] <= now_s:
            due_s, _, instance_id, state = heapq.heappop(self._due)
            if state not in self._states.get(instance_id, ()):
                continue  # it is gone, or another generation of it is asked
            interval_s = state.interval_s
            # After a long stall one question is enough.
            missed_s = max(0.0, now_s - due_s) // interval_s * interval_s
            self._push(due_s + missed_s + interval_s, instance_id, state)
            if not state.is_under_way:
                self._start(instance_id, state)

    def _start(self, instance_id: str, state: ProbeState) -> None:
        state.is_under_way = True
        task = asyncio.get_running_loop().create_task(self._probe(instance_id, state))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _probe(self, instance_id: str, state: ProbeState) -> None:
        try:
            async with self._canary_slots if state.canary else self._slots:
                fault = await self._fault(state.target, state.canary)
        except NotAskedError as error:
            self._log_shortage(instance_id, error)
            return
        finally:
            state.is_under_way = False
        if fault is not None and state in self._states.get(instance_id, ()):
            self._record(instance_id, state, fault)

    async def _fault(self, target: ProbeTarget, canary: Canary | None) -> str | None:
        """Return what is wrong with an instance; empty: nothing; None: the canary was skipped."""
        prober = self._prober_of(target.node)
        if canary is None:
            return await prober.probe(target.host, target.port, target.probe)
        result = await prober.generate(
            target.host, target.port, canary, engine=target.engine, model=target.model
        )
        self._canaries[result.outcome] += 1
        return None if result.outcome in SKIPPED else result.fault

    def _log_shortage(self, instance_id: str, error: NotAskedError) -> None:
        self._events.event(
            "not sent",
            "health check not sent instance=%s: %s; no failure is counted; raise the limit of open "
            "files (ulimit -n, LimitNOFILE=)",
            instance_id,
            error,
        )

    def _record(self, instance_id: str, state: ProbeState, fault: str) -> None:
        """Count an answer; report when an instance has become unhealthy or healthy."""
        if not fault:
            state.n_failures = 0
            state.is_reset = False
            if self._judge(instance_id, state, None):
                self._on_change()
            return
        if not state.n_failures:
            state.first_failure_s = self._clock.monotonic_s()
        state.n_failures += 1
        if state.n_failures > state.n_allowed:
            checks = "canaries" if state.canary else "health checks"
            words = f"failed {state.n_failures} {checks} in a row, last: {fault}"
            if self._judge(instance_id, state, Unhealthy(state.first_failure_s, words)):
                self._log_unhealthy(instance_id, state.target.node, words)
                self._on_change()

    def _judge(self, instance_id: str, state: ProbeState, unhealthy: Unhealthy | None) -> bool:
        """Store the result of one check; return whether the instance's health has changed."""
        state.unhealthy = unhealthy
        was_unhealthy = instance_id in self._unhealthy
        found = [one.unhealthy for one in self._states[instance_id] if one.unhealthy]
        if found:
            self._unhealthy[instance_id] = found[0]
        else:
            self._unhealthy.pop(instance_id, None)
        return was_unhealthy != bool(found)

    def _log_unhealthy(self, instance_id: str, node: str, fault: str) -> None:
        message = "instance unhealthy instance=%s node=%s: %s"
        self._events.event("unhealthy", message, instance_id, node, fault[:MAX_FAULT], burst=BURST)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # A fault of ours: probers report what instances do wrong, they do not raise it.
            log.error("bug in a health check", exc_info=task.exception())


NOTICE_S = 10.0
"""Time after the start of a drain in which clients and balancers may still send requests."""
LOOK_S = 2.0
MAX_DRAINS_AT_ONCE = 100
"""A rollout drains few at once; each question takes a descriptor."""


class DrainMonitor:
    """Asks draining instances every LOOK_S whether a request runs or waits."""

    def __init__(self, prober_of: ProberOf, clock: Clock, *, on_idle: Callable[[], None]) -> None:
        self._prober_of = prober_of
        self._clock = clock
        self._on_idle = on_idle
        self._slots = asyncio.Semaphore(descriptors.share(MAX_DRAINS_AT_ONCE))
        self._draining: dict[str, Instance] = {}
        self._idle: set[str] = set()

    @property
    def idle(self) -> frozenset[str]:
        """Return the containers of draining instances without a request."""
        return frozenset(self._idle)

    def follow(self, stored: Mapping[str, StoredInstance]) -> None:
        """Ask exactly the instances whose records say that they drain."""
        self._draining = {
            one.instance.container: one.instance
            for one in stored.values()
            if one.instance.phase is Phase.DRAINING
        }
        self._idle &= self._draining.keys()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            clients_know_s = self._clock.unix_s() - NOTICE_S
            due = [
                one
                for container, one in self._draining.items()
                if one.phase_since_s <= clients_know_s and container not in self._idle
            ]
            await asyncio.gather(*map(self._ask, due))
            await self._clock.sleep(LOOK_S)

    async def _ask(self, instance: Instance) -> None:
        page = ENGINES.get(instance.inventory_entry.engine, Engine()).requests
        host = instance.inventory_entry.address
        if page is None or not host:
            return
        async with self._slots:
            is_idle = await self._prober_of(instance.node).is_idle(host, instance.port, page)
        if is_idle:
            self._idle.add(instance.container)
            self._on_idle()
