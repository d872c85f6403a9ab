"""Nodes: which are slower than their peers, which fail, and what runs on the chosen one."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import CANARY, DISAGREEING, Uid
from dashboards.kit import colours, controls, fields
from dashboards.kit.board import Board, row, section
from dashboards.kit.panels import Column, Panel, PanelText, Query, chart, stat
from dashboards.queries import nodes
from dashboards.queries.selectors import FAILING, Selectors
from dashboards.settings import DashboardSettings
from exporter import catalogue

SLOW = {"0": ("as its peers", colours.GOOD), "1": ("slow", colours.BAD)}
UP = {"0": ("down", colours.BAD), "1": ("up", colours.GOOD)}
NO_PEERS = (
    "No node can be compared: fewer than three have the same model, engine and hardware, or "
    f"servers report no speed, as stock Ollama: {CANARY}."
)
LIMITS = (10, 25, 50, 100)


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard that shows a batch of nodes that are 30 % slower than the others."""
    select = Selectors.of(settings)
    return Board(
        uid=Uid.NODES,
        title="Nodes",
        description="Which nodes are slower than their peers, which fail, and their instances.",
        scrape_interval=settings.scrape_interval,
        variables=(
            *choices.common(settings, select),
            choices.model(select),
            choices.node(select),
            controls.limit(*LIMITS, default=25),
        ),
        annotations=choices.event_annotations(select),
        sections=(
            section("", row(4, *_counts(select))),
            section(
                "Slower than their peers", row(10, (13, _slowest(select)), (11, _ratio(select)))
            ),
            section("Failing", row(9, _failing(select), _failing_line(select))),
            section(
                "Errors and restarts",
                row(8, _errors(select), _errors_line(select), _started(select)),
            ),
            section("Instances of $node", row(14, _instances(select))),
        ),
    )


def _counts(select: Selectors) -> tuple[Panel, ...]:
    return (
        _count("Nodes", "nodes", nodes.all_count(select), "Nodes with instances in the inventory."),
        _count(
            "Compared nodes",
            "compared",
            nodes.compared_count(select),
            "Nodes with peers of the same model, engine and hardware. Fewer than all: instances do "
            "not report their speed, or fewer than three nodes are of a kind.",
            no_data=NO_PEERS,
        ).optional(),
        _count(
            "Slow nodes",
            "slow",
            nodes.slow_count(select),
            "Nodes below the alert's share of their peers' median. Good: none. The table names "
            "them.",
            bad=colours.BAD,
            no_data=NO_PEERS,
        ).optional(),
        _count(
            "Nodes down",
            "dark",
            nodes.dark_count(select),
            "Nodes with failing instances and no healthy one: the node, its network or its "
            "container runtime is down. Good: none.",
            bad=colours.BAD,
        ),
    )


def _count(
    title: str,
    name: str,
    expr: str,
    description: str,
    *,
    bad: str = "",
    no_data: str = "No node metrics: check the exporter dashboard.",
) -> Panel:
    text = PanelText(
        title=title,
        description=f"{description} Series: those recorded by node.",
        no_data=no_data,
        unit="none",
    )
    turning = [fields.turning(name, 1, bad)] if bad else []
    return stat(text, Query(expr, name), overrides=turning)


def _slowest(select: Selectors) -> Panel:
    text = PanelText(
        title="Nodes slowest against their peers",
        description="Tokens per second per instance against the median of the nodes with the same "
        "model, engine and hardware. Slow ones share a rack, a batch or a BIOS setting: compare "
        "with one that is not; `ollama-fleet warehouse explain --slow` names what they share. "
        "Series: node_model_engine:ollama_tokens_per_second_per_peers:ratio.",
        no_data=NO_PEERS,
    )
    panel = choices.rows_by_cluster(
        select,
        text,
        Column(name="of peers", expr=nodes.slowest_ratio(select), unit="percentunit"),
        Column(
            name="verdict", expr=nodes.slowest_is_slow(select), overrides=fields.coloured_cell(SLOW)
        ),
        Column(
            name="tokens/s each",
            expr=nodes.slowest_speed(select),
            unit="short",
            overrides=_decimals(1),
        ),
        Column(
            name="peers' median",
            expr=nodes.slowest_peers(select),
            unit="short",
            overrides=_decimals(1),
        ),
        Column(name="healthy on node", expr=nodes.slowest_healthy(select)),
        labels=nodes.GROUP,
        links={"node": choices.node_links(select), "model": choices.model_links(select)},
        sort=[("of peers", False)],
    )
    return panel.optional()


def _decimals(count: int) -> fields.Json:
    return {"decimals": count}


