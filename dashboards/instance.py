"""One instance in depth; links from the tables of the other dashboards lead here."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import Uid
from dashboards.kit import colours, controls, fields
from dashboards.kit.board import Board, Section, row
from dashboards.kit.controls import annotation
from dashboards.kit.panels import Column, Panel, PanelText, Query, chart, state_timeline
from dashboards.queries import instance
from dashboards.queries.selectors import THIS_NODE, Selectors
from dashboards.settings import DashboardSettings
from exporter import catalogue
from exporter.catalogue import NODE_INSTANCES

UP = {"0": ("not healthy", colours.BAD), "1": ("healthy", colours.GOOD)}
GONE = "The exporter knows no such instance on this node, or does not publish single instances."


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard of one instance, chosen by its node."""
    select = Selectors.of(settings)
    restarts = annotation(
        "Restarts",
        instance.restarts(select),
        title="Restarted",
        text="",
        colour=colours.PLAIN,
    )
    return Board(
        uid=Uid.INSTANCE,
        title="Instance",
        description="One instance: its state, its work, its speed against its peers.",
        scrape_interval=settings.scrape_interval,
        variables=_variables(select),
        annotations=(*choices.event_annotations(select)[:2], restarts),
        sections=(
            Section("", (row(4, (16, _info(select)), (8, _up(select))),)),
            Section(
                "Work",
                (
                    row(8, (12, _speed(select)), (12, _latency(select))),
                    row(8, (8, _requests(select)), (8, _tokens(select)), (8, _errors(select))),
                ),
            ),
            Section("Restarts", (row(7, (24, _age(select))),)),
            Section("Neighbours on $node", (row(10, (24, _neighbours(select))),)),
        ),
    )


def _variables(select: Selectors) -> tuple[object, ...]:
    """Return the choices: a node first, so that no list has 10,000 entries."""
    up = select.series(catalogue.INSTANCE_UP, THIS_NODE)
    return (
        controls.data_source(),
        choices.cluster(select),
        controls.label_values("node", select.series(NODE_INSTANCES), all_value=None),
        controls.label_values("instance_id", up, all_value=None),
    )


def _legend(select: Selectors, name: str) -> str:
    """Return the name of a series in its cluster; of a fleet that has none Grafana leaves it out.

    While All is chosen, several clusters may have an instance of this name.
    """
    return f"{name} {{{{{select.cluster}}}}}"


def _info(select: Selectors) -> Panel:
    text = PanelText(
        title="$instance_id",
        description="Facts about the instance, from the inventory or its answers. Series: "
        "ollama_instance_info.",
        no_data=GONE,
    )
    return choices.rows_by_cluster(
        select,
        text,
        Column(name="state", expr=instance.known_up(select), overrides=fields.coloured_cell(UP)),
        Column(name="started", expr=instance.known_start(select), unit="dateTimeFromNow"),
        labels=("model", "engine", "version", "developer", "node"),
        links={"node": choices.node_links(select), "model": choices.model_links(select)},
        hidden_labels=("instance_id",),
    )


def _up(select: Selectors) -> Panel:
    text = PanelText(
        title="Health",
        description="Whether the polls found the instance healthy. Many short gaps: it crashes "
        "and restarts, or its health checks time out under load. Series: ollama_instance_up.",
        no_data=GONE,
        unit="none",
    )
    health = Query(instance.up(select), _legend(select, "health"))
    return state_timeline(text, health, mappings=fields.mapping(UP))


def _speed(select: Selectors) -> Panel:
    text = PanelText(
        title="Speed against its peers",
        description="Tokens per second while it generates; its node's mean and the median of all "
        "nodes with the same model and engine. Alone below the node: restart it. With its node "
        "below the limit: the node is slow. Series: ollama_instance_tokens_per_second.",
        no_data="The instance does not report its generation speed.",
        unit="short",
    )
    names = ("instance", "its node", "peers' median", "limit")
    own, node, peers, limit = (_legend(select, name) for name in names)
    return chart(
        text,
        Query(instance.value(select, catalogue.INSTANCE_TOKENS_PER_SECOND), own),
        Query(instance.node_speed(select), node),
        Query(instance.peers_speed(select), peers),
        Query(instance.slow_speed(select), limit),
        overrides=[
            fields.override(own, {"color": fields.fixed(colours.GOOD), "custom.lineWidth": 2}),
            fields.coloured(node, colours.PLAIN),
            fields.coloured(peers, colours.NEUTRAL),
            fields.limit_line(limit),
        ],
    )


