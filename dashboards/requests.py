"""Requests on the overview: real ones beside canaries, by latency, errors and queues."""

from __future__ import annotations

from alerts import names
from dashboards.choices import CANARY
from dashboards.kit import colours, fields
from dashboards.kit.board import Section, row, section
from dashboards.kit.panels import Panel, PanelText, Query, chart, heat_map
from dashboards.queries import fleet
from dashboards.queries.selectors import Selectors
from exporter import catalogue

NO_LATENCY = f"Too few requests, or servers that do not report them, as stock Ollama: {CANARY}."
NO_REQUESTS = "Too few requests, or no instance counts them; stock Ollama does not."
NO_QUEUE = "No instance reports queued requests; of stock Ollama, see the queue time of canaries."


def charts(select: Selectors) -> Section:
    """Return the charts of latency, errors and queues."""
    return section(
        "Requests",
        row(8, _latency(select), _durations(select)),
        row(8, _first_token(select), _queue_time(select), _canaries(select)),
        row(8, _failed_ratio(select), _errors(select), _waiting_line(select)),
        row(8, _traffic(select), _usual_latency(select)),
    )


def _latency(select: Selectors) -> Panel:
    text = PanelText(
        title="Latency, p99",
        description="The p99 of real requests and of canaries, the limit, and the spread of the "
        "instances' own p99. A wide band: a few instances are overloaded. Slow canaries "
        "as well: the servers are slow, not the requests long. The true p99 of requests is "
        "within the grey bounds, those of the servers' buckets. Series: "
        "fleet:ollama_request_duration_seconds:p99, fleet:ollama_canary_duration_seconds:p99, "
        "ollama_fleet_request_latency_p99_bound_seconds and the spread over instances.",
        no_data=NO_LATENCY,
        unit="s",
    )
    spread = {"0.99": "p99 of instances", "0.9": "p90 of instances", "0.5": "p50 of instances"}
    p99, p90, p50 = spread.values()
    return chart(
        text,
        Query(fleet.requests_p99(select), "requests"),
        Query(fleet.canary_p99(select), "canaries"),
        Query(fleet.latency_limit(select), "limit"),
        *(Query(fleet.latency_spread(select, quantile), name) for quantile, name in spread.items()),
        Query(fleet.p99_bound(select, "upper"), "requests, at most"),
        Query(fleet.p99_bound(select, "lower"), "requests, above"),
        overrides=[
            _thick("requests", colours.GOOD),
            _thick("canaries", colours.CANARY),
            fields.limit_line("limit"),
            fields.band(p99, p90, colours.PLAIN),
            fields.band(p90, p50, colours.PLAIN),
            fields.coloured(p50, colours.PLAIN),
            fields.band("requests, at most", "requests, above", colours.NEUTRAL),
            fields.coloured("requests, above", colours.NEUTRAL),
        ],
    )


def _thick(name: str, colour: str) -> fields.Json:
    return fields.override(name, {"color": fields.fixed(colour), "custom.lineWidth": 2})


def _durations(select: Selectors) -> Panel:
    text = PanelText(
        title="Request durations",
        description="Requests per second by duration. Two bands: two kinds of requests or "
        "instances. A rising band: overload. Series: ollama_fleet_request_duration_seconds.",
        no_data="No instance reports a histogram of request durations; stock Ollama does not.",
        unit="s",
    )
    return heat_map(text, Query(fleet.durations(select), "{{le}}")).optional()


def _requests_and_canaries(text: PanelText, requests: str, canaries: str) -> Panel:
    """Return what servers report of real requests, beside what canaries found."""
    return chart(
        text,
        Query(requests, "requests"),
        Query(canaries, "canaries"),
        overrides=[
            _thick("requests", colours.GOOD),
            _thick("canaries", colours.CANARY),
        ],
    ).optional()


def _first_token(select: Selectors) -> Panel:
    text = PanelText(
        title="Time to first token, p99",
        description="What a user waits until an answer begins. Canaries high as well: the queue or "
        "the GPU. Requests alone: long prompts. Series: ollama_fleet_time_to_first_token_seconds, "
        "ollama_fleet_canary_time_to_first_token_seconds.",
        no_data=f"No instance reports it, as stock Ollama: {CANARY}.",
        unit="s",
    )
    return _requests_and_canaries(
        text,
        fleet.reported_p99(select, catalogue.FLEET_TIME_TO_FIRST_TOKEN),
        fleet.canaries_p99(select, catalogue.FLEET_CANARY_TIME_TO_FIRST_TOKEN),
    )