def _ratio(select: Selectors) -> Panel:
    text = PanelText(
        title="Speed against peers",
        description=f"The {nodes.LINES} slowest of the chosen nodes at the end of the time range, "
        "and the alert's limit. A step down shows when the change happened. Series: "
        "node_model_engine:ollama_tokens_per_second_per_peers:ratio.",
        no_data=NO_PEERS,
        unit="percentunit",
    )
    return chart(
        text,
        Query(nodes.ratio_over_time(select), "{{node}} {{model}}"),
        Query(nodes.ratio_limit(select), "limit"),
        overrides=[fields.limit_line("limit")],
    )


def _failing(select: Selectors) -> Panel:
    text = PanelText(
        title="Nodes with failing instances",
        description="Instances that should serve and do not, by status. Unreachable as a whole: "
        f"the node or its network is down. {DISAGREEING} Series: node:ollama_instances:sum.",
        no_data="All instances are healthy or out of service on purpose.",
    )
    statuses = (*FAILING, "healthy")
    panel = choices.rows_by_cluster(
        select,
        text,
        Column(name="failing", expr=nodes.failing_most(select)),
        *(Column(name=status, expr=nodes.failing_status(select, status)) for status in statuses),
        labels=("node",),
        links={"node": choices.node_links(select)},
        sort=[("failing", True)],
    )
    return panel.optional()


def _failing_line(select: Selectors) -> Panel:
    text = PanelText(
        title="Failing instances by node",
        description=f"The {nodes.LINES} chosen nodes with the most failing instances at the end of "
        f"the time range. Nodes that step together share a rack or a switch. {DISAGREEING} Series: "
        "node:ollama_instances:sum.",
        no_data="No instance of the chosen nodes fails now.",
        unit="none",
    )
    return chart(text, Query(nodes.failing_over_time(select), "{{node}}")).optional()


def _errors(select: Selectors) -> Panel:
    text = PanelText(
        title="Nodes with most failed requests",
        description="Failed requests per second, and the node's share of the fleet's. Series: "
        "node:ollama_errors:rate5m.",
        no_data="No node has failed requests; stock Ollama counts none.",
    )
    panel = choices.rows_by_cluster(
        select,
        text,
        Column(name="errors/s", expr=nodes.errors_most(select), unit="reqps"),
        Column(name="share", expr=nodes.errors_share(select), unit="percentunit"),
        labels=("node",),
        links={"node": choices.node_links(select)},
        sort=[("errors/s", True)],
    )
    return panel.optional()


def _errors_line(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed requests by node",
        description=f"The {nodes.LINES} chosen nodes with the most failed requests at the end of "
        "the time range. Series: node:ollama_errors:rate5m.",
        no_data="No request fails on the chosen nodes; stock Ollama counts none.",
        unit="reqps",
    )
    return chart(text, Query(nodes.errors_over_time(select), "{{node}}")).optional()


def _started(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances started by node",
        description=f"Instances that started within the last five minutes, on the {nodes.LINES} "
        "of the chosen nodes with the most starts. Repeated starts on one node: instances crash "
        "there. Series: node:ollama_instances_started:count.",
        no_data="No instance of the chosen nodes started. Of stock Ollama only an inventory with "
        "`started` says when it did.",
        unit="none",
    )
    started = Query(nodes.started_over_time(select), "{{node}}")
    return chart(text, started, is_bars=True, is_stacked=True).optional()


def _instances(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances: down first, then slowest",
        description="Instances of the chosen nodes, at most `limit`; those whose speed is not "
        "known stand before the slowest. One slow instance among fast ones: the instance. All "
        "slow: the node. Series: ollama_instance_up and the others of each instance.",
        no_data="The chosen nodes have no instance, or the exporter does not publish single ones.",
    )
    return choices.rows_by_cluster(
        select,
        text,
        Column(
            name="up",
            expr=nodes.instance_value(select, catalogue.INSTANCE_UP),
            overrides=fields.coloured_cell(UP),
        ),
        *_instance_columns(select),
        labels=("instance_id", "node", "model", "engine"),
        facts=(nodes.instance_info(select),),
        links={
            "instance_id": choices.instance_links(select),
            "node": choices.node_links(select),
            "model": choices.model_links(select),
        },
        sort=[("up", False), ("tokens/s", False)],
    )


def _instance_columns(select: Selectors) -> tuple[Column, ...]:
    """Return what is shown of each instance of the table, beside whether it is up."""
    shown = (
        ("tokens/s", catalogue.INSTANCE_TOKENS_PER_SECOND, "short"),
        ("p99", catalogue.INSTANCE_LATENCY_P99, "s"),
        ("running", catalogue.INSTANCE_REQUESTS_RUNNING, "none"),
        ("queued", catalogue.INSTANCE_REQUESTS_QUEUED, "none"),
    )
    return (
        *(
            Column(name=name, expr=nodes.instance_value(select, series), unit=unit)
            for name, series, unit in shown
        ),
        Column(name="conditions", expr=nodes.instance_conditions(select)),
        Column(name="age", expr=nodes.instance_age(select), unit="s"),
    )
