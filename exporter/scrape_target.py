"""One polled instance: its connection, its counters, its last result and its failures."""

from __future__ import annotations

import asyncio
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from exporter.conditions import FLAPS, conditions_of
from exporter.connection import Deadlines
from exporter.counters import MAX_MODELS, NO_DELTA, CounterState, Delta, rebase, update
from exporter.engines import auto
from exporter.engines.base import HEALTH, drop_implausible, mark_implausible
from exporter.instance_client import InstanceClient
from exporter.model import NO_VALUES, Outcome, Reading, State, Status, Target, Values, Verdict
from exporter.snapshot import Row, info_label_text, inventory_label_text, label_text
from exporter.status import StatusHistory, Transient, is_up, polled_status, status_of
from ollama_fleet import keep_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from exporter.connection import Exchange
    from exporter.engines.base import Engine
    from exporter.instance_client import Answers, TransportConfig
    from exporter.model import CanaryState, Context
    from ollama_fleet.clock import Clock
    from ollama_fleet.keep_alive import Stay


NOBODY_THERE = (Outcome.REFUSED, Outcome.CONNECT_TIMEOUT, Outcome.CONNECT_FAILED, Outcome.RESET)
ALWAYS_DUE_S = float("-inf")
"""Before any moment of the monotonic clock."""


@dataclass(slots=True)
class PollOptions:
    """How every instance is polled; a reload changes it in place. Times are in seconds."""

    health_timeout_s: float
    metrics_timeout_s: float
    identify_interval_s: float
    loading_timeout_s: float
    starting_timeout_s: float
    max_tokens_per_second: float
    engines: Mapping[str, Engine]
    transport: TransportConfig
    clock: Clock
    transient: Transient = Transient()  # noqa: RUF009 - it never changes
    """Which instances come and go on purpose."""
    models_on_gpu: set[str] = field(default_factory=set)
    """Models that some instance was seen to have in GPU memory."""


@dataclass(frozen=True, slots=True)
class LastFailure:
    """The last poll that failed; kept when later ones do not."""

    outcome: Outcome
    detail: str
    at_s: float
    """Seconds since 1970 UTC."""


@dataclass(slots=True)
class PollCounts:
    """Polls since the log was last written."""

    tried: int = 0
    failed: int = 0


class PollStart(msgspec.Struct, frozen=True, gc=False):
    """A poll under way."""

    polled_at_s: float
    """Seconds since 1970 UTC."""
    started_s: float
    """On the monotonic clock."""
    deadlines: Deadlines
    paths: tuple[str, ...]
    """What is asked first."""


class PollResult(msgspec.Struct, frozen=True, gc=False):
    """A poll that ended."""

    verdict: Verdict
    delta: Delta


