"""What users feel: how long requests take, fail and wait."""

from __future__ import annotations

from dashboards.kit import colours, fields
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Panel, Query, Words, chart, heat_map
from dashboards.queries import fleet
from dashboards.queries.select import Ask


def section(ask: Ask) -> Section:
    """Return the charts of latency, errors and queues."""
    return Section(
        "Requests",
        (
            row(8, (12, _latency(ask)), (12, _durations(ask))),
            row(8, (8, _failed_ratio(ask)), (8, _errors(ask)), (8, _waiting_line(ask))),
        ),
    )


def _latency(ask: Ask) -> Panel:
    words = Words(
        title="Latency, p99",
        description="The fleet's p99 against its limit, and between which the p99 of single "
        "instances lie. A wide band: a few instances are overloaded. All high: the fleet is. "
        "Series: fleet:ollama_request_latency_seconds:p99 and its spread over instances.",
        no_data="No instance tells of its latency, or there were too few requests.",
        unit="s",
    )
    spread = {"0.99": "p99 of instances", "0.9": "p90 of instances", "0.5": "p50 of instances"}
    p99, p90, p50 = spread.values()
    return chart(
        words,
        Query(fleet.latency_p99(ask), "fleet"),
        Query(fleet.latency_limit(ask), "limit"),
        *(Query(fleet.latency_spread(ask, quantile), name) for quantile, name in spread.items()),
        overrides=[
            fields.override("fleet", {"color": fields.fixed(colours.GOOD), "custom.lineWidth": 2}),
            fields.limit_line("limit"),
            fields.band(p99, p90, colours.PLAIN),
            fields.band(p90, p50, colours.PLAIN),
            fields.coloured(p50, colours.PLAIN),
        ],
    )


def _durations(ask: Ask) -> Panel:
    words = Words(
        title="Request durations",
        description="Requests per second by how long they took. Two bands mean two kinds of "
        "requests or of instances; a band that climbs is overload. "
        "Series: ollama_fleet_request_duration_seconds.",
        no_data="No instance gives a histogram of its requests.",
        unit="s",
    )
    return heat_map(words, Query(fleet.durations(ask), "{{le}}")).optional()


def _failed_ratio(ask: Ask) -> Panel:
    words = Words(
        title="Failed requests, share",
        description="Share of requests that fail, and what the objective allows in the long run. "
        "Short peaks above the line are what the error budget is for. "
        "Series: fleet:ollama_request_errors:rate5m, fleet:ollama_requests:rate5m.",
        no_data="No requests, or no instance counts them.",
        unit="percentunit",
    )
    return chart(
        words,
        Query(fleet.failed_ratio(ask), "failed"),
        Query(fleet.failed_budget(ask), "objective"),
        overrides=[fields.coloured("failed", colours.BAD), fields.limit_line("objective")],
    )


def _errors(ask: Ask) -> Panel:
    words = Words(
        title="Errors by type",
        description="Failed requests per second by type. Out of memory: too many requests at once "
        "per instance. Series: ollama_fleet_errors_total.",
        no_data="No instance counts its errors.",
        unit="reqps",
    )
    return chart(
        words, Query(fleet.errors_by_type(ask), "{{error_type}}"), is_stacked=True
    ).optional()


def _waiting_line(ask: Ask) -> Panel:
    words = Words(
        title="Waiting requests over time",
        description="Requests that wait inside of instances, and how many may. A line that only "
        "climbs needs more instances. Series: fleet:ollama_requests_queued:sum.",
        no_data="No instance tells how many requests wait.",
        unit="none",
    )
    return chart(
        words,
        Query(fleet.waiting_total(ask), "waiting"),
        Query(fleet.waiting_limit(ask), "limit"),
        overrides=[fields.coloured("waiting", colours.PLAIN), fields.limit_line("limit")],
    ).optional()
