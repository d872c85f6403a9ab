"""Rules on the gateway: do requests reach the fleet, are they turned away, is its list current.

Without a gateway there is none of their series, and none of these alerts. Each gateway counts the
requests that pass it, so of several the sum counts.
"""

from __future__ import annotations

from alerts.annotations import PERCENT, count
from alerts.model import Alert, Dashboard, Group, Recording, Severity, linked
from alerts.names import FLEET_FULL, FLEET_FULL_RATIO, GATEWAY_REQUESTS
from alerts.promql import joined
from alerts.settings import Settings
from exporter import catalogue
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent

VANISHED_S = 3600.0
"""For how long a gateway is missed that is no longer a target of Prometheus."""
RATE_S = 300.0
IS_FULL = 'reason="fleet_full"'


def group(settings: Settings) -> Group:
    """Return the alerts on gateways, and what they rest on."""
    return Group(
        "ollama-fleet-gateway",
        linked(
            Dashboard.TRAFFIC,
            *_rates(settings),
            _all_down(settings),
            _down(settings),
            _fleet_full(settings),
            _rejections_high(settings),
            _list_refused(settings),
            _list_stale(settings),
            _ejected(settings),
        ),
    )


def _rates(settings: Settings) -> tuple[Recording, ...]:
    scope = settings.gateway_scope
    requests = scope.over("rate", catalogue.GATEWAY_REQUESTS, RATE_S)
    rejected = scope.over("rate", catalogue.GATEWAY_REJECTED, RATE_S, where=IS_FULL)
    return (
        Recording(GATEWAY_REQUESTS, f"sum {scope.by()} ({requests})"),
        Recording(FLEET_FULL, f"sum {scope.by()} ({rejected})"),
        Recording(
            FLEET_FULL_RATIO,
            joined(
                # Before the first request is answered there is no series of them.
                f"({FLEET_FULL} / ({FLEET_FULL} + {GATEWAY_REQUESTS} or {FLEET_FULL}))",
                f"and {FLEET_FULL} * {number(RATE_S)} >= {settings.thresholds.min_requests}",
            ),
        ),
    )


def _all_down(settings: Settings) -> Alert:
    scope, up = settings.gateway_scope, settings.gateway_scope.up
    window = duration_text(VANISHED_S)
    return Alert(
        name="OllamaGatewayAllDown",
        # No absent(): without a scrape job no gateway is expected.
        expr=joined(
            f"max {scope.by()} ({up}) == 0",
            "or",
            f"max {scope.by()} (max_over_time({up}[{window}])) unless {scope.on()} {up}",
        ),
        for_s=120,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="No gateway of the fleet can be scraped.",
        description=f"Prometheus reaches no gateway of the job {settings.prometheus.gateway_job}. "
        "Developers reach no instance through them. First: see whether nginx runs and answers "
        "on a gateway's machine.",
    )


def _down(settings: Settings) -> Alert:
    return Alert(
        name="OllamaGatewayDown",
        expr=f"{settings.gateway_scope.up} == 0",
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="A gateway cannot be scraped.",
        description="The gateway {{ $labels.instance }} cannot be scraped. While another one "
        "answers, requests reach the fleet through that.",
    )


def _shares(settings: Settings) -> str:
    """Return the part of a text that says how many requests were turned away."""
    scope = settings.scope
    rejected = f"{FLEET_FULL} * {number(RATE_S)}"
    return (
        "Requests rejected by the gateways in the last 5m because the fleet is full: "
        f"{{{{ $value | {PERCENT} }}}}{count(scope, rejected, before=', or ')}"
    )


def _fleet_full(settings: Settings) -> Alert:
    share = settings.thresholds.fleet_full
    return Alert(
        name="OllamaGatewayFleetFull",
        settings=("thresholds.fleet_full", "thresholds.min_requests"),
        expr=f"{FLEET_FULL_RATIO} > {number(share)}",
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL,
        summary="The gateway turns a large share of the requests away.",
        description=f"{_shares(settings)}; the limit is {percent(share)}. Developers get status "
        "429. First: see how many instances are healthy, and whether one developer sends most "
        "requests.",
    )


def _rejections_high(settings: Settings) -> Alert:
    share = settings.thresholds.rejections
    return Alert(
        name="OllamaGatewayRejectionsHigh",
        settings=("thresholds.rejections", "thresholds.min_requests"),
        expr=f"{FLEET_FULL_RATIO} > {number(share)}",
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="The fleet has too few instances for its requests.",
        description=f"{_shares(settings)}; the limit is {percent(share)}. Clients wait and try "
        "again. The fleet needs more instances, or developers need lower limits.",
    )


def _list_refused(settings: Settings) -> Alert:
    scope, window_s = settings.gateway_scope, settings.windows.rate
    refused = scope.over("increase", catalogue.GATEWAY_UPSTREAMS_REFUSED, window_s)
    return Alert(
        name="OllamaGatewayListRefused",
        settings=("windows.rate",),
        expr=f"{refused} > 0",
        for_s=300,
        keep_firing_for_s=600,
        severity=Severity.WARNING,
        summary="A gateway refuses its upstream list.",
        description="The gateway {{ $labels.instance }} has refused upstream lists within the last "
        f"{duration_text(window_s)}: empty, too large or not valid. It sends requests to the "
        "instances of the last good list.",
    )


def _list_stale(settings: Settings) -> Alert:
    scope, age_s = settings.gateway_scope, settings.thresholds.upstreams_age
    return Alert(
        name="OllamaGatewayListStale",
        settings=("thresholds.upstreams_age",),
        expr=f"{scope.last(catalogue.GATEWAY_UPSTREAMS_AGE)} > {number(age_s)}",
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="The upstream list of a gateway is old.",
        description="The gateway {{ $labels.instance }} last read its upstream list {{ $value | "
        f"humanizeDuration }}}} ago, limit {duration_text(age_s)}. It learns of instances that "
        "fail from its own requests only, and of new ones not at all.",
    )


def _ejected(settings: Settings) -> Alert:
    scope, share = settings.gateway_scope, settings.thresholds.ejected_upstreams
    ejected = scope.last(catalogue.GATEWAY_UPSTREAMS_EJECTED)
    listed = scope.last(catalogue.GATEWAY_UPSTREAMS)
    return Alert(
        name="OllamaGatewayUpstreamsEjected",
        settings=("thresholds.ejected_upstreams", "thresholds.min_missing"),
        expr=joined(
            f"{ejected} / {listed} > {number(share)}",
            f"and {scope.on_exporter} {ejected} >= {settings.thresholds.min_missing}",
        ),
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="A gateway sends no requests to many listed instances.",
        description=f"The gateway {{{{ $labels.instance }}}} has ejected {{{{ $value | {PERCENT} "
        f"}}}} of the instances in its list, limit {percent(share)}: they pass health checks and "
        "fail requests, or it cannot reach them.",
    )
