"""Nodes: which are slower than their peers, which fail, and what runs on the chosen one."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import DISAGREEING, Uid
from dashboards.kit import colours, fields, variables
from dashboards.kit.board import Board
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Column, Panel, Query, Words, chart, stat
from dashboards.queries import nodes
from dashboards.queries.select import FAILING, Ask
from dashboards.settings import DashboardSettings
from exporter import catalogue

SLOW = {"0": ("as its peers", colours.GOOD), "1": ("slow", colours.BAD)}
UP = {"0": ("down", colours.BAD), "1": ("up", colours.GOOD)}
LIMITS = (10, 25, 50, 100)


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard that shows a batch of nodes that are 30 % slower than the others."""
    ask = Ask.of(settings)
    return Board(
        uid=Uid.NODES,
        title="Nodes",
        description="Which nodes are slower than their peers, which fail, and their instances.",
        scrape_interval=settings.scrape_interval,
        variables=(
            variables.data_source(),
            choices.cluster(ask),
            choices.model(ask),
            choices.node(ask),
            variables.limit(*LIMITS, default=25),
        ),
        marks=choices.marks(ask),
        sections=(
            Section("", (row(4, *((6, panel) for panel in _counts(ask))),)),
            Section("Slower than their peers", (row(10, (13, _slowest(ask)), (11, _ratio(ask))),)),
            Section("Failing", (row(9, (12, _failing(ask)), (12, _failing_line(ask))),)),
            Section(
                "Errors and restarts",
                (row(8, (8, _errors(ask)), (8, _errors_line(ask)), (8, _started(ask))),),
            ),
            Section("Instances of $node", (row(14, (24, _instances(ask))),)),
        ),
    )


def _counts(ask: Ask) -> tuple[Panel, ...]:
    return (
        _count("Nodes", "nodes", nodes.all_count(ask), "With instances in the inventory."),
        _count(
            "Compared nodes",
            "compared",
            nodes.compared_count(ask),
            "With enough peers, of the same model and engine, to be compared. Fewer than all: "
            "their instances do not tell their speed, or fewer than three nodes run a model.",
        ).optional(),
        _count(
            "Slow nodes",
            "slow",
            nodes.slow_count(ask),
            "Below the alert's share of their peers' median. Good: none. The table names them.",
            bad=colours.BAD,
        ).optional(),
        _count(
            "Dark nodes",
            "dark",
            nodes.dark_count(ask),
            "With failing instances and not one that is healthy: the node, its network or its "
            "container runtime is down. Good: none.",
            bad=colours.BAD,
        ),
    )


def _count(title: str, name: str, expr: str, description: str, *, bad: str = "") -> Panel:
    words = Words(
        title=title,
        description=f"{description} Series: those recorded by node.",
        no_data="No figures of nodes: look at the exporter dashboard.",
        unit="none",
    )
    turning = [fields.turning(name, 1, bad)] if bad else []
    return stat(words, Query(expr, name), overrides=turning)


def _slowest(ask: Ask) -> Panel:
    words = Words(
        title="Nodes slowest against their peers",
        description="Tokens per second per instance against the median of the nodes with the same "
        "model and engine. Slow ones share a rack, a batch or a BIOS setting: compare with one "
        "that is not. Series: node_model_engine:ollama_tokens_per_second_per_peers:ratio.",
        no_data="No node can be compared: fewer than three run the same model and engine.",
    )
    panel = choices.rows_by_cluster(
        ask,
        words,
        Column(name="of peers", expr=nodes.slowest_ratio(ask), unit="percentunit"),
        Column(name="verdict", expr=nodes.slowest_is_slow(ask), looks=fields.coloured_cell(SLOW)),
        Column(
            name="tokens/s each", expr=nodes.slowest_speed(ask), unit="short", looks=_decimals(1)
        ),
        Column(
            name="peers' median", expr=nodes.slowest_peers(ask), unit="short", looks=_decimals(1)
        ),
        Column(name="healthy on node", expr=nodes.slowest_healthy(ask)),
        labels=nodes.GROUP,
        links={"node": choices.node_links(ask), "model": choices.model_links(ask)},
        sort=[("of peers", False)],
    )
    return panel.optional()


def _decimals(count: int) -> fields.Json:
    return {"decimals": count}


def _ratio(ask: Ask) -> Panel:
    words = Words(
        title="Speed against peers",
        description=f"The {nodes.LINES} of the chosen nodes that are slowest at the end of the "
        "time range, and the alert's limit. A step down dates the change that did it. "
        "Series: node_model_engine:ollama_tokens_per_second_per_peers:ratio.",
        no_data="No chosen node can be compared with peers.",
        unit="percentunit",
    )
    return chart(
        words,
        Query(nodes.ratio_over_time(ask), "{{node}} {{model}}"),
        Query(nodes.ratio_limit(ask), "limit"),
        overrides=[fields.limit_line("limit")],
    )


