"""Traffic: what passes the gateways, how long it takes, and what they turn away."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import Uid
from dashboards.kit import colours, controls, fields
from dashboards.kit.board import Board, Section, row, section
from dashboards.kit.panels import Column, Panel, PanelText, Query, chart, stat, table
from dashboards.queries import gateway
from dashboards.queries.selectors import Selectors
from dashboards.settings import DashboardSettings
from exporter import catalogue
from exporter.catalogue import Series

NO_GATEWAY = "Prometheus scrapes no gateway: see docs/how-to/gateway-metrics.md."
NO_REQUESTS = "No request has passed a gateway in this time, or Prometheus scrapes none."
NO_DEVELOPERS = "No request came with an API key in this time, or Prometheus scrapes no gateway."
GATEWAY = "{{instance}}"


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard for whoever answers for the service to developers."""
    select = Selectors.of(settings)
    return Board(
        uid=Uid.TRAFFIC,
        title="Traffic",
        description="What passes the gateways: requests, their durations, tokens and rejections.",
        scrape_interval=settings.scrape_interval,
        variables=(
            *choices.common(settings, select),
            choices.model(select),
            controls.limit(10, 20, 50, default=10),
        ),
        annotations=choices.event_annotations(select),
        sections=(
            section("", row(6, _now(select))),
            section("Requests", row(8, _by_model(select), _by_code(select))),
            _durations(select),
            _turned_away(select),
            section("Tokens", row(8, _generated(select), _prompt(select))),
            section(
                "Nodes and developers",
                row(10, (14, _slowest_nodes(select)), (10, _developers(select))),
            ),
            _gateways(select),
        ),
    )


def _now(select: Selectors) -> Panel:
    text = PanelText(
        title="Now",
        description="Requests that instances took, those under way, tokens that come out, the p99 "
        "of durations, the share that is rejected because the fleet is full, and the age of the "
        "oldest upstream list. Series: ollama_gateway_requests_total, "
        "ollama_gateway_requests_in_flight, ollama_gateway_generated_tokens_total, "
        "ollama_gateway_request_duration_seconds, ollama_gateway_upstreams_age_seconds, "
        "fleet:ollama_gateway_rejected_fleet_full_per_requests:ratio_rate5m.",
        no_data=NO_GATEWAY,
    )
    p99 = gateway.quantile(select, catalogue.GATEWAY_REQUEST_DURATION, "0.99")
    return stat(
        text,
        Query(gateway.total_rate(select, catalogue.GATEWAY_REQUESTS), "requests/s"),
        Query(gateway.total(select, catalogue.GATEWAY_REQUESTS_IN_FLIGHT), "in flight"),
        Query(gateway.total_rate(select, catalogue.GATEWAY_GENERATED_TOKENS), "tokens/s"),
        Query(p99, "p99"),
        Query(gateway.full_ratio(select), "fleet full"),
        Query(gateway.worst(select, catalogue.GATEWAY_UPSTREAMS_AGE), "list age"),
        overrides=[
            fields.override("p99", {"unit": "s"}),
            fields.override("fleet full", {"unit": "percentunit"}),
            fields.override("list age", {"unit": "s"}),
        ],
    ).optional()


def _by_model(select: Selectors) -> Panel:
    text = PanelText(
        title="Requests by model",
        description="Requests per second that instances took. other: models that no instance has. "
        "Series: ollama_gateway_requests_total.",
        no_data=NO_REQUESTS,
        unit="reqps",
    )
    requests = gateway.total_rate(select, catalogue.GATEWAY_REQUESTS, "model")
    return chart(text, Query(requests, "{{model}}"), is_stacked=True).optional()


def _by_code(select: Selectors) -> Panel:
    text = PanelText(
        title="Requests by status code",
        description="Requests per second by status code. 5xx: instances fail. 499: clients leave, "
        "which is no error; many of them: answers are too slow. Series: "
        "ollama_gateway_requests_total.",
        no_data=NO_REQUESTS,
        unit="reqps",
    )
    requests = gateway.total_rate(select, catalogue.GATEWAY_REQUESTS, "code")
    return chart(text, Query(requests, "{{code}}"), is_stacked=True).optional()


