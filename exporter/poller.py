"""Poll every instance once per interval, each at its own phase of the interval."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from exporter.counters import NO_DELTA
from exporter.model import Outcome, State, Target
from exporter.scrape_target import ScrapeTarget
from exporter.selfmetrics import Request
from exporter.status import Departed, StatusHistory
from exporter.steps import batched, run_in_steps, sorted_in_steps

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from exporter.connection import Exchange
    from exporter.counters import FleetCounters
    from exporter.inventory import Change
    from exporter.model import Verdict
    from exporter.scrape_target import PollOptions, PollResult, PollStart
    from exporter.selfmetrics import SelfMetrics
    from exporter.snapshot import Row
    from ollama_fleet.clock import Clock


log = logging.getLogger("exporter.poller")

STALE_INTERVALS = 3
MIN_STALE_S = 60.0
"""The aggregates stay at least this long after the last whole cycle."""
AT_ONCE = 10
"""Polls or changes until the event loop turns: a few milliseconds' worth, also where each takes a
task and a connection of its own."""


@dataclass(slots=True)
class Cycle:
    """One poll cycle over the whole fleet, from its first poll to its last answer."""

    first_tick: int
    started_s: float
    is_whole: bool
    """Whether every inventory had been read when it began."""
    n_running: int = 0
    lateness_s: float = 0.0
    is_all_started: bool = False


class Poller:
    """Watches the targets that it is given until it is closed."""

    def __init__(
        self,
        interval_s: float,
        options: PollOptions,
        fleet_counters: FleetCounters,
        metrics: SelfMetrics,
    ) -> None:
        self._options = options
        self._clock: Clock = options.clock
        self._fleet_counters = fleet_counters
        self._metrics = metrics
        self._wheel: Wheel[ScrapeTarget] = Wheel(interval_s)
        self.canary_wheel: Wheel[ScrapeTarget] | None = None
        """When the instances are due for a canary; None where none are sent."""
        self._scrape_targets: dict[str, ScrapeTarget] = {}
        self._departed = Departed(options.starting_timeout_s)
        self._polls: dict[str, asyncio.Task[None] | None] = {}
        """Polls under way by instance id; None for those that need no task."""
        self.knows_whole_fleet = True
        """False while an inventory was never read: then no cycle counts as one over the fleet."""
        self._n_ended = 0
        """Polls that ended since the last tick: one `inc` for each would cost as much as ten."""
        self._completed_s = options.clock.monotonic_s()
        """When the last whole cycle ended; before the first, when we began."""
        self.has_seen_all = asyncio.Event()
        """Set once the first whole cycle has ended; before that, aggregates would mislead."""
        self.ticked_s: float | None = None
        """When polls were last started, on the monotonic clock; None before the first time."""
        metrics.open_connections.set_function(self._n_open)

    @property
    def scrape_targets(self) -> Mapping[str, ScrapeTarget]:
        """Return the watches by instance id, in the order of the ids."""
        return self._scrape_targets

    @property
    def is_stale(self) -> bool:
        """Return whether no whole cycle has ended for so long that aggregates would mislead."""
        limit_s = max(MIN_STALE_S, STALE_INTERVALS * self._wheel.interval_s)
        return self._clock.monotonic_s() - self._completed_s > limit_s

    def rows(self) -> Generator[None, None, list[Row]]:
        """Return the latest row of every instance, sorted by id, in steps."""
        rows: list[Row] = []
        for some in batched(list(self._scrape_targets.values())):
            rows += [scrape_target.row for scrape_target in some]
            yield
        return rows

    async def update(self, change: Change) -> None:
        """Take over a changed inventory; what did not change goes on undisturbed.

        What goes has stopped before what replaces it starts, so that two never report one id.
        """
        for n, target in enumerate(change.removed):
            ended = await self._end(target.id)
            self._departed.note(target.id, ended.history, self._clock.unix_s())
            await _pause_now_and_then(n)
        for n, (before, after) in enumerate(change.changed):
            await self._replace(before, after)
            await _pause_now_and_then(n)
        for n, target in enumerate(change.added):
            self._add(target, is_new=target.id in change.appeared)
            await _pause_now_and_then(n)
        if change:
            (self._scrape_targets, nodes), _ = await run_in_steps(self._in_order())
            self._fleet_counters.keep_nodes(nodes)

    async def run(self) -> None:
        """Start each poll when it is due, until cancelled."""
        wheel = self._wheel
        # The wall clock may be set while we run; polls keep their distance by the monotonic one.
        offset_s = self._clock.unix_s() - self._clock.monotonic_s()
        tick = wheel.tick_at(self._clock.unix_s()) + 1
        cycle = self._new_cycle(tick)
        while True:
            await self._clock.sleep(wheel.starts_at_s(tick) - offset_s - self._clock.monotonic_s())
            self._count_polls()
            self.ticked_s = self._clock.monotonic_s()
            now_s = self.ticked_s + offset_s
            # After a long stall only one interval is made up for: each instance is due once.
            if tick < (resumed := wheel.tick_at(now_s) - wheel.n_slots + 1):
                if tick < cycle.first_tick + wheel.n_slots:
                    cycle.first_tick = resumed  # it lasts until those leapt over were due too
                tick = resumed
            while wheel.starts_at_s(tick) <= now_s:
                if tick >= cycle.first_tick + wheel.n_slots:
                    cycle = self._next_cycle(cycle, tick)
                cycle.lateness_s = max(cycle.lateness_s, now_s - wheel.starts_at_s(tick))
                await self._start_due(tick, cycle)
                tick += 1

    async def retake(self, interval_s: float) -> None:
        """Take over changed options; `run` has to be started again for another interval."""
        self._departed.kept_s = self._options.starting_timeout_s
        if interval_s != self._wheel.interval_s:
            self._wheel = Wheel(interval_s)
        for n, scrape_target in enumerate(tuple(self._scrape_targets.values())):
            if self._is_current(scrape_target):
                self._wheel.add(scrape_target.target.id, scrape_target)
                if self.canary_wheel is None:
                    scrape_target.take_canary(None)
                scrape_target.relabel(scrape_target.target)
            await _pause_now_and_then(n)

    async def close(self) -> None:
        """Stop all polls and close all connections."""
        for n, instance_id in enumerate(tuple(self._scrape_targets)):
            await self._end(instance_id)
            await _pause_now_and_then(n)

    def _in_order(self) -> Generator[None, None, tuple[dict[str, ScrapeTarget], set[str]]]:
        """Return the watches by id, in the order of the ids, and their nodes."""
        scrape_targets: dict[str, ScrapeTarget] = {}
        nodes: set[str] = set()
        for instance_ids in batched((yield from sorted_in_steps(self._scrape_targets))):
            some = [self._scrape_targets[instance_id] for instance_id in instance_ids]
            scrape_targets.update(zip(instance_ids, some, strict=True))
            nodes.update([scrape_target.target.node for scrape_target in some])
            yield
        return scrape_targets, nodes

    def _add(self, target: Target, *, is_new: bool) -> None:
        now_s = self._clock.unix_s()
        history = self._departed.recall(target.id, now_s)
        if history is None:
            history = StatusHistory(coming_up_since_s=now_s if is_new else None)
        self._begin(ScrapeTarget(target, self._options, history=history))

    def _begin(self, scrape_target: ScrapeTarget) -> None:
        target = scrape_target.target
        self._scrape_targets[target.id] = scrape_target
        self._wheel.add(target.id, scrape_target)
        if self.canary_wheel is not None:
            self.canary_wheel.add(target.id, scrape_target)

    async def _end(self, instance_id: str) -> ScrapeTarget:
        self._wheel.remove(instance_id)
        if self.canary_wheel is not None:
            self.canary_wheel.remove(instance_id)
        scrape_target = self._scrape_targets.pop(instance_id)
        task = self._polls.get(instance_id)
        try:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        finally:
            scrape_target.close()
        return scrape_target

    async def _replace(self, before: Target, after: Target) -> None:
        scrape_target = self._scrape_targets[after.id]
        if is_reached_alike(before, after):
            scrape_target.relabel(after)
            return
        ended = await self._end(before.id)
        self._begin(ended.successor(after))

    def _next_cycle(self, cycle: Cycle, tick: int) -> Cycle:
        cycle.is_all_started = True
        self._complete(cycle)
        return self._new_cycle(tick)

    def _new_cycle(self, tick: int) -> Cycle:
        return Cycle(tick, self._clock.monotonic_s(), self.knows_whole_fleet)

    async def _start_due(self, tick: int, cycle: Cycle) -> None:
        for n, scrape_target in enumerate(self._wheel.due(tick), 1):
            # One whose last poll still waits for its deadline is left out; one may have gone.
            is_free = scrape_target.target.id not in self._polls
            if is_free and self._is_current(scrape_target) and scrape_target.is_due:
                self._start(scrape_target, cycle)
            await _pause_now_and_then(n)

    def _start(self, scrape_target: ScrapeTarget, cycle: Cycle) -> None:
        cycle.n_running += 1
        start = scrape_target.start_poll()
        self._polls[scrape_target.target.id] = None
        if not scrape_target.poll_now(start, partial(self._answered, scrape_target, cycle, start)):
            self._start_task(scrape_target, cycle, start)

    def _answered(
        self, scrape_target: ScrapeTarget, cycle: Cycle, start: PollStart, exchange: Exchange
    ) -> None:
        """End a poll that needed no task of its own, or go on with one."""
        result = None
        try:
            if self._is_current(scrape_target):
                result = scrape_target.finish_poll(start, exchange)
                if result is None:
                    self._start_task(scrape_target, cycle, start)
                    return
                self._record(scrape_target, result)
        finally:
            if self._polls[scrape_target.target.id] is None:
                self._end_poll(scrape_target.target.id, cycle)

    def _start_task(self, scrape_target: ScrapeTarget, cycle: Cycle, start: PollStart) -> None:
        task = asyncio.get_running_loop().create_task(self._poll(scrape_target, start))
        self._polls[scrape_target.target.id] = task
        task.add_done_callback(partial(self._after_task, scrape_target.target.id, cycle))

    async def _poll(self, scrape_target: ScrapeTarget, start: PollStart) -> None:
        self._record(scrape_target, await scrape_target.poll(start))

    def _after_task(self, instance_id: str, cycle: Cycle, task: asyncio.Task[None]) -> None:
        self._end_poll(instance_id, cycle)
        if not task.cancelled() and task.exception() is not None:
            # A fault of ours: polls report what instances do wrong, they do not raise it.
            log.error("bug in a poll instance=%s", instance_id, exc_info=task.exception())

    def _end_poll(self, instance_id: str, cycle: Cycle) -> None:
        del self._polls[instance_id]
        cycle.n_running -= 1
        self._n_ended += 1
        if cycle.is_all_started:
            self._complete(cycle)

    def _count_polls(self) -> None:
        self._metrics.polls.inc(self._n_ended)
        self._n_ended = 0

    def _record(self, scrape_target: ScrapeTarget, result: PollResult) -> None:
        verdict = result.verdict
        if verdict.outcome is not Outcome.OK or verdict.metrics_outcome is not Outcome.OK:
            self._count_failure(verdict)
        if result.delta is not NO_DELTA:
            self._fleet_counters.record(
                scrape_target.target.node, scrape_target.row.counters.model, result.delta
            )

    def _count_failure(self, verdict: Verdict) -> None:
        errors = self._metrics.poll_errors
        if verdict.outcome is Outcome.OK:
            errors[Request.METRICS, verdict.metrics_outcome].inc()
        elif verdict.outcome is not Outcome.LOADING:
            errors[Request.HEALTH, verdict.outcome].inc()

    def _complete(self, cycle: Cycle) -> None:
        """Publish a cycle's metrics once it has started all its polls and all have ended."""
        if cycle.n_running or not cycle.is_all_started:
            return
        self._count_polls()
        if not cycle.is_whole:
            return
        self._metrics.cycles.inc()
        self._metrics.cycle_duration_s.set(self._clock.monotonic_s() - cycle.started_s)
        self._completed_s = self._clock.monotonic_s()
        self._metrics.cycle_completed_at_s.set(self._clock.unix_s())
        self._metrics.poll_lateness_s.set(cycle.lateness_s)
        self.has_seen_all.set()

    def _is_current(self, scrape_target: ScrapeTarget) -> bool:
        return self._scrape_targets.get(scrape_target.target.id) is scrape_target

    def _n_open(self) -> int:
        return self._options.transport.open_connections.n


