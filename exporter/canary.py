"""Send each instance one canary per period: a request for a few tokens, on its own connection.

A frozen runner answers every health check; only a generation shows that it is frozen.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from exporter.canary_counters import CanaryCounters
from exporter.connection import Connection, Deadlines
from exporter.engines.base import metrics_body, status_verdict
from exporter.engines.generation import Prompt, timed_lines
from exporter.errors import PollError
from exporter.instance_client import InstanceClient, TransportConfig
from exporter.model import CanaryOutcome, CanaryState, Context, Generation, Outcome, State
from exporter.poller import Wheel
from ollama_fleet import keep_alive
from ollama_fleet.canary_outcome import SKIPPED

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Iterable, Sequence

    from exporter.connection import Bounds, Exchange, OpenConnections
    from exporter.counters import FleetCounters
    from exporter.engines.base import Engine
    from exporter.engines.generation import CanaryRequest, TrainedRequest
    from exporter.model import Answer, Target, Values, Verdict
    from exporter.poller import Poller
    from exporter.scrape_target import ScrapeTarget
    from ollama_fleet.clock import Clock
    from ollama_fleet.keep_alive import Stay


log = logging.getLogger("exporter.canary")

RELOAD_S = 1.0
"""A longer load is a reload: for a model in memory the server reports at most half of this."""
MAX_ARRIVALS = 1000
"""Pieces of one answer whose arrival time is recorded."""
MAX_GENERATION_BYTES = 64 * 1024
"""Of one answer: the most tokens that may be asked for take about half of it."""


@dataclass(frozen=True, slots=True)
class CanaryOptions:
    """The canary settings, the same for every instance. Times are in seconds."""

    period_s: float
    concurrency: int
    timeout_s: float
    n_tokens: int
    prompt: str
    max_tokens_per_second: float
    patience_s: float = 2.0
    """A generation that has waited this long makes room for another canary: it costs nothing."""


class CanaryResult(msgspec.Struct, frozen=True, gc=False):
    """How one canary ended."""

    outcome: CanaryOutcome
    detail: str = ""
    generation: Generation | None = None
    duration_s: float | None = None
    """Time from the request to its end; None if no request was sent."""


NOT_LOADED = CanaryResult(CanaryOutcome.SKIPPED_NOT_LOADED, "the model is not loaded")
LEAVING = CanaryResult(CanaryOutcome.SKIPPED_NOT_LOADED, "the model is about to be unloaded")
BUSY = CanaryResult(CanaryOutcome.SKIPPED_BUSY, "requests run or wait")


MAX_PATIENT = 10
"""Times `concurrency`: canaries under way at once, with generations that have waited for long."""


# Decisions: what to send, and what an answer means. All pure


def plan(
    request: CanaryRequest,
    values: Values,
    model: str,
    options: CanaryOptions,
    stay: Stay | None,
    *,
    now_s: float,
) -> Prompt | CanaryResult:
    """Return the prompt to send, or the result of a canary that is skipped.

    `model` is what it is known to serve; empty while that is unknown.
    """
    if values.requests_running or values.requests_queued:
        return BUSY
    if values.loaded is None and not request.needs_loaded:
        served = model if model in values.models else next(iter(values.models), model)
        return Prompt(served, options.prompt, options.n_tokens)
    loaded = keep_alive.chosen(values.loaded or (), model)
    if loaded is None:
        return NOT_LOADED
    if stay is not None and keep_alive.is_leaving(stay, now_s):
        return LEAVING
    return Prompt(
        loaded.name,
        options.prompt,
        options.n_tokens,
        keep_alive.keep_alive(loaded, stay, now_s),
        loaded.context_length,
    )


def judge(
    request: CanaryRequest,
    answer: Answer,
    arrivals: Sequence[tuple[int, float]],
    sent_s: float,
    duration_s: float,
) -> CanaryResult:
    """Return the result of a canary whose answer is complete."""
    if answer.status != 200:
        return CanaryResult(*_refusal(request.path, answer), duration_s=duration_s)
    try:
        generation = request.read(timed_lines(answer.body, arrivals, sent_s))
    except PollError as error:
        return CanaryResult(CanaryOutcome.ERROR, error.detail, duration_s=duration_s)
    generation = msgspec.structs.replace(generation, duration_s=duration_s)
    return CanaryResult(CanaryOutcome.OK, "", generation, duration_s)


def _refusal(path: str, answer: Answer) -> tuple[CanaryOutcome, str]:
    detail = status_verdict(path, answer).detail
    if answer.status == 429 or (answer.status == 503 and b"busy" in answer.body):
        return CanaryOutcome.SKIPPED_BUSY, detail
    if answer.status == 400 and b"does not support" in answer.body:  # a model for embeddings
        return CanaryOutcome.SKIPPED_NOT_LOADED, detail
    return CanaryOutcome.ERROR, detail


def failure(outcome: Outcome, detail: str, duration_s: float | None = None) -> CanaryResult:
    """Return the result of a canary that got no complete answer."""
    is_late = outcome is Outcome.TIMEOUT
    canary_outcome = CanaryOutcome.STALLED if is_late else CanaryOutcome.ERROR
    return CanaryResult(canary_outcome, detail, duration_s=duration_s)


def without_implausible_speed(result: CanaryResult, most: float) -> CanaryResult:
    """Return the result without its speed if that is implausible."""
    generation = result.generation
    if generation is None or (generation.tokens_per_second or 0.0) <= most:
        return result
    kept = msgspec.structs.replace(generation, tokens_per_second=None)
    return msgspec.structs.replace(result, generation=kept)


def after_load(
    context: Context | None, result: CanaryResult, before: CanaryState | None
) -> Context | None:
    """Return the choice of the context length, reversed if the canary made Ollama reload the model.

    A load after a stall does not count: the runner had been restarted.
    """
    load_s = 0.0 if result.generation is None else result.generation.load_s or 0.0
    was_stalled = before is not None and before.n_stalled > 0
    if context is None or load_s < RELOAD_S or was_stalled:
        return context
    return msgspec.structs.replace(context, is_reversed=not context.is_reversed)


def next_state(before: CanaryState | None, result: CanaryResult, at_s: float) -> CanaryState:
    """Return an instance's canary state after one more canary."""
    outcome, detail = result.outcome, result.detail
    if outcome not in SKIPPED:
        n_before = 0 if before is None else before.n_stalled
        n_stalled = n_before + 1 if outcome is CanaryOutcome.STALLED else 0
        return CanaryState(outcome, detail, at_s, n_stalled, at_s, result.generation)
    if before is None:
        return CanaryState(outcome, detail, at_s)
    n_stalled = before.n_stalled if outcome is CanaryOutcome.SKIPPED_BUSY else 0
    return msgspec.structs.replace(
        before, outcome=outcome, detail=detail, at_s=at_s, n_stalled=n_stalled
    )


