"""The figures that say whether the fleet is well, green or red by what the alerts compare with."""

from __future__ import annotations

from dashboards.kit import colours, fields
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Panel, Query, Words, stat
from dashboards.overview.words import NO_FLEET
from dashboards.queries import fleet
from dashboards.queries.limits import Judged
from dashboards.queries.select import Ask


def section(ask: Ask) -> Section:
    """Return the figures at the top."""
    panels = (_healthy(ask), _p99(ask), _speed(ask), _failed(ask), _waiting(ask), _alerts(ask))
    return Section("", (row(5, *((4, panel) for panel in panels)),))


def _judged(
    words: Words, judged: Judged, good: str, bad: str, *further: Query, decimals: int = 0
) -> Panel:
    """Return a figure that is green or red, by what the alerts compare it with, or grey."""
    unjudged = f"{good}, no limit known"
    return stat(
        words,
        Query(judged.good, good),
        Query(judged.bad, bad),
        Query(judged.unjudged, unjudged),
        *further,
        overrides=[
            fields.coloured(good, colours.GOOD),
            fields.coloured(bad, colours.BAD),
            fields.coloured(unjudged, colours.NEUTRAL),
            *(fields.coloured(query.legend, colours.NEUTRAL) for query in further),
        ],
        decimals=decimals,
    )


def _healthy(ask: Ask) -> Panel:
    words = Words(
        title="Healthy instances",
        description="Instances that answered their last health check, and how many must. "
        "Green: every cluster that has figures has enough. Red: look below for the status and "
        "the nodes. "
        "Series: fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    floor = Query(fleet.healthy_floor(ask), "floor")
    return _judged(words, fleet.healthy(ask), "healthy", "below the floor", floor)


def _p99(ask: Ask) -> Panel:
    words = Words(
        title="Request latency, p99",
        description="One request in a hundred takes longer; of several clusters the slowest. "
        "Red: above the limit; look whether a few instances or all are slow. "
        "Series: fleet:ollama_request_latency_seconds:p99.",
        no_data="No instance tells of its latency, or there were too few requests.",
        unit="s",
    )
    limit = Query(fleet.latency_limit(ask), "limit")
    return _judged(words, fleet.latency(ask), "p99", "p99 above the limit", limit, decimals=3)


def _speed(ask: Ask) -> Panel:
    words = Words(
        title="Token throughput",
        description="Tokens per second that the healthy instances can generate, idle ones "
        "included: what the fleet can do. Red: instances are missing or hardware slowed down; "
        "look at the nodes. Series: fleet:ollama_tokens_per_second:estimate.",
        no_data="The speed of fewer than half of the instances is known.",
        unit="short",
    )
    floor = Query(fleet.speed_floor(ask), "floor")
    return _judged(
        words, fleet.speed(ask), "tokens/s", "tokens/s below the floor", floor, decimals=1
    )


def _failed(ask: Ask) -> Panel:
    words = Words(
        title="Failed requests",
        description="Share of requests that failed in the last five minutes. Red: more than the "
        "objective allows in the long run; the alert on the error budget decides whether that "
        "matters. Series: fleet:ollama_request_errors:rate5m, fleet:ollama_requests:rate5m.",
        no_data="No requests, or no instance counts them.",
        unit="percentunit",
    )
    budget = Query(fleet.failed_budget(ask), "objective")
    judged = fleet.failed(ask)
    return _judged(words, judged, "failed", "failed, too many", budget, decimals=2).optional()


def _waiting(ask: Ask) -> Panel:
    words = Words(
        title="Waiting requests",
        description="Requests that wait inside of instances, and how many may. Red: users wait; "
        "more instances or less load help. Series: fleet:ollama_requests_queued:sum.",
        no_data="No instance tells how many requests wait.",
        unit="none",
    )
    limit = Query(fleet.waiting_limit(ask), "limit")
    return _judged(words, fleet.waiting(ask), "waiting", "too many wait", limit).optional()


def _alerts(ask: Ask) -> Panel:
    words = Words(
        title="Alerts firing",
        description="Alerts of ollama-fleet that fire now; the table below names them. "
        "Good: none. Series: ALERTS.",
        no_data="Prometheus does not evaluate the rules of ollama-fleet.",
        unit="none",
    )
    severities = ("critical", "warning")
    return stat(
        words,
        *(Query(fleet.alerts_firing(ask, severity), severity) for severity in severities),
        overrides=[fields.turning(name, 1, colours.SEVERITIES[name]) for name in severities],
    )
