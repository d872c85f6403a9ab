"""One polled instance: its connection, its counters, its last result and its failures."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from exporter.connection import Deadlines
from exporter.counters import NOTHING, Increase, Memory, carried, remember
from exporter.engines import auto
from exporter.engines.base import doubted, plausible
from exporter.model import NO_VALUES, EngineName, Outcome, Reading, Target, Values, Verdict
from exporter.snapshot import Row, info_label_text, is_up, label_text, status_of
from exporter.transport import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from exporter.connection import Exchange
    from exporter.engines.base import Engine
    from exporter.transport import Answers, Wire
    from ollama_fleet.clock import Clock


ALWAYS_DUE_S = float("-inf")
"""Before any moment of the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How every instance is polled. Times are in seconds."""

    health_timeout_s: float
    metrics_timeout_s: float
    identify_interval_s: float
    max_tokens_per_second: float
    engines: Mapping[EngineName, Engine]
    wire: Wire
    clock: Clock


@dataclass(frozen=True, slots=True)
class LastFailure:
    """The last poll that failed; kept when later ones do not."""

    outcome: Outcome
    detail: str
    at_s: float
    """Seconds since 1970 UTC."""


@dataclass(slots=True)
class Tally:
    """Polls since the log was last written."""

    tried: int = 0
    failed: int = 0


class Begun(msgspec.Struct, frozen=True, gc=False):
    """A poll under way."""

    polled_at_s: float
    """Seconds since 1970 UTC."""
    started_s: float
    """On the monotonic clock."""
    deadlines: Deadlines


class Polled(msgspec.Struct, frozen=True, gc=False):
    """A poll that ended."""

    verdict: Verdict
    increase: Increase


class Watch:
    """One instance under watch."""

    __slots__ = (
        "_channel", "_engine", "_identify_at_s", "_info_labels", "_labels", "_manner", "_memory",
        "last_failure", "row", "tally", "target",
    )  # fmt: skip

    def __init__(self, target: Target, manner: Manner, memory: Memory | None = None) -> None:
        self.target = target
        self._manner = manner
        self._channel = Channel(target, manner.wire)
        self._engine = manner.engines.get(target.engine)
        self._identify_at_s = ALWAYS_DUE_S
        self._memory = memory or Memory()
        self.tally = Tally()
        self.last_failure: LastFailure | None = None
        self._describe(target)
        self._show(None)

    def __repr__(self) -> str:
        return f"<Watch {self.target.id} {self.target.url} {self.row.status}>"

    def successor(self, target: Target) -> Watch:
        """Return the watch for a changed target: totals and the last failure stay known."""
        is_moved = (target.host, target.port) != (self.target.host, self.target.port)
        memory = carried(self._memory) if is_moved else self._memory
        successor = Watch(target, self._manner, memory)
        successor.tally, successor.last_failure = self.tally, self.last_failure
        return successor

    def relabel(self, target: Target) -> None:
        """Take over a target that is reached and read in the same way; the connection stays."""
        self._describe(target)
        self._show(self.row.reading)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def begin(self) -> Begun:
        """Set the deadlines of a poll that begins now."""
        manner = self._manner
        # The loop's clock has steps of a millisecond: good for deadlines, not for durations.
        now_s = asyncio.get_running_loop().time()
        deadlines = Deadlines(now_s + manner.health_timeout_s, now_s + manner.metrics_timeout_s)
        return Begun(manner.clock.unix_s(), manner.clock.monotonic_s(), deadlines)

    def poll_now(self, begun: Begun, done: Callable[[Exchange], None]) -> bool:
        """Ask a known server over the kept connection; `conclude` takes what `done` is given.

        Returns:
            False, and nothing is done, where it takes more than that: then `poll` does it.
        """
        engine = self._engine
        if engine is None or begun.started_s >= self._identify_at_s:
            return False
        return self._channel.ask_now(engine.requests, begun.deadlines, done)

    def conclude(self, begun: Begun, exchange: Exchange) -> Polled | None:
        """Take in what came of `poll_now`; None where `poll` has to do it after all."""
        engine = self._engine
        assert engine is not None  # noqa: S101 - poll_now asked it
        answers = self._channel.settle(engine.requests, exchange)
        return None if answers is None else self._take(begun, engine.read(answers))

    async def poll(self, begun: Begun) -> Polled:
        """Ask the instance over whatever connections it takes, and take in what it says."""
        engine = self._engine
        if engine is None or begun.started_s >= self._identify_at_s:
            verdict = await self._identify(begun)
        else:
            verdict = engine.read(await self._channel.ask(engine.requests, begun.deadlines))
        return self._take(begun, verdict)

    async def _identify(self, begun: Begun) -> Verdict:
        """Find out which server it is, unless that is given, and ask it for all it says of itself.

        Done anew after each failure, and from time to time: another server may be there now, or
        another version.
        """
        answers: Answers = {}
        engine = self._manner.engines.get(self.target.engine)
        if engine is None:
            answers = await self._channel.ask(auto.PROBES, begun.deadlines)
            name = auto.recognise(answers)
            if name is None:
                return auto.unrecognised(answers)
            engine = self._manner.engines[name]
        if self._engine is not engine:
            self._engine = engine
            self._label()
        answers |= await self._ask_rest(engine, answers, begun.deadlines)
        self._identify_at_s = begun.started_s + self._manner.identify_interval_s
        return engine.read(answers)

    async def _ask_rest(self, engine: Engine, answers: Answers, deadlines: Deadlines) -> Answers:
        """Ask for what the engine wants to know and the probes have not told."""
        wanted = engine.requests + engine.identity_requests
        rest = tuple(path for path in wanted if path not in answers)
        if answers:  # the first answer came in time already
            deadlines = Deadlines(deadlines.all_s, deadlines.all_s)
        return await self._channel.ask(rest, deadlines)

    def _engine_name(self) -> EngineName:
        """Return what the server was known as last."""
        return self.target.engine if self._engine is None else self._engine.name

    def _take(self, begun: Begun, verdict: Verdict) -> Polled:
        self.tally.tried += 1
        verdict = plausible(
            verdict,
            now_s=begun.polled_at_s,
            max_tokens_per_second=self._manner.max_tokens_per_second,
        )
        if verdict.outcome is not Outcome.OK:
            self._identify_at_s = ALWAYS_DUE_S
            if verdict.outcome is not Outcome.LOADING:
                self.tally.failed += 1
                self.last_failure = LastFailure(verdict.outcome, verdict.detail, begun.polled_at_s)
        increase = NOTHING
        if verdict.values is not NO_VALUES:
            increase = self._remember(verdict.values, begun.polled_at_s)
            if increase.implausible:
                verdict = doubted(verdict, increase.implausible)
        duration_s = round(self._manner.clock.monotonic_s() - begun.started_s, 6)
        self._show(Reading(verdict, self._engine_name(), begun.polled_at_s, duration_s))
        return Polled(verdict, increase)

    def _remember(self, values: Values, now_s: float) -> Increase:
        before = self._memory
        self._memory, increase = remember(
            before,
            values,
            self.target,
            now_s=now_s,
            max_tokens_per_second=self._manner.max_tokens_per_second,
        )
        if (self._memory.model, self._memory.version) != (before.model, before.version):
            self._label()
        return increase

    def _describe(self, target: Target) -> None:
        self.target = target
        if target.model:
            self._memory = msgspec.structs.replace(self._memory, model=target.model)
        self._label()

    def _label(self) -> None:
        """Prepare the labels, which seldom change and are written at each page."""
        memory, target = self._memory, self.target
        self._labels = label_text(target, memory.model)
        self._info_labels = info_label_text(self._engine_name(), memory.version, target.developer)

    def _show(self, reading: Reading | None) -> None:
        self.row = Row(
            self.target,
            status_of(self.target, reading),
            reading,
            self._memory,
            is_up(reading),
            self._labels,
            self._info_labels,
        )


MAX_LINES = 20
"""Per window. When a rack goes, one number says more than a thousand lines."""


def failure_lines(watches: Iterable[Watch], window_s: float) -> Iterator[str]:
    """Yield a line for each instance whose polls failed since the last call, up to MAX_LINES."""
    n_failing = 0
    for watch in watches:
        if watch.tally.failed:
            n_failing += 1
            if n_failing <= MAX_LINES:
                yield failure_line(watch, window_s)
        watch.tally.tried = watch.tally.failed = 0
    if n_failing > MAX_LINES:
        rest = n_failing - MAX_LINES
        yield f"{rest:,} more instances failed polls in the last {window_s:.0f} s; see /instances"


def failure_line(watch: Watch, window_s: float) -> str:
    """Return what there is to say of one failing instance."""
    tally, last = watch.tally, watch.last_failure
    said = "" if last is None else f"; last: {last.outcome}, {last.detail}"
    return (
        f"{watch.target.id} ({watch.target.url}) failed {tally.failed} of {tally.tried} polls in "
        f"the last {window_s:.0f} s{said}"
    )
