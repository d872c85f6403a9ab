"""Continue counters across an instance's restarts, and add them up for the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from exporter.engines.base import MAX_LATENCY_S, MAX_TOKENS_PER_SECOND, PROMPT_FACTOR
from exporter.histograms import MergedHistograms, RecentBounds, gained
from exporter.model import Histogram, Values

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Set

    from exporter.canary_counters import CanaryCounters
    from exporter.model import CanaryState, Target


SPEED_KEPT_S = 3600.0
"""How long a speed stands while an instance is idle and says nothing new."""

MAX_REQUESTS_PER_SECOND = 10_000.0
"""Of one instance, failed ones included: no HTTP server in front of a model ends more."""
BURST_S = 60.0
"""A server may count the work of this long at once: some count a request only when it ends."""

MAX_ERROR_TYPES = 32
"""Maximum number of error types of one instance; later ones count as `other`."""


class Counter(msgspec.Struct, frozen=True, gc=False):
    """A counter of an instance: its last raw value, and ours, which never goes back."""

    raw: float | None
    """None where the next value only sets the mark (see `rebase`)."""
    total: float


class CounterState(msgspec.Struct, frozen=True, gc=False):
    """The counters and speed of one instance, continued from poll to poll."""

    model: str = ""
    version: str = ""
    speed_tokens_per_second: float | None = None
    speed_at_s: float = 0.0
    """When the speed was last reported, in seconds since 1970 UTC."""
    start_time_s: float | None = None
    generated: Counter | None = None
    generating_seconds: Counter | None = None
    prompt: Counter | None = None
    errors: tuple[tuple[str, Counter], ...] | None = None
    """By error type; None until the instance has reported its errors, be it that there are none."""
    last_errors: tuple[tuple[str, float], ...] = ()
    """The last counts as the instance gave them: mostly they are the same again.

    Empty where there were too many to keep.
    """
    durations: Histogram | None = None
    time_to_first_token: Histogram | None = None
    queue_time: Histogram | None = None
    reported_at_s: float = 0.0
    """When values were last reported, in seconds since 1970 UTC."""
    loaded: tuple[str, ...] | None = None
    """Names of the models that were in memory last; None until the instance says so."""
    installed: tuple[str, ...] | None = None
    """Names of the models on its disk, which it is seldom asked for."""
    listed_start_s: float | None = None
    """When it started by the inventory, in seconds since 1970 UTC."""
    version_at_s: float = 0.0
    """When it last said its version, in seconds since 1970 UTC: it is seldom asked."""
    restarted_at_s: float = 0.0
    """When its version or counters last showed a restart, in seconds since 1970 UTC."""
    served_at_s: float = 0.0
    """When it last generated tokens, had no queue or did not say, in seconds since 1970 UTC."""


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What an instance did since its last poll.

    The first poll only sets the marks: it gives zeros, with which the fleet's counters begin, so
    that their first increase is seen as one.
    """

    generated_tokens: float | None = None
    """None if the instance reports no count."""
    errors: tuple[tuple[str, float], ...] = ()
    """(error type, count) of the types that are new or grew."""
    durations: Histogram | None = None
    failed_requests: float = 0.0
    """Failed requests among those in `durations`; 0 if the instance reports no durations."""
    model_changes: tuple[tuple[str, int], ...] = ()
    """(model, 1 if it was loaded, -1 if it was unloaded, 0 if it is the first one seen)."""
    n_restarts: int = 0
    time_to_first_token: Histogram | None = None
    queue_time: Histogram | None = None
    implausible: tuple[str, ...] = ()
    """The counts that rose faster than any server counts, in words; they are left out here."""


NO_DELTA = Delta()
NO_ERRORS = Counter(0.0, 0.0)


