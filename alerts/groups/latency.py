"""Rules on latency: do requests take longer than users can bear."""

from __future__ import annotations

from alerts.model import Alert, Group, Recording, Severity
from alerts.names import CANARIES_P99, LATENCY_P99, REQUESTS_P99
from alerts.promql import indented, joined
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Series
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number

QUANTILE = 0.99
COUNTED_S = 3600.0
"""How long after its last request a histogram still stands for the instances' own p99."""


def group(settings: Settings) -> Group:
    """Return the rules on request latency."""
    return Group("ollama-fleet-latency", (*_latencies(settings), _latency_high(settings)))


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
        Recording(LATENCY_P99, _best_latency(settings)),
    )


def _p99(settings: Settings, durations: Series, window_s: float) -> str:
    scope = settings.scope
    rate = scope.over("rate", durations, window_s, suffix="_bucket")
    buckets = scope.fleet_sum(durations, "le", inner=rate, suffix="_bucket")
    return joined(
        f"histogram_quantile({QUANTILE}, {buckets})",
        f"and {scope.on()}",
        f"{_count(settings, durations, window_s)} >= {settings.thresholds.min_requests}",
    )


def _count(settings: Settings, durations: Series, window_s: float) -> str:
    scope = settings.scope
    gained = scope.over("increase", durations, window_s, suffix="_count")
    return scope.fleet_sum(durations, inner=gained, suffix="_count")


def _best_latency(settings: Settings) -> str:
    """Prefer real requests, then canaries, then what instances report.

    Of several shards' own p99 the highest counts: quantiles cannot be averaged. What instances
    report is not asked while their requests are counted: of few requests it says nothing.
    """
    scope = settings.scope
    reported = f"max {scope.by()} ({scope.last(catalogue.FLEET_REQUEST_LATENCY_P99)})"
    counted = _count(settings, catalogue.FLEET_REQUEST_DURATION, COUNTED_S)
    sources = {
        "requests": REQUESTS_P99,
        "canaries": CANARIES_P99,
        "instances": f"{reported} unless {scope.on()} {indented(counted)} > 0",
    }
    return f"\nor {scope.on()}\n".join(
        f'label_replace({latency}, "source", "{name}", "", "")' for name, latency in sources.items()
    )


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
        description=(
            "One request in a hundred takes longer than {{ $value | humanizeDuration }} (source: "
            "{{ $labels.source }}); the limit is "
            f"{duration_text(settings.thresholds.request_latency_p99)}. A few overloaded instances "
            "are enough: check the load balancing."
        ),
    )