async def _pause_now_and_then(n_done: int) -> None:
    """Let the event loop turn: a whole fleet may change at once."""
    if n_done % AT_ONCE == 0:
        await asyncio.sleep(0)


def is_reached_alike(before: Target, after: Target) -> bool:
    """Return whether two targets differ only in their description, not in how they are polled."""
    return _reach(before) == _reach(after)


def _reach(target: Target) -> Iterable[object]:
    is_asked = target.state is not State.PROVISIONING
    return (target.host, target.port, target.tls, target.path, target.engine, is_asked)


Item = TypeVar("Item")

TICK_S = 0.1
"""How finely polls are spread. What starts together is also read together, which halves the system
calls; and even of 100,000 instances only a thousand start at once, which takes some 20 ms."""
MAX_SLOTS = 10_000
"""Ticks of longer intervals are longer: each has a place in memory, used or not."""


def phase_s(instance_id: str, interval_s: float) -> float:
    """Return when in each interval an instance is due, in seconds: 0 <= phase < interval_s.

    It comes from the id, not from a dice roll: after a restart each instance is polled at the same
    offset again, so its samples stay one interval apart.
    """
    digest = hashlib.blake2b(instance_id.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48 * interval_s


class Wheel(Generic[Item]):
    """Items by the tick of the interval at which they are due."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.n_slots = min(MAX_SLOTS, max(1, round(interval_s / TICK_S)))
        self.tick_s = interval_s / self.n_slots
        self._slots: list[dict[str, Item]] = [{} for _ in range(self.n_slots)]

    def add(self, instance_id: str, item: Item) -> None:
        """Put an item at its phase; an item under the same id is replaced."""
        self._slots[self._slot(instance_id)][instance_id] = item

    def remove(self, instance_id: str) -> None:
        """Take an item out, if it is in."""
        self._slots[self._slot(instance_id)].pop(instance_id, None)

    def due(self, tick: int) -> Iterable[Item]:
        """Return the items that are due at a tick, counted from any multiple of the interval."""
        return tuple(self._slots[tick % self.n_slots].values())

    def tick_at(self, unix_s: float) -> int:
        """Return the number of the tick that a moment lies in."""
        return int(unix_s // self.tick_s)

    def starts_at_s(self, tick: int) -> float:
        """Return when a tick begins, in seconds since 1970 UTC."""
        return tick * self.tick_s

    def _slot(self, instance_id: str) -> int:
        return int(phase_s(instance_id, self.interval_s) / self.tick_s) % self.n_slots
