"""The overview: is the fleet well, and if not, where to look."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import Uid
from dashboards.kit import colours, fields, variables
from dashboards.kit.board import Board
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Column, Panel, Query, Words, chart, heat_map, stat, table
from dashboards.queries import fleet, nodes
from dashboards.queries.limits import Judged
from dashboards.queries.select import Ask
from dashboards.settings import DashboardSettings

TOP_NODES = "10"
NO_FLEET = "No figures of the fleet: look at the exporter dashboard."


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard that the pages of the on-call link to."""
    ask = Ask.of(settings)
    return Board(
        uid=Uid.OVERVIEW,
        title="Overview",
        description="Whether the fleet is well: instances, speed, latency, errors, alerts.",
        scrape_interval=settings.scrape_interval,
        variables=(variables.data_source(), choices.cluster(ask)),
        marks=choices.marks(ask),
        since="now-3h",
        sections=(_now(ask), _capacity(ask), _requests(ask), _where(ask), _changes(ask)),
    )


def _now(ask: Ask) -> Section:
    panels = (_healthy(ask), _p99(ask), _speed(ask), _failed(ask), _waiting(ask), _alerts(ask))
    return Section("", (row(5, *((4, panel) for panel in panels)),))


def _judged(
    words: Words, judged: Judged, good: str, bad: str, *further: Query, decimals: int = 0
) -> Panel:
    """Return a figure that is green or red, by what the alerts compare it with."""
    return stat(
        words,
        Query(judged.good, good),
        Query(judged.bad, bad),
        *further,
        overrides=[
            fields.coloured(good, colours.GOOD),
            fields.coloured(bad, colours.BAD),
            *(fields.coloured(query.legend, colours.NEUTRAL) for query in further),
        ],
        decimals=decimals,
    )


def _healthy(ask: Ask) -> Panel:
    words = Words(
        title="Healthy instances",
        description="Instances that answered their last health check, and how many must. "
        "Green: every cluster has enough. Red: look below for the status and the nodes. "
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
        overrides=[_red_above_zero(name, colours.SEVERITIES[name]) for name in severities],
    )


def _red_above_zero(name: str, colour: str) -> fields.Json:
    steps = fields.steps((1, colour))
    return fields.override(name, {"thresholds": {"mode": "absolute", "steps": steps}})


def _capacity(ask: Ask) -> Section:
    return Section(
        "Instances and speed",
        (
            row(8, (12, _by_status(ask)), (12, _failing(ask))),
            row(8, (12, _speed_by_model(ask)), (12, _asked(ask))),
        ),
    )


def _by_status(ask: Ask) -> Panel:
    words = Words(
        title="Instances by status",
        description="All instances of the inventory, stacked by status, and how many must be "
        "healthy. Good: nearly all healthy. Series: fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    return chart(
        words,
        Query(fleet.by_status(ask), "{{status}}"),
        Query(fleet.healthy_floor(ask), "floor"),
        overrides=[*fields.by_status(), fields.limit_line("floor")],
        is_stacked=True,
    )


def _failing(ask: Ask) -> Panel:
    words = Words(
        title="Instances that fail",
        description="Those that should serve and do not; the line is how many may fail before the "
        "floor is reached. A step is a node, a rack or a switch; a slope is a bad rollout. "
        "Series: fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    return chart(
        words,
        Query(fleet.failing_by_status(ask), "{{status}}"),
        Query(fleet.may_fail(ask), "may fail"),
        overrides=[*fields.by_status(), fields.limit_line("may fail")],
        is_stacked=True,
    )


def _speed_by_model(ask: Ask) -> Panel:
    words = Words(
        title="Token throughput by model",
        description="Tokens per second that healthy instances can generate, by model. A model that "
        "gets thinner has lost instances or slowed down: see the models dashboard. "
        "Series: model:ollama_tokens_per_second:sum.",
        no_data="No instance tells how fast it generates.",
        unit="short",
    )
    return chart(
        words,
        Query(fleet.speed_by_model(ask), "{{model}}"),
        Query(fleet.speed_floor(ask), "floor"),
        overrides=[fields.limit_line("floor")],
        is_stacked=True,
    )