def update(
    state: CounterState,
    values: Values,
    target: Target,
    *,
    now_s: float,
    max_tokens_per_second: float = MAX_TOKENS_PER_SECOND,
    was_refused: bool = False,
) -> tuple[CounterState, Delta]:
    """Return the state after a healthy instance's values, and what it did since the last poll.

    `was_refused`: since the last values nobody listened on its port.
    """
    after, delta = _advanced(state, values, target, now_s, was_refused=was_refused)
    if delta is NO_DELTA and after.prompt is state.prompt:
        return after, delta
    # The time is below zero where the clock was set back.
    span_s = max(BURST_S, now_s - state.reported_at_s)
    rises = _rises(state, after, delta, span_s, max_tokens_per_second)
    leaps = {name: risen for name, (risen, most) in rises.items() if risen > most}
    if not leaps:
        return after, delta
    state = _without_marks(state, leaps)
    after, delta = _advanced(state, values, target, now_s, was_refused=was_refused)
    return after, msgspec.structs.replace(delta, implausible=_words(leaps))


def _advanced(
    state: CounterState, values: Values, target: Target, now_s: float, *, was_refused: bool
) -> tuple[CounterState, Delta]:
    generated = _advance(state.generated, values.generated_tokens_total)
    seconds = _advance(state.generating_seconds, values.generating_seconds_total)
    errors = state.errors
    if values.errors_total != state.last_errors:
        errors = _advance_errors(state.errors, values.errors_total)
    speed, speed_at_s = _speed(state, values, generated, seconds, now_s)
    after = CounterState(
        _model(state.model, values.models, target.model),
        values.version or state.version,
        speed,
        speed_at_s,
        state.start_time_s if values.start_time_s is None else values.start_time_s,
        generated,
        seconds,
        _advance(state.prompt, values.prompt_tokens_total),
        errors,
        values.errors_total if len(values.errors_total) <= MAX_ERROR_TYPES else (),
        values.request_duration or state.durations,
        values.time_to_first_token or state.time_to_first_token,
        values.queue_time or state.queue_time,
        now_s,
        _loaded(state.loaded, values),
        state.installed if values.installed is None else values.installed,
        target.started_s,
        now_s if values.version else state.version_at_s,
        state.restarted_at_s,
        state.served_at_s
        if values.requests_queued and generated is not None and generated is state.generated
        else now_s,
    )
    delta = _delta(state, after, values, was_refused=was_refused)
    if delta.n_restarts and not _is_later(state.listed_start_s, target.started_s):
        after = msgspec.structs.replace(after, restarted_at_s=now_s)
    return after, delta


def _loaded(known: tuple[str, ...] | None, values: Values) -> tuple[str, ...] | None:
    """Return the names of the loaded models; the same object while they are the same."""
    if values.loaded is None:
        return known
    names = tuple([model.name for model in values.loaded])
    return known if names == known else names


MARKS = {
    "generated": "generated_tokens_total",
    "generating_seconds": "generated_tokens_total by generating_seconds_total",
    "prompt": "prompt_tokens_total",
    "errors": "error_count and errors",
    "durations": "request_duration_seconds",
    "time_to_first_token": "time_to_first_token",
    "queue_time": "queue_time",
}
"""The fields of CounterState that say how far an instance has counted, and what it calls them."""


def _rises(
    state: CounterState,
    after: CounterState,
    delta: Delta,
    span_s: float,
    max_tokens_per_second: float,
) -> dict[str, tuple[float, float]]:
    """Return by how much each count has risen and by how much it may have, by field."""
    max_requests = MAX_REQUESTS_PER_SECOND * span_s
    speed = after.speed_tokens_per_second if after.speed_at_s == after.reported_at_s else None
    rises = {
        "generated": (delta.generated_tokens or 0.0, max_tokens_per_second * span_s),
        "generating_seconds": (speed or 0.0, max_tokens_per_second),
        "errors": (sum([count for _, count in delta.errors]), max_requests),
    }
    if state.prompt and after.prompt:
        risen = after.prompt.total - state.prompt.total
        rises["prompt"] = (risen, max_tokens_per_second * PROMPT_FACTOR * span_s)
    for name in ("durations", "time_to_first_token", "queue_time"):
        histogram: Histogram | None = getattr(delta, name)
        if histogram is not None:
            risen = max(histogram.cumulative[-1], histogram.sum_s / MAX_LATENCY_S)
            rises[name] = (risen, max_requests)
    return rises


