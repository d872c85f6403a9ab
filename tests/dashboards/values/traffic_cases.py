"""What the queries on the gateways make of given series."""

from __future__ import annotations

from dashboards.queries import gateway
from exporter import catalogue
from tests.dashboards.values.case import ASK, NOTHING, Case, Series

A, B = (f'cluster="x",job="g",instance="{name}"' for name in ("a", "b"))
"""Two gateways of one fleet."""


def of(name: str, a: float | str, b: float | str, labels: str = "") -> Series:
    """Return a series of both gateways."""
    more = f",{labels}" if labels else ""
    return {f"ollama_gateway_{name}{{{one}{more}}}": value for one, value in ((A, a), (B, b))}


def requests(a: float | str, b: float | str, model: str, node: str, code: str) -> Series:
    return of("requests_total", a, b, f'model="{model}",node="{node}",code="{code}"')


REQUESTS = {
    **requests("0+15x240", "0+30x240", "m", "n1", "200"),
    **requests("0+15x240", "0+0x240", "other", "n2", "500"),
}
DURATIONS = {
    **of("request_duration_seconds_bucket", "0+150x240", "0+0x240", 'model="m",node="n1",le="0.1"'),
    **of("request_duration_seconds_bucket", "0+150x240", "0+150x240",
         'model="m",node="n1",le="0.2"'),
    **of("request_duration_seconds_bucket", "0+150x240", "0+150x240",
         'model="m",node="n1",le="+Inf"'),
    **of("request_duration_seconds_bucket", "0+0x240", "0+0x240", 'model="m",node="n2",le="0.1"'),
    **of("request_duration_seconds_bucket", "0+15x240", "0+0x240", 'model="m",node="n2",le="0.2"'),
    **of("request_duration_seconds_bucket", "0+15x240", "0+0x240",
         'model="m",node="n2",le="+Inf"'),
}  # fmt: skip
UPSTREAMS = {**of("upstreams", 100, 200), **of("upstreams_ejected", 10, 0)}
DEVELOPERS = {
    **of("developer_tokens_total", "0+15x240", "0+15x240", 'developer="ann"'),
    **of("developer_tokens_total", "0+150x240", "0+0x240", 'developer="bob"'),
    **of("developer_tokens_total", "0+1.5x240", "0+0x240", 'developer="cem"'),
    **of("developer_tokens_total", "5x240", "0x240", 'developer="idle"'),
}
RATIO = "fleet:ollama_gateway_rejected_fleet_full_per_requests:ratio_rate5m"

CASES = (
    Case("requests of all gateways", gateway.total_rate(ASK, catalogue.GATEWAY_REQUESTS),
         REQUESTS, 4),
    Case("requests by model", gateway.total_rate(ASK, catalogue.GATEWAY_REQUESTS, "model"),
         REQUESTS, {'{model="m"}': 3, '{model="other"}': 1}),
    Case("requests of a chosen model by code",
         gateway.total_rate(ASK, catalogue.GATEWAY_REQUESTS, "code"),
         REQUESTS, {'{code="200"}': 3}, {"model": "m"}),
    Case("rejections have no model to choose by",
         gateway.total_rate(ASK, catalogue.GATEWAY_REJECTED, "reason"),
         of("rejected_total", "0+15x240", "0+15x240", 'reason="fleet_full"'),
         {'{reason="fleet_full"}': 2}, {"model": "m"}),
    Case("the median of all gateways together",
         gateway.quantile(ASK, catalogue.GATEWAY_REQUEST_DURATION, "0.5"), DURATIONS, 0.1045),
    Case("the slowest nodes first, by their p99", gateway.slowest_nodes(ASK), DURATIONS,
         {'{cluster="x",node="n2"}': 0.199, '{cluster="x",node="n1"}': 0.198}),
    Case("failed requests of the slowest nodes",
         gateway.of_slowest(ASK, catalogue.GATEWAY_REQUESTS, gateway.FAILED),
         {**REQUESTS, **DURATIONS}, {'{cluster="x",node="n2"}': 1}),
    Case("requests under way", gateway.total(ASK, catalogue.GATEWAY_REQUESTS_IN_FLIGHT),
         of("requests_in_flight", 3, 4), 7),
    Case("the oldest list", gateway.worst(ASK, catalogue.GATEWAY_UPSTREAMS_AGE),
         of("upstreams_age_seconds", 1, 90), 90),
    Case("the share that each gateway has ejected", gateway.ejected_ratio(ASK), UPSTREAMS,
         {f"{{{A}}}": 0.1, f"{{{B}}}": 0}),
    Case("the developers with the most tokens, and no idle ones", gateway.top_developers(ASK),
         DEVELOPERS, {'{developer="bob"}': 10, '{developer="ann"}': 2}),
    Case("the share rejected, of the worst fleet", gateway.full_ratio(ASK),
         {f'{RATIO}{{cluster="x"}}': 0.3, f'{RATIO}{{cluster="y"}}': 0.1}, 0.3),
    Case("no share while few are rejected", gateway.full_ratio(ASK), {}, NOTHING),
)  # fmt: skip