class ScrapeTarget:
    """One instance under watch."""

    __slots__ = (
        "_canary",
        "_client",
        "_counters",
        "_engine",
        "_identify_at_s",
        "_info_labels",
        "_inventory_labels",
        "_is_transient",
        "_is_unreachable",
        "_labels",
        "_loading_since_s",
        "_options",
        "_requests",
        "_was_refused",
        "clock_offset_s",
        "context",
        "history",
        "last_failure",
        "poll_counts",
        "row",
        "stay",
        "target",
        "turns_s",
    )  # fmt: skip

    def __init__(
        self,
        target: Target,
        options: PollOptions,
        counters: CounterState | None = None,
        canary: CanaryState | None = None,
        history: StatusHistory | None = None,
    ) -> None:
        self.target = target
        self._options = options
        self.history = history or StatusHistory()
        if target.state is State.PROVISIONING and self.history.coming_up_since_s is None:
            self.history.coming_up_since_s = options.clock.unix_s()
        self._client = InstanceClient(target, options.transport)
        self._engine = options.engines.get(target.engine)
        self._requests = () if self._engine is None else self._engine.requests
        """What is asked at each poll of a known server."""
        self._identify_at_s = ALWAYS_DUE_S
        self._is_unreachable = False
        """Whether the last poll found no server: then the next one identifies only what answers."""
        self._was_refused = False
        """Whether nobody listened on its port since its values were last read."""
        self._loading_since_s: float | None = None
        """When the first of the last polls in a row that found it loading began."""
        self.turns_s: tuple[float, ...] = ()
        """When its last polls changed between good and bad, in seconds since 1970 UTC."""
        self._counters = counters or CounterState()
        self._canary = canary
        self.stay: Stay | None = None
        """How long the canaries' model stays loaded; None: for ever, or unknown."""
        self.context: Context | None = None
        """Of the model that the canaries ask for, where that matters."""
        self.clock_offset_s = 0.0
        """By how much the instance's clock is ahead of ours; 0 while they agree within a second."""
        self.poll_counts = PollCounts()
        self.last_failure: LastFailure | None = None
        self._describe(target)
        self._show(None, options.clock.unix_s())

    def successor(self, target: Target) -> ScrapeTarget:
        """Return the watch for a changed target: totals and the last failure stay known."""
        is_moved = (target.host, target.port) != (self.target.host, self.target.port)
        counters = rebase(self._counters) if is_moved else self._counters
        canary = None if is_moved else self._canary
        successor = ScrapeTarget(target, self._options, counters, canary, self.history)
        successor.poll_counts, successor.last_failure = self.poll_counts, self.last_failure
        successor.turns_s = () if is_moved else self.turns_s
        successor._was_refused = self._was_refused and not is_moved
        return successor

    def relabel(self, target: Target) -> None:
        """Take over a target that is reached and read in the same way; the connection stays."""
        self._describe(target)
        self._show_again()

    @property
    def engine(self) -> Engine | None:
        """Return the engine that the instance was last polled with; None while none fits."""
        return self._engine

    @property
    def is_due(self) -> bool:
        """Return whether there is something to be asked: not yet while it is provisioned."""
        is_provisioning = self.target.state is State.PROVISIONING
        return not (is_provisioning and self._is_coming_up(self._options.clock.unix_s()))

    @property
    def requests(self) -> tuple[str, ...]:
        """Return the paths that each poll asks."""
        return self._requests

    def server_s(self) -> float:
        """Return the time on the instance's clock, in seconds since 1970 UTC."""
        return self._options.clock.unix_s() + self.clock_offset_s

    def watch_stay(self, values: Values, at_s: float) -> None:
        """Update the stay from the loaded models that the instance listed at `at_s`, if it did."""
        if values.loaded is not None:
            model = keep_alive.chosen(values.loaded, self._counters.model)
            self.stay = keep_alive.watch(self.stay, model, at_s + self.clock_offset_s)

    def take_canary(self, state: CanaryState | None) -> None:
        """Take over the state after a canary; None where no more are sent."""
        self._canary = state
        self._show_again()

    async def probe(self) -> Row:
        """Poll the instance now, over a connection of its own; everything here stays as it is."""
        history = copy(self.history)
        own = ScrapeTarget(self.target, self._options, self._counters, self._canary, history)
        own.turns_s, own._loading_since_s = self.turns_s, self._loading_since_s
        try:
            await own.poll(own.start_poll())
        finally:
            own.close()
        return own.row

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def start_poll(self) -> PollStart:
        """Set the deadlines of a poll that begins now."""
        options = self._options
        # The loop's clock has steps of a millisecond: good for deadlines, not for durations.
        now_s = asyncio.get_running_loop().time()
        deadlines = Deadlines(now_s + options.health_timeout_s, now_s + options.metrics_timeout_s)
        return PollStart(
            options.clock.unix_s(), options.clock.monotonic_s(), deadlines, self._paths()
        )

    def _paths(self) -> tuple[str, ...]:
        """Return the paths to ask first; a server that closed its connection may have restarted."""
        engine = self._engine
        if engine is None:
            return auto.PROBES
        if self._client.has_lost_connection:
            return tuple(dict.fromkeys(self._requests + engine.identity_requests))
        return self._requests

    def poll_now(self, start: PollStart, done: Callable[[Exchange], None]) -> bool:
        """Ask over one connection, without a task; `finish_poll` takes what `done` is given.

        Returns:
            False, and nothing is done, where it takes more than that: then `poll` does it.
        """
        if self._is_to_be_identified(start) and not self._is_unreachable:
            return False
        return self._client.fetch_now(start.paths, start.deadlines, done)

    def finish_poll(self, start: PollStart, exchange: Exchange) -> PollResult | None:
        """Take in what came of `poll_now`; None where `poll` has to do it after all."""
        answers = self._client.answers_of(start.paths, exchange)
        if answers is None:
            self._identify_at_s = ALWAYS_DUE_S  # it may have restarted
            return None
        if exchange.answers and self._is_to_be_identified(start):
            return None  # it is back, and may be another server
        return self._take(start, self._read(answers))

    async def poll(self, start: PollStart) -> PollResult:
        """Ask the instance over whatever connections it takes, and take in what it says."""
        if self._is_to_be_identified(start):
            verdict = await self._identify(start)
        else:
            verdict = self._read(await self._client.fetch(start.paths, start.deadlines))
        return self._take(start, verdict)

    def _is_to_be_identified(self, start: PollStart) -> bool:
        return self._engine is None or start.started_s >= self._identify_at_s

    def _read(self, answers: Answers) -> Verdict:
        engine = self._engine
        return auto.unrecognised(answers) if engine is None else engine.read(answers)

    async def _identify(self, start: PollStart) -> Verdict:
        """Find out which server it is, unless that is given, and ask it for all it says of itself.

        Repeated after each failure, and from time to time: another server may be there now, or
        another version.
        """
        answers: Answers = {}
        engine = self._options.engines.get(self.target.engine)
        if engine is None:
            answers = await self._client.fetch(auto.PROBES, start.deadlines)
            name = auto.recognise(answers)
            if name is None:
                return await self._judge_unrecognised(answers, start.deadlines)
            engine = self._options.engines[name]
        if self._engine is not engine:
            self._engine = engine
            self._label()
        at_once = engine.requests + engine.identity_requests
        answers |= await self._fetch_rest(at_once, answers, start.deadlines)
        if engine.costly_requests and engine.read(answers).outcome is Outcome.OK:
            answers |= await self._fetch_rest(engine.costly_requests, answers, start.deadlines)
        self._requests = engine.requests_for(answers)
        self._identify_at_s = start.started_s + self._options.identify_interval_s
        return engine.read(answers)

    async def _judge_unrecognised(self, answers: Answers, deadlines: Deadlines) -> Verdict:
        """Ask for `/health` only now: it costs some servers that are recognised a generation."""
        if auto.has_answered(answers):
            deadlines = Deadlines(deadlines.all_s, deadlines.all_s)
            answers |= await self._client.fetch((HEALTH,), deadlines)
        return auto.unrecognised(answers)

    async def _fetch_rest(
        self, wanted: tuple[str, ...], answers: Answers, deadlines: Deadlines
    ) -> Answers:
        """Request the paths that were not asked for yet."""
        rest = tuple([path for path in wanted if path not in answers])
        if answers:  # the first answer came in time already
            deadlines = Deadlines(deadlines.all_s, deadlines.all_s)
        return await self._client.fetch(rest, deadlines)

    def _engine_name(self) -> str:
        """Return what the server was known as last."""
        return self.target.engine if self._engine is None else self._engine.name

    def _take(self, start: PollStart, verdict: Verdict) -> PollResult:
        self.poll_counts.tried += 1
        verdict = self._limit_loading(verdict, start.started_s)
        verdict = drop_implausible(
            verdict,
            now_s=start.polled_at_s,
            max_tokens_per_second=self._options.max_tokens_per_second,
        )
        if verdict.outcome is not Outcome.OK:
            self._identify_at_s = ALWAYS_DUE_S
            if verdict.outcome is not Outcome.LOADING:
                self.poll_counts.failed += 1
                self.last_failure = LastFailure(verdict.outcome, verdict.detail, start.polled_at_s)
        self._is_unreachable = verdict.outcome in NOBODY_THERE
        if verdict.outcome is Outcome.REFUSED and self.history.was_healthy:
            self._was_refused |= self.target.state is State.RUNNING
        delta = NO_DELTA
        if verdict.values is not NO_VALUES:
            self._note_gpu(verdict.values)
            if self._canary is not None:
                self.watch_stay(verdict.values, start.polled_at_s)
            delta = self._update(verdict.values, start.polled_at_s)
            if delta.implausible:
                verdict = mark_implausible(verdict, delta.implausible)
        duration_s = round(self._options.clock.monotonic_s() - start.started_s, 6)
        reading = Reading(verdict, self._engine_name(), start.polled_at_s, duration_s)
        self._note_turn(reading)
        self._show(reading, start.polled_at_s)
        return PollResult(verdict, delta)

    def _note_turn(self, reading: Reading) -> None:
        was_up, now_up = self.row.is_up, is_up(reading)
        if was_up is not now_up and was_up is not None and now_up is not None:
            self.turns_s = (*self.turns_s[-FLAPS:], reading.polled_at_s)

    def _note_gpu(self, values: Values) -> None:
        known = self._options.models_on_gpu
        for model in values.loaded or ():
            if model.vram_bytes and len(known) < MAX_MODELS:
                known.add(model.name)

    def _limit_loading(self, verdict: Verdict, now_s: float) -> Verdict:
        """Return the verdict; another one for an instance that has been loading for too long."""
        if verdict.outcome is not Outcome.LOADING:
            self._loading_since_s = None
            return verdict
        if self._loading_since_s is None:
            self._loading_since_s = now_s
        loading_s = now_s - self._loading_since_s
        if loading_s <= self._options.loading_timeout_s:
            return verdict
        limit = f"longer than {self._options.loading_timeout_s:.0f} s (poll.loading-timeout)"
        detail = f"has been loading for {loading_s:.0f} s, {limit}: {verdict.detail}"
        return Verdict(Outcome.LOADING_TIMEOUT, detail)

    def _update(self, values: Values, now_s: float) -> Delta:
        before = self._counters
        self._counters, delta = update(
            before,
            values,
            self.target,
            now_s=now_s,
            max_tokens_per_second=self._options.max_tokens_per_second,
            was_refused=self._was_refused,
        )
        self._was_refused = False
        if (self._counters.model, self._counters.version) != (before.model, before.version):
            self._label()
        return delta

    def _describe(self, target: Target) -> None:
        self.target = target
        self._is_transient = self._options.transient.holds(target)
        if target.model:
            self._counters = msgspec.structs.replace(self._counters, model=target.model)
        self._inventory_labels = inventory_label_text(target)
        self._label()

    def _label(self) -> None:
        """Prepare the labels, which seldom change and are in every exposition."""
        counters, target = self._counters, self.target
        self._labels = label_text(target)
        self._info_labels = info_label_text(
            counters.model, self._engine_name(), counters.version, target.developer
        )

    def _show_again(self) -> None:
        self._show(self.row.reading, self._options.clock.unix_s())

    def _status(self, reading: Reading | None, at_s: float) -> Status:
        history = self.history
        polled = polled_status(self.target, reading, self._canary)
        history.note_polled(polled)
        status = status_of(
            self.target.state,
            polled,
            is_coming_up=self._is_coming_up(at_s),
            was_healthy=history.was_healthy,
            is_transient=self._is_transient,
        )
        history.note_status(status, at_s)
        return status

    def _is_coming_up(self, now_s: float) -> bool:
        return self.history.is_coming_up(now_s, self._options.starting_timeout_s)

    def _show(self, reading: Reading | None, at_s: float) -> None:
        self.row = Row(
            self.target,
            self._status(reading, at_s),
            reading,
            self._counters,
            is_up(reading),
            self._labels,
            self._info_labels,
            conditions_of(
                self.target,
                reading,
                self._counters,
                self._canary,
                models_on_gpu=self._options.models_on_gpu,
                turns_s=self.turns_s,
            ),
            self._canary,
            self.history.failing_since_s,
            self._is_transient,
            self._inventory_labels,
        )


