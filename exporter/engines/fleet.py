"""The `fleet` engine: servers that answer `/health` and `/api/metrics`.

`/api/metrics` is a JSON object. The first three keys are the dialect's own, the others optional:

    tokens_per_second         number, speed while generating
    latency_p99               number, seconds (or milliseconds: metrics.latency-unit)
    error_count               integer, since the server started
    errors                    object, type to count; what error_count has more is "unspecified"
    model, version            strings
    requests_running, requests_queued, start_time_seconds (Unix)
    generated_tokens_total, prompt_tokens_total, generating_seconds_total
    request_duration_seconds  {"buckets": {"0.05": n, …, "+Inf": n}, "sum": seconds}, cumulative;
                              of every request that ended, those that failed included

At least one of the three must be there; unknown keys are ignored. Numbers are 0 to 2**53.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Annotated

import msgspec

from exporter.catalogue import BOUNDARIES_S
from exporter.engines.base import (
    HEALTH,
    MAX_NAME_CHARACTERS,
    Amount,
    Answers,
    Engine,
    clipped,
    decode_json,
    healthy,
    metrics_body,
    read_health,
    without_figures,
)
from exporter.errors import PollError
from exporter.model import EngineName, Histogram, Outcome, Values, Verdict

METRICS = "/api/metrics"

UNSPECIFIED = "unspecified"
MAX_ERROR_TYPES = 1000
"""What a body may hold. Far fewer are told apart (see `memory`), but these are kept for a poll."""

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARACTERS)]
ErrorCounts = Annotated[dict[Name, Amount], msgspec.Meta(max_length=MAX_ERROR_TYPES)]


class _Duration(msgspec.Struct, gc=False):
    buckets: dict[str, Amount]
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


_decode = msgspec.json.Decoder(_Metrics).decode


def engine(*, latency_unit_s: float = 1.0) -> Engine:
    """Return the engine for servers whose `latency_p99` is in units of `latency_unit_s` seconds."""
    return Engine(EngineName.FLEET, (HEALTH, METRICS), partial(read, latency_unit_s=latency_unit_s))


def read(answers: Answers, *, latency_unit_s: float) -> Verdict:
    """Judge by `/health`; take the figures from `/api/metrics`."""
    verdict = read_health(answers[HEALTH])
    if verdict.outcome is not Outcome.OK:
        return verdict
    try:
        metrics = decode(metrics_body(METRICS, answers[METRICS]))
        return healthy(_values(metrics, latency_unit_s))
    except PollError as error:
        return without_figures(error.outcome, error.detail)


def decode(body: bytes) -> _Metrics:
    """Decode a body of `/api/metrics`.

    Raises:
        PollError: BAD_BODY; it is not such an object.
    """
    metrics = decode_json(_decode, body, METRICS)
    if metrics.tokens_per_second is metrics.latency_p99 is metrics.error_count is None:
        missing = "none of tokens_per_second, latency_p99, error_count"
        raise PollError(Outcome.BAD_BODY, f"{METRICS}: the object has {missing}")
    return metrics


def _values(metrics: _Metrics, latency_unit_s: float) -> Values:
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
        _histogram(metrics.request_duration_seconds),
    )


def _errors(metrics: _Metrics) -> tuple[tuple[str, float], ...]:
    """Return counts by type; what only error_count has is `unspecified`.

    An empty `errors` tells that there were none, as after a restart; it is not telling nothing.
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


def _histogram(duration: _Duration | None) -> Histogram | None:
    """Return the histogram over our boundaries.

    Raises:
        PollError: BAD_BODY. A boundary of ours is missing: what lies between two boundaries cannot
            be told, and a guess would move the quantiles that alerts look at.
    """
    if duration is None:
        return None
    count_by_boundary_s = {_boundary(le): n for le, n in duration.buckets.items()}
    try:
        cumulative = tuple(count_by_boundary_s[le] for le in (*BOUNDARIES_S, float("inf")))
    except KeyError as error:
        detail = f"{METRICS}: request_duration_seconds lacks the boundary {error}"
        raise PollError(Outcome.BAD_BODY, detail) from error
    if any(lower > upper for lower, upper in pairwise(cumulative)):
        detail = f"{METRICS}: request_duration_seconds is not cumulative"
        raise PollError(Outcome.BAD_BODY, detail)
    return Histogram(cumulative, duration.sum)


def _boundary(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        what = "request_duration_seconds has a boundary that is no number"
        raise PollError(Outcome.BAD_BODY, f"{METRICS}: {what}: {clipped(text, 100)}") from error