def _words(leaps: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(
        [
            f"{MARKS[name]}: {risen:.6g} since the last poll, which no server does"
            for name, risen in leaps.items()
        ]
    )


def rebase(state: CounterState) -> CounterState:
    """Return what to remember of an instance whose address has changed.

    Totals, model, version and speed stay. The marks do not: another server is behind the new
    address, maybe, and how far its counts are from the old one's says nothing. So its first values
    only set new marks.
    """
    moved = _without_marks(state, MARKS)
    return msgspec.structs.replace(
        moved, start_time_s=None, last_errors=(), loaded=None, installed=None, listed_start_s=None
    )


def _without_marks(state: CounterState, names: Iterable[str]) -> CounterState:
    """Return the state in which the next values of some counts only set new marks."""
    marks = {name: _without_mark(getattr(state, name)) for name in names}
    return msgspec.structs.replace(state, **marks)


def _without_mark(
    mark: Counter | tuple[tuple[str, Counter], ...] | Histogram | None,
) -> Counter | tuple[tuple[str, Counter], ...] | None:
    if mark is None or isinstance(mark, Histogram):
        return None
    if isinstance(mark, Counter):
        return Counter(None, mark.total)
    return tuple([(kind, Counter(None, counter.total)) for kind, counter in mark])


def speed_now(
    state: CounterState, canary: CanaryState | None = None, *, now_s: float
) -> float | None:
    """Return the instance's speed while generating, in tokens/s; None when unknown or too old.

    The last canary's counts where the instance itself says nothing of its speed.
    """
    if state.speed_tokens_per_second is not None and now_s - state.speed_at_s <= SPEED_KEPT_S:
        return state.speed_tokens_per_second
    if canary is None or canary.generation is None or is_stale(canary, now_s=now_s):
        return None
    return canary.generation.tokens_per_second


def is_stale(canary: CanaryState, *, now_s: float) -> bool:
    """Return whether the instance was last asked too long ago for the answer to count."""
    return canary.asked_at_s is None or now_s - canary.asked_at_s > SPEED_KEPT_S


def _model(known: str, reported: tuple[str, ...], listed: str) -> str:
    """Prefer what the inventory lists, then what is known and still loaded or not contradicted."""
    if listed:
        return listed
    return known if not reported or known in reported else reported[0]


def _advance(before: Counter | None, raw: float | None) -> Counter | None:
    """Move a counter on. The first value seen is where ours begins as well."""
    if raw is None:
        return before
    return Counter(raw, raw) if before is None else _moved(before, raw)


def _moved(before: Counter, raw: float) -> Counter:
    if raw == before.raw:
        return before
    return Counter(raw, before.total + _gain(before.raw, raw))


def _gain(before: float | None, now: float) -> float:
    if before is None:
        return 0.0
    return now if now < before else now - before


def _advance_errors(
    before: tuple[tuple[str, Counter], ...] | None, now: tuple[tuple[str, float], ...]
) -> tuple[tuple[str, Counter], ...] | None:
    if not now:
        return before
    known = dict(before or ())
    reported = _folded(known, now)
    is_unmarked = any(counter.raw is None for counter in known.values())
    new = Counter(None, 0.0) if is_unmarked else NO_ERRORS
    # A type that is not reported has no errors: so it was before its first, and is after a restart.
    return tuple(
        [
            (kind, _moved(known.get(kind, new), reported.get(kind, 0.0)))
            for kind in sorted({*known, *reported})
        ]
    )


def _folded(known: Collection[str], now: tuple[tuple[str, float], ...]) -> dict[str, float]:
    """Return counts by type; types that come when there are too many already count as `other`."""
    names = set(known)
    reported: dict[str, float] = {}
    for kind, count in now:
        name = bounded(kind, names, MAX_ERROR_TYPES)
        names.add(name)
        reported[name] = reported.get(name, 0.0) + count
    return reported


def _speed(
    state: CounterState,
    values: Values,
    generated: Counter | None,
    seconds: Counter | None,
    now_s: float,
) -> tuple[float | None, float]:
    """Return the speed and when it was reported: as reported, or from counters that both moved."""
    # An idle server reports zero or its last speed again, which is no news of what it can do.
    if values.tokens_per_second and (generated is None or generated is not state.generated):
        return values.tokens_per_second, now_s
    if generated and seconds and state.generated and state.generating_seconds:
        tokens = generated.total - state.generated.total
        spent_s = seconds.total - state.generating_seconds.total
        if tokens > 0 and spent_s > 0:
            return tokens / spent_s, now_s
    return state.speed_tokens_per_second, state.speed_at_s


def _delta(state: CounterState, after: CounterState, values: Values, *, was_refused: bool) -> Delta:
    tokens = None
    if after.generated is not state.generated and after.generated is not None:
        tokens = after.generated.total - _total(state.generated or after.generated)
    errors: tuple[tuple[str, float], ...] = ()
    if after.errors is not state.errors and after.errors is not None:
        before = after.errors if state.errors is None else state.errors
        errors = _gained_errors(before, after.errors)
    durations = values.request_duration
    failed = 0.0
    if durations is not None:
        # What failed before the first durations were reported is not among the requests they count.
        if state.durations is not None:
            failed = sum([count for _, count in errors])
        durations = gained(state.durations, durations)
    first_token, queued = values.time_to_first_token, values.queue_time
    if first_token is not None:
        first_token = gained(state.time_to_first_token, first_token)
    if queued is not None:
        queued = gained(state.queue_time, queued)
    changes = _model_changes(state.loaded, after.loaded)
    n_restarts = int(_has_restarted(state, after, was_refused=was_refused))
    done = Delta(tokens, errors, durations, failed, changes, n_restarts, first_token, queued)
    return NO_DELTA if done == NO_DELTA else done


def _model_changes(
    before: tuple[str, ...] | None, after: tuple[str, ...] | None
) -> tuple[tuple[str, int], ...]:
    if after is before or after is None:
        return ()
    if before is None:
        return tuple([(model, 0) for model in after])
    loaded = [(model, 1) for model in after if model not in before]
    return (*loaded, *[(model, -1) for model in before if model not in after])


START_JITTER_S = 1.0
"""Some servers derive their start time from their uptime at each request."""


def _has_restarted(state: CounterState, after: CounterState, *, was_refused: bool) -> bool:
    """Return whether the server began a new life since the last poll, as far as that shows."""
    if after.start_time_s is not None:
        return _is_later(state.start_time_s, after.start_time_s)
    listed_s = after.listed_start_s
    if _is_later(state.listed_start_s, listed_s):
        # Unless the server itself showed it before the inventory did.
        return _is_later(state.restarted_at_s, listed_s)
    if was_refused:
        return True
    # A version from before a start that is counted already says nothing.
    started_s = max(listed_s or 0.0, state.restarted_at_s - START_JITTER_S)
    if state.version and started_s < state.version_at_s and after.version != state.version:
        return True
    return _went_back(state.generated, after.generated) or _went_back(state.prompt, after.prompt)


def _is_later(before_s: float | None, after_s: float | None) -> bool:
    return before_s is not None and after_s is not None and after_s > before_s + START_JITTER_S


def _went_back(before: Counter | None, after: Counter | None) -> bool:
    if before is None or after is None or before.raw is None or after.raw is None:
        return False
    return after.raw < before.raw


def _gained_errors(
    before: tuple[tuple[str, Counter], ...], after: tuple[tuple[str, Counter], ...]
) -> tuple[tuple[str, float], ...]:
    known = dict(before)
    return tuple([(kind, counter.total - _total(known.get(kind))) for kind, counter in after])


def _total(counter: Counter | None) -> float:
    return 0.0 if counter is None else counter.total


MAX_MODELS = 500
MAX_FLEET_ERROR_TYPES = 100
MAX_ERROR_PAIRS = 5000
"""Of model and error type: 50 models may have errors of all types."""


class TrafficCounters:
    """Running totals of requests, tokens and errors; each only ever grows."""

    def __init__(self) -> None:
        self.generated_tokens: dict[str, float] = {}
        """By model."""
        self.errors: dict[tuple[str, str], float] = {}
        """By (model, error type)."""
        self._error_types: set[str] = set()
        self.node_errors: dict[tuple[str, str], float] = {}
        """By (node, error type)."""
        self.durations = MergedHistograms()
        self.time_to_first_token = MergedHistograms()
        self.queue_time = MergedHistograms()
        self._recent_bounds = RecentBounds()
        self.failed_requests: dict[str, float] = {}
        """By model, of those that report durations."""
        self.is_stale = False
        """Whether what counts has not been read for so long that the totals would mislead."""

    @property
    def requests(self) -> dict[str, float]:
        """Return the number of requests in `durations`, by model."""
        return {model: one.cumulative[-1] for model, one in self.durations.by_model.items()}

    @property
    def request_errors(self) -> dict[str, float]:
        """Return the number of failed ones among `requests`, by model."""
        return {model: self.failed_requests.get(model, 0.0) for model in self.durations.by_model}

    def latency_bounds(self, q: float, now_s: float) -> tuple[float, float | None] | None:
        """Return the lower and upper bound of the recent q-quantile; None: no requests."""
        return self._recent_bounds.update(q, self.durations.by_layout, now_s)

    def record(self, node: str, model: str, delta: Delta) -> None:
        """Add what one instance did since its last poll, or a gateway since it was last read."""
        if delta.generated_tokens is not None:
            _add(self.generated_tokens, model, delta.generated_tokens, MAX_MODELS)
        for kind, count in delta.errors:
            self._record_errors(node, model, kind, count)
        _merge(self.durations, model, delta.durations)
        _merge(self.time_to_first_token, model, delta.time_to_first_token)
        _merge(self.queue_time, model, delta.queue_time)
        if delta.failed_requests:
            counted_as = bounded(model, self.durations.by_model, MAX_MODELS)
            _add(self.failed_requests, counted_as, delta.failed_requests, MAX_MODELS)

    def _record_errors(self, node: str, model: str, kind: str, count: float) -> None:
        counted_as = bounded(kind, self._error_types, MAX_FLEET_ERROR_TYPES)
        self._error_types.add(counted_as)
        pair = (model, counted_as)
        if pair not in self.errors and len(self.errors) >= MAX_ERROR_PAIRS:
            pair = (OTHER, counted_as)
        self.errors[pair] = self.errors.get(pair, 0.0) + count
        key = (node, counted_as)
        self.node_errors[key] = self.node_errors.get(key, 0.0) + count

    def keep_nodes(self, present: Set[str]) -> None:
        """Forget nodes that the inventory no longer has, so that their series vanish."""
        gone = [key for key in self.node_errors if key[0] not in present]
        for key in gone:
            del self.node_errors[key]


class FleetCounters(TrafficCounters):
    """What instances count, and what is counted of them."""

    def __init__(self) -> None:
        super().__init__()
        self.model_loads: dict[str, float] = {}
        """By model, as `model_unloads`."""
        self.model_unloads: dict[str, float] = {}
        self.restarts = 0
        self.canary: CanaryCounters | None = None
        """None while no canaries are sent."""
        self.gateways: TrafficCounters | None = None
        """What gateways count, in place of what instances do; None where none is read."""

    @property
    def traffic(self) -> TrafficCounters:
        """Return what counts the requests."""
        return self if self.gateways is None else self.gateways

    def record(self, node: str, model: str, delta: Delta) -> None:
        """Add what one instance did since its last poll."""
        super().record(node, model, delta)
        for model_changed, change in delta.model_changes:
            _add(self.model_loads, model_changed, max(change, 0), MAX_MODELS)
            _add(self.model_unloads, model_changed, max(-change, 0), MAX_MODELS)
        self.restarts += delta.n_restarts


def _add(totals: dict[str, float], name: str, amount: float, limit: int) -> str:
    """Add to a total; return the name that it counts under."""
    counted_as = bounded(name, totals, limit)
    totals[counted_as] = totals.get(counted_as, 0.0) + amount
    return counted_as


def _merge(merged: MergedHistograms, model: str, histogram: Histogram | None) -> None:
    if histogram is not None:
        merged.add(bounded(model, merged.by_model, MAX_MODELS), histogram)


OTHER = "other"
"""Takes what comes under new names once there are too many."""


def bounded(name: str, known: Collection[str], limit: int) -> str:
    """Return the name to count under: itself if it is known or there are fewer than `limit`."""
    return name if name in known or len(known) < limit else OTHER