def _durations(select: Selectors) -> Section:
    """Return the charts of how long requests take."""
    return section(
        "Durations", row(8, _duration(select), _first_token(select), _queue_time(select))
    )


def _quantiles(select: Selectors, text: PanelText, series: Series) -> Panel:
    queries = [
        Query(gateway.quantile(select, series, q), f"p{float(q) * 100:.0f}")
        for q in reversed(gateway.QUANTILES)
    ]
    return chart(text, *queries).optional()


def _duration(select: Selectors) -> Panel:
    text = PanelText(
        title="Request duration",
        description="From the arrival of a request at the gateway to the last byte. p99 climbs and "
        "p50 does not: long answers, or a few slow nodes (table below). Both: overload. Series: "
        "ollama_gateway_request_duration_seconds.",
        no_data=NO_REQUESTS,
        unit="s",
    )
    return _quantiles(select, text, catalogue.GATEWAY_REQUEST_DURATION)


def _first_token(select: Selectors) -> Panel:
    text = PanelText(
        title="Time to first token",
        description="What a user waits until a streamed answer begins. High while the queue time "
        "is low: models are being loaded, or prompts are long. Series: "
        "ollama_gateway_time_to_first_token_seconds.",
        no_data=NO_REQUESTS,
        unit="s",
    )
    return _quantiles(select, text, catalogue.GATEWAY_TIME_TO_FIRST_TOKEN)


def _queue_time(select: Selectors) -> Panel:
    text = PanelText(
        title="Queue time",
        description="Time that requests wait in the gateway for a free instance. It climbs: add "
        "instances. Series: ollama_gateway_queue_time_seconds.",
        no_data=NO_REQUESTS,
        unit="s",
    )
    return _quantiles(select, text, catalogue.GATEWAY_QUEUE_TIME)


def _turned_away(select: Selectors) -> Section:
    """Return the charts of requests that are rejected, and of further tries."""
    return section(
        "Rejections and retries", row(8, _rejected(select), _full(select), _retries(select))
    )


def _rejected(select: Selectors) -> Panel:
    text = PanelText(
        title="Rejections by reason",
        description="Requests per second that no instance got. fleet_full: add instances. "
        "over_limit: a developer's limit works. unauthorised: a key is wrong or missing. Series: "
        "ollama_gateway_rejected_total.",
        no_data=NO_GATEWAY,
        unit="reqps",
    )
    rejected = gateway.total_rate(select, catalogue.GATEWAY_REJECTED, "reason")
    return chart(text, Query(rejected, "{{reason}}"), is_stacked=True).optional()


def _full(select: Selectors) -> Panel:
    text = PanelText(
        title="Rejected because the fleet is full",
        description="Share of the requests. OllamaGatewayFleetFull pages about it. Absent while "
        "few are rejected. Series: "
        "fleet:ollama_gateway_rejected_fleet_full_per_requests:ratio_rate5m.",
        no_data="No gateway rejects many requests for this reason.",
        unit="percentunit",
    )
    return chart(
        text,
        Query(gateway.full_ratio(select), "fleet full"),
        overrides=[fields.coloured("fleet full", colours.BAD)],
    ).optional()


def _retries(select: Selectors) -> Panel:
    text = PanelText(
        title="Retries by reason",
        description="Further tries per second, by what was wrong with the instance before. Many: "
        "the list is old, or a node fails. Series: ollama_gateway_retries_total.",
        no_data="No request at a gateway needed a second instance.",
        unit="reqps",
    )
    retries = gateway.total_rate(select, catalogue.GATEWAY_RETRIES, "reason")
    return chart(text, Query(retries, "{{reason}}"), is_stacked=True).optional()