def _latency(select: Selectors) -> Panel:
    text = PanelText(
        title="Latency, p99",
        description="The p99 that the instance reports, and the fleet's limit. High with queued "
        "requests: it gets more than its share. Series: "
        "ollama_instance_request_latency_p99_seconds.",
        no_data="The instance does not report its latency.",
        unit="s",
    )
    return chart(
        text,
        Query(instance.value(select, catalogue.INSTANCE_LATENCY_P99), _legend(select, "p99")),
        Query(instance.latency_limit(select), "limit"),
        overrides=[fields.limit_line("limit")],
    )


def _requests(select: Selectors) -> Panel:
    text = PanelText(
        title="Requests",
        description="Running and queued requests. Queued requests while no tokens are generated: "
        "it hangs, restart it. Series: ollama_instance_requests_running, "
        "ollama_instance_requests_queued.",
        no_data="The instance does not report its requests.",
        unit="none",
    )
    running, queued = (_legend(select, name) for name in ("running", "queued"))
    return chart(
        text,
        Query(instance.value(select, catalogue.INSTANCE_REQUESTS_RUNNING), running),
        Query(instance.value(select, catalogue.INSTANCE_REQUESTS_QUEUED), queued),
        overrides=[
            fields.coloured(running, colours.GOOD),
            fields.coloured(queued, colours.WARNING),
        ],
    ).optional()


def _tokens(select: Selectors) -> Panel:
    text = PanelText(
        title="Tokens",
        description="Generated and read per second, idle times included. Series: "
        "ollama_instance_generated_tokens_total, ollama_instance_prompt_tokens_total.",
        no_data="The instance does not count its tokens.",
        unit="short",
    )
    return chart(
        text,
        Query(
            instance.rate(select, catalogue.INSTANCE_GENERATED_TOKENS), _legend(select, "generated")
        ),
        Query(instance.rate(select, catalogue.INSTANCE_PROMPT_TOKENS), _legend(select, "read")),
    ).optional()


def _errors(select: Selectors) -> Panel:
    text = PanelText(
        title="Errors by type",
        description="Failed requests per second. Good: none. Series: ollama_instance_errors_total.",
        no_data="The instance does not count its errors.",
        unit="reqps",
    )
    errors = Query(instance.errors(select), _legend(select, "{{error_type}}"))
    return chart(text, errors, is_stacked=True).optional()


def _age(select: Selectors) -> Panel:
    text = PanelText(
        title="Age",
        description="Time since its start; each drop is a restart. Replace it before it is old "
        "enough to leak memory. Series: ollama_instance_start_time_seconds.",
        no_data="The instance does not report its start time.",
        unit="s",
    )
    return chart(text, Query(instance.age(select), _legend(select, "age"))).optional()


def _neighbours(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances of the same node",
        description=f"At most {instance.MAX_NEIGHBOURS}: down first, then slowest. If all have "
        "the same problem, it is the node. Series: ollama_instance_up.",
        no_data="No instance of this node is known.",
    )
    up = fields.coloured_cell(UP)
    return choices.rows_by_cluster(
        select,
        text,
        Column(name="state", expr=instance.neighbours(select, catalogue.INSTANCE_UP), overrides=up),
        Column(
            name="tokens/s",
            expr=instance.neighbours(select, catalogue.INSTANCE_TOKENS_PER_SECOND),
            unit="short",
        ),
        Column(
            name="p99", expr=instance.neighbours(select, catalogue.INSTANCE_LATENCY_P99), unit="s"
        ),
        labels=("instance_id", "model", "node"),
        links={"instance_id": choices.instance_links(select), "model": choices.model_links(select)},
        sort=[("state", False), ("tokens/s", False)],
    )