def _queue_time(select: Selectors) -> Panel:
    text = PanelText(
        title="Queue time, p99",
        description="Time that requests wait inside of a server. It climbs: add instances. Series: "
        "ollama_fleet_queue_time_seconds, ollama_fleet_canary_waiting_seconds.",
        no_data=f"No instance reports it, as stock Ollama: {CANARY}.",
        unit="s",
    )
    return _requests_and_canaries(
        text,
        fleet.reported_p99(select, catalogue.FLEET_QUEUE_TIME),
        fleet.canaries_p99(select, catalogue.FLEET_CANARY_WAITING),
    )


def _canaries(select: Selectors) -> Panel:
    text = PanelText(
        title="Canaries by outcome",
        description="Canaries of the last 15 minutes. stalled: runners are frozen or far too slow, "
        "though health checks are good. Series: ollama_fleet_canary_results_total.",
        no_data=f"No canaries are sent: {CANARY}.",
        unit="none",
    )
    results = Query(fleet.canary_results(select), "{{outcome}}")
    return chart(text, results, overrides=fields.by_outcome(), is_stacked=True).optional()


def _traffic(select: Selectors) -> Panel:
    text = PanelText(
        title="Traffic against the last weeks",
        description="Requests or tokens of the last hour, as a share of those in the same hour of "
        "the last weeks. Far below 100 % by day: OllamaFleetTrafficLost. Series: "
        "fleet:ollama_traffic:rate1h, fleet:ollama_traffic:baseline.",
        no_data="No instance counts requests or tokens, as stock Ollama, or there are no two weeks "
        "yet to compare with.",
        unit="percentunit",
    )
    return chart(text, Query(fleet.usual_traffic(select), "{{source}}")).optional()


def _usual_latency(select: Selectors) -> Panel:
    text = PanelText(
        title="p99 against the last weeks",
        description="The mean p99 of the last hour, as a share of the same hour in the last "
        "weeks. It climbs from day to day: OllamaFleetLatencyRising. Series: "
        "fleet:ollama_request_latency_seconds:p99_avg1h, "
        "fleet:ollama_request_latency_seconds:baseline.",
        no_data=f"{NO_LATENCY} Or there are no two weeks yet to compare with.",
        unit="percentunit",
    )
    return chart(text, Query(fleet.usual_latency(select), "{{source}}")).optional()


def _failed_ratio(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed requests, share",
        description="Share of requests that fail in the worst cluster, and what the objective "
        "allows in the long run. The error budget covers short peaks above the line. Series: "
        f"{names.REQUEST_ERROR_RATIO}.",
        no_data=NO_REQUESTS,
        unit="percentunit",
    )
    return chart(
        text,
        Query(fleet.failed_ratio(select), "failed"),
        Query(fleet.failed_budget(select), "objective"),
        overrides=[fields.coloured("failed", colours.BAD), fields.limit_line("objective")],
    ).optional()


def _errors(select: Selectors) -> Panel:
    text = PanelText(
        title="Errors by type",
        description="Failed requests per second by type. Out of memory: too many concurrent "
        "requests per instance. Series: ollama_fleet_errors_total.",
        no_data="No instance counts its errors; stock Ollama does not.",
        unit="reqps",
    )
    return chart(
        text, Query(fleet.errors_by_type(select), "{{error_type}}"), is_stacked=True
    ).optional()


def _waiting_line(select: Selectors) -> Panel:
    text = PanelText(
        title="Queued requests over time",
        description="Requests queued in instances, and the limit. A line that only climbs: add "
        "instances. Series: fleet:ollama_requests_queued:sum.",
        no_data=NO_QUEUE,
        unit="none",
    )
    return chart(
        text,
        Query(fleet.waiting_total(select), "queued"),
        Query(fleet.waiting_limit(select), "limit"),
        overrides=[fields.coloured("queued", colours.PLAIN), fields.limit_line("limit")],
    ).optional()