# The connection


class TimedConnection(Connection):
    """A connection that records when each piece of an answer arrived, and the server's clock."""

    __slots__ = ("arrivals", "date")

    def __init__(
        self,
        loop: AbstractEventLoop,
        target: Target,
        bounds: Bounds,
        open_connections: OpenConnections,
    ) -> None:
        super().__init__(loop, target, bounds, open_connections)
        self.arrivals: list[tuple[int, float]] = []
        """(bytes of the last answer's body so far, when they had arrived in monotonic seconds)."""
        self.date = b""

    def tighten(self, bounds: Bounds) -> None:
        """Set the bounds of the next answers."""
        self._bounds = bounds

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record the Date header as well."""
        super().on_header(name, value)
        if name.lower() == b"date":
            self.date = value

    def on_body(self, data: bytes) -> None:
        """Record the arrival time as well; beyond the bound, replace the last one."""
        if not self._body_bytes:
            self.arrivals.clear()
        super().on_body(data)
        if len(self.arrivals) >= MAX_ARRIVALS:
            self.arrivals.pop()
        self.arrivals.append((self._body_bytes, time.monotonic()))


class CanaryClient(InstanceClient):
    """The connection to one instance for one canary."""

    __slots__ = ()

    async def check(self, engine: Engine, requests: tuple[str, ...], deadline_s: float) -> Verdict:
        """Send the requests of a poll and judge the answers."""
        return engine.read(await self.fetch(requests, Deadlines(deadline_s, deadline_s)))

    async def trained(self, request: TrainedRequest, model: str, deadline_s: float) -> float | None:
        """Return the context length that the model was trained with; None: the model has none.

        Raises:
            PollError: The answer does not say.
        """
        exchange = await self._post(request.path, request.body(model), deadline_s)
        if exchange.failure is not None:
            raise PollError(exchange.failure.outcome, exchange.failure.detail)
        return request.read(metrics_body(request.path, exchange.answers[0]))

    async def generate(
        self, request: CanaryRequest, prompt: Prompt, deadline_s: float
    ) -> CanaryResult:
        """Ask for the generation and read it."""
        self._tighten()
        sent_s = time.monotonic()
        exchange = await self._post(request.path, request.body(prompt), deadline_s)
        duration_s = time.monotonic() - sent_s
        if exchange.failure is not None:
            return failure(exchange.failure.outcome, exchange.failure.detail, duration_s)
        arrivals = (
            self._connection.arrivals if isinstance(self._connection, TimedConnection) else ()
        )
        return judge(request, exchange.answers[0], arrivals, sent_s, duration_s)

    def _tighten(self) -> None:
        """Bound what follows as one generation, which is smaller than a list of models may be."""
        body_bytes = min(MAX_GENERATION_BYTES, self._transport.bounds.body_bytes)
        bounds = replace(
            self._transport.bounds, body_bytes=body_bytes, helps="; reduce canary.tokens"
        )
        self._transport = replace(self._transport, bounds=bounds)
        if isinstance(self._connection, TimedConnection):
            self._connection.tighten(bounds)

    async def _post(self, path: str, body: bytes, deadline_s: float) -> Exchange:
        self._requests[path,] = _post(self._target, path, body, self._transport.user_agent)
        return await self._exchange((path,), Deadlines(deadline_s, deadline_s))

    def _new_connection(self) -> Connection:
        loop, transport = asyncio.get_running_loop(), self._transport
        return TimedConnection(loop, self._target, transport.bounds, transport.open_connections)

    def clock_offset_s(self, now_s: float) -> float:
        """Return by how much the instance's clock is ahead of ours."""
        if not isinstance(self._connection, TimedConnection):
            return 0.0
        return keep_alive.clock_offset_s(self._connection.date.decode("latin-1"), now_s)


