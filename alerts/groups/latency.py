"""Rules on latency: do requests take longer than users can bear."""

from __future__ import annotations

from alerts.annotations import DURATION, highest
from alerts.model import Alert, Dashboard, Group, Recording, Severity
from alerts.names import (
    CANARIES_P99,
    LATENCY_P99,
    MODEL_REQUESTS_P99,
    REQUESTS_P99,
    REQUESTS_P99_LONG,
)
from alerts.promql import joined
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Series
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number

QUANTILE = 0.99
OUTLIERS = "0.999"
"""Quantile over instances: one in a thousand is above it."""
EVERY = 4
"""In evaluation intervals: long windows change slowly, and cost most."""
OF_MODELS = 'model!=""'


def group(settings: Settings) -> Group:
    """Return the rules on the latency of the fleet."""
    return Group(
        "ollama-fleet-latency",
        (*_latencies(settings), _latency_high(settings), _outliers(settings)),
    )


def low_traffic_group(settings: Settings) -> Group:
    """Return the rules on latency where requests are few: at night, or of a single model."""
    rate_s, long_s = settings.windows.rate, settings.windows.low_traffic
    requests = catalogue.FLEET_REQUEST_DURATION
    busy, quiet = (_p99(settings, requests, window_s, "model") for window_s in (rate_s, long_s))
    return Group(
        "ollama-fleet-low-traffic",
        (
            Recording(REQUESTS_P99_LONG, _p99(settings, requests, long_s)),
            Recording(MODEL_REQUESTS_P99, joined(busy, "or", quiet)),
            _latency_high_low_traffic(settings),
            _model_latency_high(settings),
        ),
        every=EVERY,
    )


def latency_limit(settings: Settings) -> str:
    """Return the p99 latency in seconds above which somebody is woken, as PromQL."""
    return number(settings.thresholds.request_latency_p99)


def _latencies(settings: Settings) -> tuple[Recording, ...]:
    windows = settings.windows
    requests = _p99(settings, catalogue.FLEET_REQUEST_DURATION, windows.rate)
    canaries = _p99(settings, catalogue.FLEET_CANARY_DURATION, windows.canary)
    return (
        Recording(REQUESTS_P99, requests),
        Recording(CANARIES_P99, canaries),
        Recording(LATENCY_P99, _latency_by_source(settings)),
    )


def _p99(settings: Settings, durations: Series, window_s: float, *labels: str) -> str:
    scope = settings.scope
    where = OF_MODELS if labels else ""
    rate = scope.over("rate", durations, window_s, suffix="_bucket", where=where)
    buckets = scope.fleet_sum(durations, *labels, "le", inner=rate, suffix="_bucket")
    gained = scope.over("increase", durations, window_s, suffix="_count", where=where)
    count = scope.fleet_sum(durations, *labels, inner=gained, suffix="_count")
    return joined(
        f"histogram_quantile({QUANTILE}, {buckets})",
        f"and {scope.on(*labels)}",
        f"{count} >= {settings.thresholds.min_requests}",
    )


def _latency_by_source(settings: Settings) -> str:
    """Prefer requests to canaries, and leave what instances report beside them.

    Instances report a histogram or their own p99, never both: one that has a histogram says
    nothing of the others. Of several shards' own p99 the highest counts.
    """
    scope = settings.scope
    reported = f"max {scope.by()} ({scope.last(catalogue.FLEET_REQUEST_LATENCY_P99)})"
    return joined(
        _of_source("requests", REQUESTS_P99),
        f"or {scope.on()}",
        _of_source("canaries", CANARIES_P99),
        "or",
        _of_source("instances", reported),
    )


def _of_source(name: str, latency: str) -> str:
    return f'label_replace({latency}, "source", "{name}", "", "")'


def _latency_high(settings: Settings) -> Alert:
    return Alert(
        name="OllamaFleetLatencyP99High",
        settings=(
            "thresholds.request_latency_p99",
            "thresholds.min_requests",
            "windows.rate",
            "windows.canary",
        ),
        expr=f"{LATENCY_P99} > {latency_limit(settings)}",
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL,
        summary="Request latency p99 is too high.",
        description="One request in a hundred takes longer than {{ $value | humanizeDuration }} "
        "(source: {{ $labels.source }}); the limit is "
        f"{duration_text(settings.thresholds.request_latency_p99)}.{_slow_models(settings)} A few "
        "overloaded instances are enough. First: look at the queues, then at the load balancing.",
    )


def _slow_models(settings: Settings) -> str:
    slow = f"{MODEL_REQUESTS_P99} > {latency_limit(settings)}"
    return highest(settings.scope, "Slowest models:", "model", slow, DURATION)


def _latency_high_low_traffic(settings: Settings) -> Alert:
    window = duration_text(settings.windows.low_traffic)
    limit = duration_text(settings.thresholds.request_latency_p99)
    known = f"({REQUESTS_P99} or {REQUESTS_P99_LONG})"
    return Alert(
        name="OllamaFleetLatencyHighLowTraffic",
        settings=(
            "thresholds.request_latency_p99",
            "thresholds.min_requests",
            "windows.rate",
            "windows.low_traffic",
        ),
        # While enough requests come, the page judges them; traffic about the minimum is judged by
        # either window in turn, and stays too slow by both.
        expr=f"{known} > {latency_limit(settings)}",
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Request latency p99 is too high, at low traffic.",
        description="One request in a hundred takes longer than {{ $value | humanizeDuration }}; "
        f"the limit is {limit}. Requests are few: this is the p99 of the last "
        f"{window}.{_slow_models(settings)}",
    )


def _model_latency_high(settings: Settings) -> Alert:
    limit = duration_text(settings.thresholds.request_latency_p99)
    return Alert(
        name="OllamaModelLatencyP99High",
        settings=(
            "thresholds.request_latency_p99",
            "thresholds.min_requests",
            "windows.rate",
            "windows.low_traffic",
        ),
        expr=f"{MODEL_REQUESTS_P99} > {latency_limit(settings)}",
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Request latency p99 of a model is too high.",
        description="One request in a hundred for {{ $labels.model }} takes longer than {{ $value "
        f"| humanizeDuration }}}}; the limit is {limit}.",
        dashboard=Dashboard.MODELS,
        dashboard_query="var-model={{ $labels.model | urlquery }}",
    )


def _outliers(settings: Settings) -> Alert:
    scope, limit = settings.scope, settings.thresholds.latency_outliers
    slowest = scope.last(
        catalogue.FLEET_INSTANCE_REQUEST_LATENCY_P99, where=f'quantile="{OUTLIERS}"'
    )
    shards = f"max {scope.by(*catalogue.SHARD)} ({slowest})"
    return Alert(
        name="OllamaFleetLatencyOutliers",
        settings=("thresholds.latency_outliers",),
        # Shards are random samples of the fleet: the mean of their quantiles stands for its own.
        expr=f"avg {scope.by()} ({shards}) > {number(limit)}",
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="A few instances are very slow.",
        description="One instance in a thousand reports a p99 latency above {{ $value | "
        f"humanizeDuration }}}}; the limit is {duration_text(limit)}. The fleet's p99 hides them; "
        "users whose requests they get do not.",
    )
