"""The overview: is the fleet healthy, and if not, where to look."""

from __future__ import annotations

from alerts import names
from dashboards import choices, requests
from dashboards.choices import CANARY, DISAGREEING, Uid
from dashboards.kit import colours, fields
from dashboards.kit.board import Board, Section, row, section
from dashboards.kit.panels import Column, Panel, PanelText, Query, chart, stat
from dashboards.queries import fleet, nodes
from dashboards.queries.limits import ThresholdStat
from dashboards.queries.selectors import Selectors
from dashboards.settings import DashboardSettings


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard that the pages of the on-call link to."""
    select = Selectors.of(settings)
    return Board(
        uid=Uid.OVERVIEW,
        title="Overview",
        description="Whether the fleet is healthy: instances, capacity, latency, errors, alerts.",
        scrape_interval=settings.scrape_interval,
        variables=choices.common(settings, select),
        annotations=choices.event_annotations(select),
        since="now-3h",
        sections=(
            _key_numbers(select),
            _instances_and_speed(select),
            requests.charts(select),
            _where(select),
            _what_changed(select),
        ),
    )


def _key_numbers(select: Selectors) -> Section:
    """Return the numbers at the top."""
    panels = (
        _healthy(select),
        _p99(select),
        _speed(select),
        _failed(select),
        _waiting(select),
        _alerts(select),
    )
    return section("", row(5, *panels))


def _threshold_stat(
    text: PanelText, value: ThresholdStat, good: str, bad: str, *further: Query, decimals: int = 0
) -> Panel:
    """Return a value that is green or red by the alerts' threshold, or grey without one."""
    unknown = f"{good}, no limit known"
    return stat(
        text,
        Query(value.good, good),
        Query(value.bad, bad),
        Query(value.unknown, unknown),
        *further,
        overrides=[
            fields.coloured(good, colours.GOOD),
            fields.coloured(bad, colours.BAD),
            fields.coloured(unknown, colours.NEUTRAL),
            *(fields.coloured(query.legend, colours.NEUTRAL) for query in further),
        ],
        decimals=decimals,
    )


