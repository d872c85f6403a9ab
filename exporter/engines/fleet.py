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
An invalid value is left out; the others are used.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    good_body,
    healthy,
    metrics_body,
    read_health,
    without_metrics,
)
from exporter.errors import PollError
from exporter.model import NO_VALUES, Histogram, Outcome, Values, Verdict

METRICS = "/api/metrics"

UNSPECIFIED = "unspecified"
MAX_ERROR_TYPES = 1000
"""Of one body, kept for a poll. Far fewer are counted apart (see `counters`)."""

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


ARTICLE_METRICS = ("tokens_per_second", "latency_p99", "error_count")

_decode = msgspec.json.Decoder(_Metrics).decode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_metric = {
    field.name: msgspec.json.Decoder(field.type).decode
    for field in msgspec.structs.fields(_Metrics)
}


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
    try:
        metrics = decode_json(_decode, body, METRICS)
        given = {name for name in ARTICLE_METRICS if getattr(metrics, name) is not None}
        faults: list[str] = []
    except PollError:  # then each value is decoded by itself
        raw_metrics = decode_json(_decode_raw, body, METRICS)
        given = raw_metrics.keys() & ARTICLE_METRICS
        metrics, faults = _decode_each(raw_metrics)
    if not given:
        missing = f"none of {', '.join(ARTICLE_METRICS)}"
        raise PollError(Outcome.BAD_BODY, f"{METRICS}: the object has {missing}")
    return metrics, faults


def _decode_each(raw_metrics: Mapping[str, msgspec.Raw]) -> tuple[_Metrics, list[str]]:
    """Return the valid values, and what is wrong with the others."""
    metrics = _Metrics()
    fault_by_name: dict[str, str] = {}
    for name in [name for name in _decode_metric if name in raw_metrics]:
        try:
            setattr(metrics, name, decode_json(_decode_metric[name], raw_metrics[name], name))
        except PollError as error:
            fault_by_name[name] = error.detail
    if not fault_by_name.keys().isdisjoint(("errors", "error_count")):
        # One without the other would move errors from one type to another.
        metrics.errors = metrics.error_count = None
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


def _histogram(duration: _Duration | None, faults: list[str]) -> Histogram | None:
    """Return the histogram over our boundaries; None, and a fault more, where it has none.

    What lies between two boundaries cannot be told, and a guess would move the quantiles that
    alerts look at: so each of our boundaries must be there.
    """
    if duration is None:
        return None
    try:
        count_by_boundary_s = {float(le): n for le, n in duration.buckets.items()}
        cumulative = tuple(count_by_boundary_s[le] for le in (*BOUNDARIES_S, float("inf")))
    except KeyError as error:
        faults.append(f"request_duration_seconds lacks the boundary {error}")
    except ValueError as error:
        faults.append(f"request_duration_seconds has a boundary that is no number: {error}")
    else:
        if all(lower <= upper for lower, upper in pairwise(cumulative)):
            return Histogram(cumulative, duration.sum)
        faults.append("request_duration_seconds is not cumulative")
    return None


ENGINE = engine()