def _asked(ask: Ask) -> Panel:
    words = Words(
        title="Tokens generated",
        description="Tokens per second that were really generated: what is asked of the fleet, not "
        "what it can do. Near the throughput, the fleet is full. "
        "Series: fleet:ollama_generated_tokens:rate.",
        no_data="No instance counts its tokens.",
        unit="short",
    )
    return chart(words, Query(fleet.generated(ask), "generated")).optional()


def _requests(ask: Ask) -> Section:
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


def _where(ask: Ask) -> Section:
    return Section("Where", (row(9, (13, _firing(ask)), (11, _worst_nodes(ask))),))


def _firing(ask: Ask) -> Panel:
    words = Words(
        title="Alerts that fire",
        description=f"The {fleet.MAX_ALERTS} that have been active longest. Each has a runbook of "
        "its name. Series: ALERTS, ALERTS_FOR_STATE.",
        no_data="No alert fires.",
    )
    severity = {name: (name, colour) for name, colour in colours.SEVERITIES.items()}
    panel = table(
        words,
        Column(name="active since", expr=fleet.alerts_since(ask), unit="dateTimeFromNow"),
        labels=("severity", "alertname", "node", "model", "instance"),
        links={
            "node": choices.node_links(),
            "model": choices.model_links(),
            "instance": choices.exporter_links(),
        },
        further=[fields.override("severity", fields.coloured_cell(severity))],
        sort=("active since", False),
    )
    return panel.optional()


def _worst_nodes(ask: Ask) -> Panel:
    words = Words(
        title="Nodes with most errors",
        description="Failed requests per second, and which share of the fleet's that is. One node "
        "with a large share is broken; many with small ones are not the cause. "
        "Series: node:ollama_errors:rate5m.",
        no_data="No node has failed requests.",
    )
    panel = table(
        words,
        Column(name="errors/s", expr=nodes.errors_most(ask, TOP_NODES), unit="reqps"),
        Column(name="share", expr=nodes.errors_share(ask, TOP_NODES), unit="percentunit"),
        labels=("node",),
        links={"node": choices.node_links()},
        sort=("errors/s", True),
    )
    return panel.optional()


def _changes(ask: Ask) -> Section:
    return Section(
        "What changed",
        (
            row(
                7,
                (6, _started(ask)),
                (6, _on_purpose(ask)),
                (7, _versions(ask)),
                (5, _rotation(ask)),
            ),
        ),
    )


def _started(ask: Ask) -> Panel:
    words = Words(
        title="Instances started",
        description="That started within the five minutes before. Even and low is rotation; a peak "
        "is a rollout, or a crash of many. Series: node:ollama_instances_started:count.",
        no_data="None started, or no instance tells when it did.",
        unit="none",
    )
    return chart(words, Query(fleet.started(ask), "started"), is_bars=True).optional()


def _on_purpose(ask: Ask) -> Panel:
    words = Words(
        title="Provisioning and draining",
        description="Instances that are missing on purpose. Provisioning that does not end: the "
        "provisioner is stuck. Series: fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    statuses = ("provisioning", "draining")
    return chart(
        words,
        *(Query(fleet.instances(ask, status), status) for status in statuses),
        overrides=[fields.coloured(status, colours.STATUSES[status]) for status in statuses],
    )


def _versions(ask: Ask) -> Panel:
    words = Words(
        title="Versions",
        description="Instances by engine and version. Good: one version, or one that takes over "
        "from another. Series: engine_version:ollama_instances:count.",
        no_data="No instance tells its version.",
        unit="none",
    )
    versions = Query(fleet.versions(ask), "{{engine}} {{version}}")
    return chart(words, versions, is_stacked=True).optional()


def _rotation(ask: Ask) -> Panel:
    words = Words(
        title="Overdue for rotation",
        description="Instances older than they should get, and those so old that they leak memory. "
        "Good: none. Series: fleet:ollama_instances_overdue:count and …_old:count.",
        no_data=NO_FLEET,
        unit="none",
    )
    return stat(
        words,
        Query(fleet.overdue(ask), "overdue"),
        Query(fleet.old(ask), "far too old"),
        overrides=[
            _red_above_zero("overdue", colours.WARNING),
            _red_above_zero("far too old", colours.BAD),
        ],
    )