def _healthy(select: Selectors) -> Panel:
    text = PanelText(
        title="Healthy instances",
        description="Instances that passed their last health check, and the floor. Green: every "
        "cluster with data has enough. Red: check status and nodes below. Series: "
        "fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    floor = Query(fleet.healthy_floor(select), "floor")
    return _threshold_stat(text, fleet.healthy(select), "healthy", "below the floor", floor)


def _p99(select: Selectors) -> Panel:
    text = PanelText(
        title="Request latency, p99",
        description="One request in a hundred takes longer; the slowest cluster is shown. Red: "
        "above the limit; check whether few or all instances are slow. Series: "
        "fleet:ollama_request_latency_seconds:p99, by source: requests, else canaries, else what "
        "instances report.",
        no_data=requests.NO_LATENCY,
        unit="s",
    )
    limit = Query(fleet.latency_limit(select), "limit")
    return _threshold_stat(
        text, fleet.latency(select), "p99", "p99 above the limit", limit, decimals=3
    )


def _speed(select: Selectors) -> Panel:
    text = PanelText(
        title="Generation capacity",
        description="Sum of the speed of each healthy instance, in tokens/s. Not current load. "
        "Red: instances are missing or hardware slowed down; check the nodes. Series: "
        "fleet:ollama_tokens_per_second:estimate.",
        no_data="The speed of fewer than half of the instances is known. Stock Ollama reports "
        f"none: {CANARY}.",
    )
    floor = Query(fleet.speed_floor(select), "floor")
    return _threshold_stat(
        text, fleet.speed(select), "tokens/s", "tokens/s below the floor", floor, decimals=1
    )


def _failed(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed requests",
        description="Share of requests that failed in the last five minutes. Red: more than the "
        "objective allows; the error budget alert decides whether it matters. The worst cluster is "
        f"shown. Series: {names.REQUEST_ERROR_RATIO}.",
        no_data=requests.NO_REQUESTS,
        unit="percentunit",
    )
    budget = Query(fleet.failed_budget(select), "objective")
    value = fleet.failed(select)
    return _threshold_stat(text, value, "failed", "failed, too many", budget, decimals=2).optional()


def _waiting(select: Selectors) -> Panel:
    text = PanelText(
        title="Queued requests",
        description="Requests queued in instances, and the limit. Red: users wait; add instances "
        "or reduce load. Series: fleet:ollama_requests_queued:sum.",
        no_data=requests.NO_QUEUE,
        unit="none",
    )
    limit = Query(fleet.waiting_limit(select), "limit")
    return _threshold_stat(
        text, fleet.waiting(select), "queued", "too many queued", limit
    ).optional()


def _alerts(select: Selectors) -> Panel:
    text = PanelText(
        title="Alerts firing",
        description="Alerts of ollama-fleet that fire now. The table below names them. Good: "
        "none. Series: ALERTS.",
        no_data="Prometheus does not evaluate the rules of ollama-fleet.",
        unit="none",
    )
    severities = ("critical", "warning")
    return stat(
        text,
        *(Query(fleet.alerts_firing(select, severity), severity) for severity in severities),
        overrides=[fields.turning(name, 1, colours.SEVERITIES[name]) for name in severities],
    )


def _instances_and_speed(select: Selectors) -> Section:
    """Return the charts of instances and of speed."""
    return section(
        "Instances and speed",
        row(8, _by_status(select), _failing(select)),
        row(8, _conditions(select), _speed_by_model(select), _asked(select)),
    )


def _by_status(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances by status",
        description="Stacked by status, and how many must be healthy. Good: nearly all healthy. "
        f"{DISAGREEING} Series: fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    return chart(
        text,
        Query(fleet.by_status(select), "{{status}}"),
        Query(fleet.healthy_floor(select), "floor"),
        overrides=[*fields.by_status(), fields.limit_line("floor")],
        is_stacked=True,
    )


def _failing(select: Selectors) -> Panel:
    text = PanelText(
        title="Failing instances",
        description="Instances that should serve and do not. The line is how many may fail before "
        "the floor is reached. A step: a node, a rack or a switch. A slope: a bad rollout. "
        f"{DISAGREEING} Series: fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    return chart(
        text,
        Query(fleet.failing_by_status(select), "{{status}}"),
        Query(fleet.may_fail(select), "may fail"),
        overrides=[*fields.by_status(), fields.limit_line("may fail")],
        is_stacked=True,
    )


def _conditions(select: Selectors) -> Panel:
    text = PanelText(
        title="Conditions of instances",
        description="Instances that have a condition. model_not_loaded, nothing_loaded: the first "
        "request waits for the load. model_not_installed: requests fail. on_cpu: many times "
        "slower. stalled, not_serving: the runner is frozen. flapping: up and down. kv_cache_full: "
        "new requests wait. Good: none, or steady. Series: ollama_fleet_instance_conditions.",
        no_data=NO_FLEET,
        unit="none",
    )
    return chart(text, Query(fleet.conditions(select), "{{condition}}"))


def _speed_by_model(select: Selectors) -> Panel:
    text = PanelText(
        title="Generation capacity by model",
        description="Tokens per second that healthy instances can generate, by model. A model "
        "that shrinks has lost instances or slowed down: see the models dashboard. Series: "
        "model:ollama_tokens_per_second:sum.",
        no_data=f"No instance reports its speed, as stock Ollama: {CANARY}.",
    )
    return chart(
        text,
        Query(fleet.speed_by_model(select), "{{model}}"),
        Query(fleet.speed_floor(select), "floor"),
        overrides=[fields.limit_line("floor")],
        is_stacked=True,
    )


def _asked(select: Selectors) -> Panel:
    text = PanelText(
        title="Tokens generated",
        description="Tokens per second that are generated: current load, not capacity. Near the "
        "capacity, the fleet is full. Series: fleet:ollama_generated_tokens:rate.",
        no_data="No instance counts its tokens; stock Ollama does not.",
    )
    return chart(text, Query(fleet.generated(select), "generated")).optional()


TOP_NODES = "10"


def _where(select: Selectors) -> Section:
    """Return the tables that name what is wrong."""
    return section("Where", row(9, (13, _firing(select)), (11, _worst_nodes(select))))


def _firing(select: Selectors) -> Panel:
    text = PanelText(
        title="Firing alerts",
        description=f"Critical first; the longest active of each severity, {fleet.MAX_ALERTS} at "
        "most. Each has a runbook of the same name. Series: ALERTS, ALERTS_FOR_STATE.",
        no_data="No alert fires.",
    )
    severity = {name: (name, colour) for name, colour in colours.SEVERITIES.items()}
    panel = choices.rows_by_cluster(
        select,
        text,
        Column(name="active since", expr=fleet.alerts_since(select), unit="dateTimeFromNow"),
        labels=("severity", "alertname", "node", "model", "instance"),
        links={
            "node": choices.node_links(select),
            "model": choices.model_links(select),
            "instance": choices.pipeline_links(select),
        },
        further=[fields.override("severity", fields.coloured_cell(severity))],
        sort=[("severity", False), ("active since", False)],
    )
    return panel.optional()


def _worst_nodes(select: Selectors) -> Panel:
    text = PanelText(
        title="Nodes with most errors",
        description="Failed requests per second, and the node's share of the fleet's. One node "
        "with a large share is broken; many small shares are not the cause. Series: "
        "node:ollama_errors:rate5m.",
        no_data="No node has failed requests; stock Ollama counts none.",
    )
    panel = choices.rows_by_cluster(
        select,
        text,
        Column(name="errors/s", expr=nodes.errors_most(select, TOP_NODES), unit="reqps"),
        Column(name="share", expr=nodes.errors_share(select, TOP_NODES), unit="percentunit"),
        labels=("node",),
        links={"node": choices.node_links(select)},
        sort=[("errors/s", True)],
    )
    return panel.optional()


def _what_changed(select: Selectors) -> Section:
    """Return what may explain a bend in a line."""
    return section(
        "What changed",
        row(
            7,
            (6, _started(select)),
            (6, _on_purpose(select)),
            (7, _versions(select)),
            (5, _rotation(select)),
        ),
    )


def _started(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances started",
        description="Instances that started within the last five minutes, and restarts that "
        "exporters saw. Low and even: rotation. A peak: a rollout, or a crash of many. Stock "
        "Ollama shows a start only where the inventory has `started`, and a restart only by a new "
        "version. Series: node:ollama_instances_started:count, ollama_fleet_restarts_total.",
        no_data=NO_FLEET,
        unit="none",
    )
    return chart(
        text,
        Query(fleet.started(select), "started"),
        Query(fleet.restarts(select), "restarts seen"),
        overrides=[
            fields.coloured("started", colours.PLAIN),
            fields.coloured("restarts seen", colours.WARNING),
        ],
        is_bars=True,
    )


def _on_purpose(select: Selectors) -> Panel:
    text = PanelText(
        title="Starting, draining and away",
        description="Instances that nobody misses: new ones that start, provisioned ones, drained "
        "ones, and transient ones that are away. Provisioning that does not end: the provisioner "
        "is stuck. Series: fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    statuses = ("starting", "provisioning", "draining", "away")
    return chart(
        text,
        *(Query(fleet.instances(select, status), status) for status in statuses),
        overrides=[fields.coloured(status, colours.STATUSES[status]) for status in statuses],
    )


def _versions(select: Selectors) -> Panel:
    text = PanelText(
        title="Engines and versions",
        description="Instances by engine and version. Good: one version, or one that takes over "
        "from another. Series: engine_version:ollama_instances:count.",
        no_data="No instance reports its version.",
        unit="none",
    )
    versions = Query(fleet.versions(select), "{{engine}} {{version}}")
    return chart(text, versions, is_stacked=True).optional()


def _rotation(select: Selectors) -> Panel:
    text = PanelText(
        title="Overdue for rotation",
        description="Instances overdue for rotation, and those old enough to leak memory. Good: "
        "none. Series: fleet:ollama_instances_overdue:count and …_old:count.",
        no_data=NO_FLEET,
        unit="none",
    )
    return stat(
        text,
        Query(fleet.overdue(select), "overdue"),
        Query(fleet.old(select), "far too old"),
        overrides=[
            fields.turning("overdue", 1, colours.WARNING),
            fields.turning("far too old", 1, colours.BAD),
        ],
    )


NO_FLEET = "No fleet metrics: check the exporter dashboard."
