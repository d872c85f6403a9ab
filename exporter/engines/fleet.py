"""The `fleet` engine: servers that answer `/health` and `/api/metrics`.

`/api/metrics` is a JSON object. The first three keys are the dialect's own, the others optional:

    tokens_per_second         number, speed while generating
    latency_p99               number, seconds (or milliseconds: metrics.latency-unit)
    error_count               integer, since the server started
    errors                    object, type to count; what error_count has more is "unspecified"
    model, version            strings
    requests_running, requests_queued, start_time_seconds (Unix)
    generated_tokens_total, prompt_tokens_total, generating_seconds_total
    request_duration_seconds  {"buckets": {"0.05": n, …, "+Inf": n}, "sum": seconds}, cumulative,
                              with any boundaries; of every request that ended, failed ones too

At least one of the three must be there; unknown keys are ignored. Numbers are 0 to 2**53.
An invalid value is left out; the others are used.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Annotated

import msgspec

from exporter.engines.base import (
    HEALTH,
    MAX_NAME_CHARACTERS,
    UNSPECIFIED,
    Amount,
    Answers,
    Engine,
    clipped,
    good_body,
    healthy,
    metrics_body,
    read_health,
    without_metrics,
)
from exporter.engines.json_objects import ObjectReader
from exporter.errors import PollError
from exporter.histograms import MAX_BOUNDARY_CHARACTERS, boundaries_of
from exporter.model import NO_VALUES, Histogram, Outcome, Values, Verdict

METRICS = "/api/metrics"

MAX_ERROR_TYPES = 1000
"""Maximum error types of one body. Far fewer are counted apart (see `counters`)."""

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARACTERS)]
Boundary = Annotated[str, msgspec.Meta(max_length=MAX_BOUNDARY_CHARACTERS)]
ErrorCounts = Annotated[dict[Name, Amount], msgspec.Meta(max_length=MAX_ERROR_TYPES)]


class _Duration(msgspec.Struct, gc=False):
    buckets: dict[Boundary, Amount]
    sum: Amount


class _Metrics(msgspec.Struct, gc=False):
    tokens_per_second: Amount | None = None
    latency_p99: Amount | None = None
    error_count: Amount | None = None
    errors: ErrorCounts | None = None
    model: Name | None = None
    version: Name | None = None
    requests_running: Amount | None = None
    requests_queued: Amount | None = None
    start_time_seconds: Amount | None = None
    generated_tokens_total: Amount | None = None
    prompt_tokens_total: Amount | None = None
    generating_seconds_total: Amount | None = None
    request_duration_seconds: _Duration | None = None


ARTICLE_METRICS = ("tokens_per_second", "latency_p99", "error_count")

_read_metrics = ObjectReader(_Metrics).read


def engine(*, latency_unit_s: float = 1.0) -> Engine:
    """Return the engine for servers whose `latency_p99` is in units of `latency_unit_s` seconds."""
    return Engine(
        name="fleet",
        requests=(HEALTH, METRICS),
        read=partial(read, latency_unit_s=latency_unit_s),
        probes=(METRICS,),
        recognise=recognise,
    )


def recognise(answers: Answers) -> bool:
    """Return whether `/api/metrics` is an object with one of the dialect's own keys."""
    body = good_body(answers, METRICS)
    if body is None:
        return False
    try:
        decode(body)
    except PollError:
        return False
    return True


def read(answers: Answers, *, latency_unit_s: float) -> Verdict:
    """Judge by `/health`; take the metrics from `/api/metrics`."""
    verdict = read_health(answers[HEALTH])
    if verdict.outcome is not Outcome.OK:
        return verdict
    try:
        metrics, faults = decode(metrics_body(METRICS, answers[METRICS]))
    except PollError as error:
        return without_metrics(error.outcome, error.detail)
    values = _values(metrics, latency_unit_s, faults)
    if not faults:
        return healthy(values)
    detail = f"{METRICS}: {clipped('; '.join(faults))}"
    return without_metrics(Outcome.BAD_BODY, detail, NO_VALUES if values == NO_VALUES else values)


def decode(body: bytes) -> tuple[_Metrics, list[str]]:
    """Decode a body of `/api/metrics`; return the metrics, and why others are left out.

    Raises:
        PollError: BAD_BODY; it is not such an object.
    """
    metrics, fault_by_name = _read_metrics(body, METRICS)
    if not fault_by_name.keys().isdisjoint(("errors", "error_count")):
        # One without the other would move errors from one type to another.
        metrics.errors = metrics.error_count = None
    given = [name for name in ARTICLE_METRICS if getattr(metrics, name) is not None]
    if not given and fault_by_name.keys().isdisjoint(ARTICLE_METRICS):
        missing = f"none of {', '.join(ARTICLE_METRICS)}"
        raise PollError(Outcome.BAD_BODY, f"{METRICS}: the object has {missing}")
    return metrics, list(fault_by_name.values())


def _values(metrics: _Metrics, latency_unit_s: float, faults: list[str]) -> Values:
    """Return the values in our units; add to the faults what is wrong with the histogram."""
    p99 = metrics.latency_p99
    return Values(
        (metrics.model,) if metrics.model else (),
        metrics.version,
        metrics.tokens_per_second,
        p99 if p99 is None else p99 * latency_unit_s,
        metrics.requests_running,
        metrics.requests_queued,
        metrics.start_time_seconds,
        metrics.generated_tokens_total,
        metrics.prompt_tokens_total,
        metrics.generating_seconds_total,
        _errors(metrics),
        _histogram(metrics.request_duration_seconds, faults),
    )


def _errors(metrics: _Metrics) -> tuple[tuple[str, float], ...]:
    """Return counts by type; what only error_count has is `unspecified`.

    An empty `errors` means none so far, as after a restart; a missing one means not reported.
    """
    counts = metrics.errors
    if counts is None and metrics.error_count is None:
        return ()
    if not counts:
        return ((UNSPECIFIED, metrics.error_count or 0.0),)
    unspecified = (metrics.error_count or 0.0) - sum(counts.values())
    if unspecified > 0:
        counts = {**counts, UNSPECIFIED: counts.get(UNSPECIFIED, 0.0) + unspecified}
    return tuple(sorted(counts.items()))


def _histogram(duration: _Duration | None, faults: list[str]) -> Histogram | None:
    """Return the histogram; None, and one more fault, if it is invalid."""
    if duration is None:
        return None
    try:
        boundaries_s, cumulative = _ordered(duration.buckets)
    except ValueError as error:
        faults.append(f"request_duration_seconds {error}")
        return None
    if all(lower <= upper for lower, upper in pairwise(cumulative)):
        return Histogram(cumulative, duration.sum, boundaries_s)
    faults.append("request_duration_seconds is not cumulative")
    return None


def _ordered(buckets: dict[str, float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return boundaries and counts; a JSON object need not have its keys in order.

    Raises:
        ValueError: They are no boundaries.
    """
    try:
        return boundaries_of(tuple(buckets)), tuple(buckets.values())
    except ValueError:
        in_order = dict(sorted(buckets.items(), key=lambda bucket: float(bucket[0])))
        return boundaries_of(tuple(in_order)), tuple(in_order.values())


ENGINE = engine()