def _failing(ask: Ask) -> Panel:
    words = Words(
        title="Nodes with failing instances",
        description="Instances that should serve and do not, by status. Unreachable as a whole: "
        f"the node or its network is down. {DISAGREEING} Series: node:ollama_instances:sum.",
        no_data="All instances of all nodes are healthy, or away on purpose.",
    )
    statuses = (*FAILING, "healthy")
    panel = choices.rows_by_cluster(
        ask,
        words,
        Column(name="failing", expr=nodes.failing_most(ask)),
        *(Column(name=status, expr=nodes.failing_status(ask, status)) for status in statuses),
        labels=("node",),
        links={"node": choices.node_links(ask)},
        sort=[("failing", True)],
    )
    return panel.optional()


def _failing_line(ask: Ask) -> Panel:
    words = Words(
        title="Failing instances by node",
        description=f"The {nodes.LINES} of the chosen nodes with most of them at the end of the "
        f"time range. Nodes that step together share a rack or a switch. {DISAGREEING} "
        "Series: node:ollama_instances:sum.",
        no_data="On the chosen nodes nothing fails now.",
        unit="none",
    )
    return chart(words, Query(nodes.failing_over_time(ask), "{{node}}")).optional()


def _errors(ask: Ask) -> Panel:
    words = Words(
        title="Nodes with most failed requests",
        description="Failed requests per second, and which share of the fleet's that is. "
        "Series: node:ollama_errors:rate5m.",
        no_data="No node has failed requests.",
    )
    panel = choices.rows_by_cluster(
        ask,
        words,
        Column(name="errors/s", expr=nodes.errors_most(ask), unit="reqps"),
        Column(name="share", expr=nodes.errors_share(ask), unit="percentunit"),
        labels=("node",),
        links={"node": choices.node_links(ask)},
        sort=[("errors/s", True)],
    )
    return panel.optional()


def _errors_line(ask: Ask) -> Panel:
    words = Words(
        title="Failed requests by node",
        description=f"The {nodes.LINES} of the chosen nodes with most at the end of the time "
        "range. Series: node:ollama_errors:rate5m.",
        no_data="On the chosen nodes no request fails now.",
        unit="reqps",
    )
    return chart(words, Query(nodes.errors_over_time(ask), "{{node}}")).optional()


def _started(ask: Ask) -> Panel:
    words = Words(
        title="Instances started by node",
        description=f"That started within the five minutes before, on the {nodes.LINES} of the "
        "chosen nodes where most did at once. Again and again on one node: instances crash there. "
        "Series: node:ollama_instances_started:count.",
        no_data="On the chosen nodes none started, or none tells when it did.",
        unit="none",
    )
    started = Query(nodes.started_over_time(ask), "{{node}}")
    return chart(words, started, is_bars=True, is_stacked=True).optional()


def _instances(ask: Ask) -> Panel:
    words = Words(
        title="Instances, those that are down first, then the slowest",
        description="The instances of the chosen nodes and models, as many as `limit` says. One "
        "slow among fast ones is the instance's fault; all slow is the node's. "
        "Series: ollama_instance_up and the others of each instance.",
        no_data="The chosen nodes have no instance of the chosen models.",
    )
    return choices.rows_by_cluster(
        ask,
        words,
        Column(
            name="up",
            expr=nodes.instance_value(ask, catalogue.INSTANCE_UP),
            looks=fields.coloured_cell(UP),
        ),
        *_instance_columns(ask),
        labels=("instance_id", "node", "model"),
        links={
            "instance_id": choices.instance_links(ask),
            "node": choices.node_links(ask),
            "model": choices.model_links(ask),
        },
        sort=[("up", False), ("tokens/s", False)],
    )


def _instance_columns(ask: Ask) -> tuple[Column, ...]:
    """Return what is shown of each instance of the table, beside whether it is up."""
    told = (
        ("tokens/s", catalogue.INSTANCE_TOKENS_PER_SECOND, "short"),
        ("p99", catalogue.INSTANCE_LATENCY_P99, "s"),
        ("running", catalogue.INSTANCE_REQUESTS_RUNNING, "none"),
        ("queued", catalogue.INSTANCE_REQUESTS_QUEUED, "none"),
    )
    return (
        *(
            Column(name=name, expr=nodes.instance_value(ask, series), unit=unit)
            for name, series, unit in told
        ),
        Column(name="age", expr=nodes.instance_age(ask), unit="s"),
    )
