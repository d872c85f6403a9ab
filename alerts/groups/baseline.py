"""Rules that compare traffic and latency with the same hour of the last weeks."""

from __future__ import annotations

from alerts.model import Alert, Group, Recording, Severity
from alerts.names import (
    AVAILABLE_RATIO,
    GENERATED,
    LATENCY_BASELINE,
    LATENCY_HOUR,
    LATENCY_P99,
    LATENCY_WEEKS,
    REQUESTS,
    TRAFFIC,
    TRAFFIC_BASELINE,
    TRAFFIC_HOUR,
    TRAFFIC_RATIO,
    TRAFFIC_WEEKS,
)
from alerts.promql import joined
from alerts.settings import Settings
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent

WEEK_S = 604_800
WEEKS = (1, 2, 3, 4)
LEAST_WEEKS = 2
"""As many as Prometheus keeps by default; of a single one nobody knows whether it was normal."""
AROUND_S = 5400
"""What ends this long after the same time: the last hour of three around it."""
EVERY = 4
"""In evaluation intervals: an hour's mean changes slowly."""
BUSY = 0.5
"""An hour is normally busy from this share of the last week's mean traffic on."""
NORMAL = 0.8
"""From this share of the baseline on, traffic was normal for the day: it is no holiday."""
NORMAL_WITHIN = "6h"
SERVING = 0.5
"""Below this share of available instances traffic is lost because they are."""
WAS_NORMAL = f"(max_over_time({TRAFFIC_RATIO}[{NORMAL_WITHIN}]) >= {NORMAL})"
RATE_S = 300
TOKENS_PER_REQUEST = 100
"""For the least traffic that is judged, where only tokens are counted."""


def group(settings: Settings) -> Group:
    """Return the baselines of traffic and latency, and the alerts on what departs from them."""
    return Group(
        "ollama-fleet-weekly",
        (
            *_traffic(settings),
            *_latency(settings),
            _traffic_lost(settings),
            _latency_rising(settings),
        ),
        every=EVERY,
    )


def _traffic(settings: Settings) -> tuple[Recording, ...]:
    return (
        Recording(TRAFFIC, REQUESTS, {"source": "requests"}),
        Recording(TRAFFIC, GENERATED, {"source": "tokens"}),
        Recording(TRAFFIC_HOUR, f"avg_over_time({TRAFFIC}[1h])"),
        *(_lowest_hour_around(weeks) for weeks in WEEKS),
        Recording(TRAFFIC_BASELINE, _median(settings, TRAFFIC_WEEKS)),
        Recording(TRAFFIC_RATIO, _busy_ratio(settings)),
    )


def _lowest_hour_around(weeks: int) -> Recording:
    """Return the lowest of three hours, for a day that begins or ends an hour earlier or later."""
    offset = duration_text(weeks * WEEK_S - AROUND_S)
    expr = f"min_over_time({TRAFFIC_HOUR}[2h] offset {offset})"
    return Recording(TRAFFIC_WEEKS, expr, {"weeks": str(weeks)})


def _median(settings: Settings, weeks: str) -> str:
    scope = settings.scope
    by = scope.by("source")
    return joined(
        f"quantile {by} (0.5, {weeks})",
        f"and count {by} ({weeks}) >= {LEAST_WEEKS}",
    )


def _busy_ratio(settings: Settings) -> str:
    least = settings.thresholds.min_requests
    return joined(
        f"{TRAFFIC} / {TRAFFIC_BASELINE}",
        f"and {TRAFFIC_BASELINE} >= {number(BUSY)} * avg_over_time({TRAFFIC_HOUR}[1w])",
        "and (",
        f'  {TRAFFIC_BASELINE}{{source="requests"}} * {RATE_S} >= {least}',
        "  or",
        f'  {TRAFFIC_BASELINE}{{source="tokens"}} * {RATE_S} >= {least * TOKENS_PER_REQUEST}',
        ")",
    )


def _latency(settings: Settings) -> tuple[Recording, ...]:
    return (
        Recording(LATENCY_HOUR, f"avg_over_time({LATENCY_P99}[1h])"),
        *(
            Recording(LATENCY_WEEKS, f"{LATENCY_HOUR} offset {weeks}w", {"weeks": str(weeks)})
            for weeks in WEEKS
        ),
        Recording(LATENCY_BASELINE, _median(settings, LATENCY_WEEKS)),
    )


def _traffic_lost(settings: Settings) -> Alert:
    scope, share = settings.scope, settings.thresholds.traffic_lost
    highest = f"max {scope.by()}"
    return Alert(
        name="OllamaFleetTrafficLost",
        settings=("thresholds.traffic_lost", "thresholds.min_requests", "windows.rate"),
        expr=joined(
            # Where both are counted, both must be lost: either may be of a few servers only.
            f"{highest} ({TRAFFIC_RATIO}) < {number(round(1 - share, 12))}",
            # On a holiday traffic is low from the morning on, and was normal at no busy time.
            f"and {highest} (max_over_time({TRAFFIC_RATIO}[{NORMAL_WITHIN}])) >= {number(NORMAL)}",
            # Instances that are gone answer no requests: that is another page.
            f"unless {scope.on()} {AVAILABLE_RATIO} < {number(SERVING)}",
        ),
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL,
        summary="The fleet has lost its traffic.",
        description="Traffic is {{ $value | humanizePercentage }} of that in the same hour of the "
        f"last weeks; it was normal within {NORMAL_WITHIN}. Requests no longer reach the fleet. "
        "First: check the gateway, the load balancer and DNS.",
    )


def _latency_rising(settings: Settings) -> Alert:
    rise = settings.thresholds.latency_rise
    return Alert(
        name="OllamaFleetLatencyRising",
        settings=(
            "thresholds.latency_rise",
            "thresholds.min_requests",
            "windows.rate",
            "windows.canary",
        ),
        expr=f"{LATENCY_HOUR} > {number(1 + rise)} * {LATENCY_BASELINE}",
        for_s=3600,
        keep_firing_for_s=3600,
        severity=Severity.WARNING,
        summary="Request latency p99 rises from week to week.",
        description="The p99 of the last hour is {{ $value | humanizeDuration }} (source: "
        f"{{{{ $labels.source }}}}), more than {percent(rise)} above the same hour of the last "
        "weeks.",
    )