def _post(target: Target, path: str, body: bytes, user_agent: str) -> bytes:
    head = (
        f"POST {target.path}{path} HTTP/1.1\r\nHost: {target.netloc}\r\n"
        f"User-Agent: {user_agent}\r\nAccept: */*\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# The schedule


def _is_eligible(scrape_target: ScrapeTarget) -> bool:
    """Return whether an instance runs, is healthy, and has an engine with a canary."""
    engine = scrape_target.engine
    is_serving = scrape_target.target.state is State.RUNNING and scrape_target.row.is_up is True
    return is_serving and engine is not None and engine.canary is not None


class CanaryScheduler:
    """Sends each instance of a poller its canary when it is due, until it is closed."""

    def __init__(
        self,
        options: CanaryOptions,
        poller: Poller,
        fleet_counters: FleetCounters,
        transport: TransportConfig,
        clock: Clock,
    ) -> None:
        self._options = options
        self._poller = poller
        self._counters = fleet_counters.canary = fleet_counters.canary or CanaryCounters()
        self._transport = replace(transport, slots=None)  # few connections, which are not kept
        self._clock = clock
        self._wheel = poller.canary_wheel = Wheel(options.period_s)
        for instance_id, scrape_target in poller.scrape_targets.items():
            self._wheel.add(instance_id, scrape_target)
        self._waiting: deque[ScrapeTarget] = deque()
        self._tasks: dict[str, asyncio.Task[None] | None] = {}
        """By instance id; None while it waits for its turn."""
        self._timers: dict[str, asyncio.TimerHandle | None] = {}
        """By instance id: canaries that count against `concurrency`, until `patience_s` is over.

        None before the generation: then up to `poll.max-body-bytes` may come for each answer."""
        self._n_late = 0

    def __repr__(self) -> str:
        n_waiting = len(self._waiting)
        return f"<CanaryScheduler {len(self._tasks) - n_waiting} under way, {n_waiting} waiting>"

    async def run(self) -> None:
        """Start each canary when it is due, until cancelled."""
        wheel = self._wheel
        # The wall clock may be set while we run.
        offset_s = self._clock.unix_s() - self._clock.monotonic_s()
        tick = wheel.tick_at(self._clock.unix_s()) + 1
        while True:
            await self._clock.sleep(wheel.starts_at_s(tick) - offset_s - self._clock.monotonic_s())
            now_tick = wheel.tick_at(self._clock.monotonic_s() + offset_s)
            # After a long pause of this process, at most one period of canaries is made up for.
            for due in range(max(tick, now_tick - wheel.n_slots + 1), now_tick + 1):
                self._queue(wheel.due(due))
                if due % wheel.n_slots == 0:
                    self._log_late()
            tick = max(tick, now_tick + 1)

    async def close(self) -> None:
        """Cancel all canaries."""
        self._waiting.clear()
        tasks = [task for task in self._tasks.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _queue(self, scrape_targets: Iterable[ScrapeTarget]) -> None:
        for scrape_target in scrape_targets:
            instance_id = scrape_target.target.id
            if instance_id in self._tasks:
                self._n_late += 1
            elif _is_eligible(scrape_target):
                self._tasks[instance_id] = None
                self._waiting.append(scrape_target)
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Start canaries up to the limits."""
        most = self._options.concurrency
        while self._waiting and len(self._timers) < most:
            if len(self._tasks) - len(self._waiting) >= MAX_PATIENT * most:
                return
            self._start(self._waiting.popleft())

    def _start(self, scrape_target: ScrapeTarget) -> None:
        loop, instance_id = asyncio.get_running_loop(), scrape_target.target.id
        task = loop.create_task(self._ask(scrape_target))
        self._tasks[instance_id] = task
        self._timers[instance_id] = None
        task.add_done_callback(partial(self._ended, instance_id))

    def _start_patience(self, instance_id: str) -> None:
        loop, patience_s = asyncio.get_running_loop(), self._options.patience_s
        self._timers[instance_id] = loop.call_later(patience_s, self._make_room, instance_id)

    def _make_room(self, instance_id: str) -> None:
        del self._timers[instance_id]
        self._start_waiting()

    def _ended(self, instance_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[instance_id]
        if timer := self._timers.pop(instance_id, None):
            timer.cancel()
        if not task.cancelled() and task.exception() is not None:
            log.error("bug in a canary instance=%s", instance_id, exc_info=task.exception())
        self._start_waiting()

    async def _ask(self, scrape_target: ScrapeTarget) -> None:
        """Send one canary and record its result."""
        engine = scrape_target.engine
        if engine is None or engine.canary is None or not self._is_still_due(scrape_target):
            return
        began_s = self._clock.unix_s()
        client = CanaryClient(scrape_target.target, self._transport)
        try:
            result = await self._result(scrape_target, engine, engine.canary, client)
        finally:
            client.close()
        self._counters.record(
            scrape_target.row.counters.model, result.outcome, result.generation, result.duration_s
        )
        scrape_target.take_canary(next_state(scrape_target.row.canary, result, began_s))

    async def _result(
        self,
        scrape_target: ScrapeTarget,
        engine: Engine,
        request: CanaryRequest,
        client: CanaryClient,
    ) -> CanaryResult:
        deadline_s = asyncio.get_running_loop().time() + self._options.timeout_s
        reading = scrape_target.row.reading
        assert reading is not None  # noqa: S101 - one without a poll is not asked
        prompt = self._plan(scrape_target, request, reading.verdict.values, None)
        if request.is_checked_first and isinstance(prompt, Prompt):
            prompt = await self._checked(scrape_target, engine, request, client, deadline_s)
        if isinstance(prompt, CanaryResult):
            return prompt
        self._start_patience(scrape_target.target.id)
        stay, sent_s = scrape_target.stay, scrape_target.server_s()
        result = await client.generate(request, prompt, deadline_s)
        scrape_target.stay = keep_alive.after_canary(stay, sent_s, scrape_target.server_s())
        scrape_target.context = after_load(scrape_target.context, result, scrape_target.row.canary)
        return without_implausible_speed(result, self._options.max_tokens_per_second)

    async def _checked(
        self,
        scrape_target: ScrapeTarget,
        engine: Engine,
        request: CanaryRequest,
        client: CanaryClient,
        deadline_s: float,
    ) -> Prompt | CanaryResult:
        """Send the requests of a poll, and plan the canary by the answers."""
        verdict = await client.check(engine, scrape_target.requests, deadline_s)
        if verdict.outcome is not Outcome.OK:
            return failure(verdict.outcome, verdict.detail)
        now_s = self._clock.unix_s()
        scrape_target.clock_offset_s = client.clock_offset_s(now_s)
        scrape_target.watch_stay(verdict.values, now_s)
        prompt = self._plan(scrape_target, request, verdict.values, scrape_target.stay)
        if isinstance(prompt, CanaryResult) or request.trained is None:
            return prompt
        return await self._without_reload(
            scrape_target, prompt, request.trained, client, deadline_s
        )

    async def _without_reload(
        self,
        scrape_target: ScrapeTarget,
        prompt: Prompt,
        request: TrainedRequest,
        client: CanaryClient,
        deadline_s: float,
    ) -> Prompt | CanaryResult:
        """Return the prompt with the context length that makes the server load nothing."""
        if prompt.context_length is None:
            return prompt
        known = scrape_target.context
        if known is None or known.model != prompt.model:
            try:
                trained = await client.trained(request, prompt.model, deadline_s)
            except PollError as error:
                why = f"not sent, because it could reload the model: {error.detail}"
                return CanaryResult(CanaryOutcome.SKIPPED_NOT_LOADED, why)
            known = scrape_target.context = Context(prompt.model, trained)
        context_length = request.sent_context(prompt.context_length, known)
        return prompt._replace(context_length=context_length)

    def _plan(
        self,
        scrape_target: ScrapeTarget,
        request: CanaryRequest,
        values: Values,
        stay: Stay | None,
    ) -> Prompt | CanaryResult:
        model, now_s = scrape_target.row.counters.model, scrape_target.server_s()
        return plan(request, values, model, self._options, stay, now_s=now_s)

    def _is_still_due(self, scrape_target: ScrapeTarget) -> bool:
        """Return whether an instance that waited is still there and may be asked."""
        known = self._poller.scrape_targets.get(scrape_target.target.id)
        return known is scrape_target and _is_eligible(scrape_target)

    def _log_late(self) -> None:
        if self._n_late:
            log.warning(
                "canaries are late, raise canary.concurrency or canary.period n=%d period=%gs",
                self._n_late,
                self._options.period_s,
            )
            self._n_late = 0