LogLine = tuple[str, *tuple[object, ...]]
"""What a logger takes: the template, and its arguments."""
MAX_LINES = 20
"""Per window. When a rack goes, one number says more than a thousand lines."""


def failure_lines(scrape_targets: Iterable[ScrapeTarget], window_s: float) -> Iterator[LogLine]:
    """Yield a line for each instance whose polls failed since the last call, up to MAX_LINES.

    None for one that is away: it comes and goes on purpose.
    """
    n_failing = 0
    for scrape_target in scrape_targets:
        is_away = scrape_target.row.status is Status.AWAY
        if scrape_target.poll_counts.failed and not is_away:
            n_failing += 1
            if n_failing <= MAX_LINES:
                yield failure_line(scrape_target, window_s)
        scrape_target.poll_counts.tried = scrape_target.poll_counts.failed = 0
    if n_failing > MAX_LINES:
        rest = n_failing - MAX_LINES
        yield ("more instances fail, see /instances n=%d window=%.0fs", rest, window_s)


def failure_line(scrape_target: ScrapeTarget, window_s: float) -> LogLine:
    """Return what there is to say of one failing instance."""
    counts, last = scrape_target.poll_counts, scrape_target.last_failure
    template = "instance fails id=%s url=%s failed=%d polls=%d window=%.0fs"
    target = scrape_target.target
    line = (target.id, target.url, counts.failed, counts.tried, window_s)
    if last is None:
        return (template, *line)
    return (f"{template} outcome=%s: %s", *line, last.outcome, last.detail)