def _generated(select: Selectors) -> Panel:
    text = PanelText(
        title="Tokens out",
        description="Generated tokens per second by model. Series: "
        "ollama_gateway_generated_tokens_total.",
        no_data=NO_REQUESTS,
    )
    tokens = gateway.total_rate(select, catalogue.GATEWAY_GENERATED_TOKENS, "model")
    return chart(text, Query(tokens, "{{model}}"), is_stacked=True).optional()


def _prompt(select: Selectors) -> Panel:
    text = PanelText(
        title="Tokens in",
        description="Prompt tokens per second by model. It grows faster than the requests: prompts "
        "get longer. Series: ollama_gateway_prompt_tokens_total.",
        no_data=NO_REQUESTS,
    )
    tokens = gateway.total_rate(select, catalogue.GATEWAY_PROMPT_TOKENS, "model")
    return chart(text, Query(tokens, "{{model}}"), is_stacked=True).optional()


def _slowest_nodes(select: Selectors) -> Panel:
    text = PanelText(
        title="Slowest nodes",
        description="Nodes with the highest p99 of request durations. One node alone: look at it. "
        "Series: ollama_gateway_request_duration_seconds, ollama_gateway_requests_total, "
        "ollama_gateway_generated_tokens_total.",
        no_data=NO_REQUESTS,
    )
    failed = gateway.of_slowest(select, catalogue.GATEWAY_REQUESTS, gateway.FAILED)
    return choices.rows_by_cluster(
        select,
        text,
        Column(name="p99", expr=gateway.slowest_nodes(select), unit="s"),
        Column(
            name="requests/s",
            expr=gateway.of_slowest(select, catalogue.GATEWAY_REQUESTS),
            unit="reqps",
        ),
        Column(name="5xx/s", expr=failed, unit="reqps"),
        Column(
            name="tokens/s",
            expr=gateway.of_slowest(select, catalogue.GATEWAY_GENERATED_TOKENS),
            unit="short",
        ),
        labels=("node",),
        links={"node": choices.node_links(select)},
        sort=[("p99", True)],
    ).optional()


def _developers(select: Selectors) -> Panel:
    text = PanelText(
        title="Top developers",
        description="Developers with the most tokens per second, prompts and answers. One far "
        "above the others while the fleet is full: lower their limit. Series: "
        "ollama_gateway_developer_tokens_total.",
        no_data=NO_DEVELOPERS,
    )
    return table(
        text,
        Column(name="tokens/s", expr=gateway.top_developers(select), unit="short"),
        labels=("developer",),
        sort=[("tokens/s", True)],
    ).optional()


def _gateways(select: Selectors) -> Section:
    """Return the charts of each gateway."""
    return section("Gateways", row(8, _in_flight(select), _listed(select), _list_age(select)))


def _in_flight(select: Selectors) -> Panel:
    text = PanelText(
        title="Requests in flight",
        description="Requests that each gateway has not answered yet. Series: "
        "ollama_gateway_requests_in_flight.",
        no_data=NO_GATEWAY,
        unit="none",
    )
    in_flight = gateway.each(select, catalogue.GATEWAY_REQUESTS_IN_FLIGHT)
    return chart(text, Query(in_flight, GATEWAY), is_stacked=True).optional()


def _listed(select: Selectors) -> Panel:
    text = PanelText(
        title="Ejected instances",
        description="Share of its list that each gateway sends no requests for a while, because "
        "they failed. Above zero for long: they pass health checks and fail requests. Series: "
        "ollama_gateway_upstreams_ejected, ollama_gateway_upstreams.",
        no_data=NO_GATEWAY,
        unit="percentunit",
    )
    return chart(text, Query(gateway.ejected_ratio(select), GATEWAY)).optional()


def _list_age(select: Selectors) -> Panel:
    text = PanelText(
        title="Age of the upstream list",
        description="Time since each gateway last read its list. Good: seconds. Climbing: the "
        "exporter does not answer the gateway. Series: ollama_gateway_upstreams_age_seconds.",
        no_data=NO_GATEWAY,
        unit="s",
    )
    age_s = gateway.each(select, catalogue.GATEWAY_UPSTREAMS_AGE)
    return chart(text, Query(age_s, GATEWAY)).optional()
