"""One instance in depth; links from the tables of the other dashboards lead here."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import CANARY, Uid
from dashboards.kit import colours, controls, fields
from dashboards.kit.board import Board, row, section
from dashboards.kit.controls import annotation
from dashboards.kit.panels import Column, Panel, PanelText, Query, chart, state_timeline
from dashboards.queries import instance
from dashboards.queries.selectors import THIS_NODE, Selectors
from dashboards.settings import DashboardSettings
from exporter import catalogue
from exporter.catalogue import NODE_INSTANCES

UP = {"0": ("not healthy", colours.BAD), "1": ("healthy", colours.GOOD)}
HEALTH = {**UP, "2": ("yes", colours.WARNING)}
CANARY_RESULT = {"0": ("failed", colours.BAD), "1": ("succeeded", colours.GOOD)}
NO_CANARY = f"No canary was sent to the instance: {CANARY}."
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
        variables=_variables(settings, select),
        annotations=(*choices.event_annotations(select)[:2], restarts),
        sections=(
            section("", row(5, (9, _info(select)), (7, _up(select)), (8, _models(select)))),
            section(
                "Work",
                row(8, _speed(select), _latency(select)),
                row(8, _requests(select), _tokens(select), _errors(select), _kv_cache(select)),
            ),
            section(
                "Canaries",
                row(8, _canary_results(select), _canary_speed(select), _canary_times(select)),
            ),
            section("Restarts", row(7, _age(select))),
            section("Neighbours on $node", row(10, _neighbours(select))),
        ),
    )


def _variables(settings: DashboardSettings, select: Selectors) -> tuple[object, ...]:
    """Return the choices: a node first, so that no list has 10,000 entries."""
    up = select.series(catalogue.INSTANCE_UP, THIS_NODE)
    return (
        *choices.common(settings, select),
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
    up, started = instance.now(select, catalogue.INSTANCE_UP), instance.start_ms(select)
    return choices.rows_by_cluster(
        select,
        text,
        Column(name="state", expr=up, overrides=fields.coloured_cell(UP)),
        Column(name="started", expr=started, unit="dateTimeFromNow"),
        labels=("model", "engine", "version", "developer", "node"),
        facts=(instance.info(select),),
        links={"node": choices.node_links(select), "model": choices.model_links(select)},
        hidden_labels=("instance_id",),
    )


def _up(select: Selectors) -> Panel:
    text = PanelText(
        title="Health and conditions",
        description="Whether the polls found the instance healthy, and its conditions. Many short "
        "gaps: it crashes and restarts, or its health checks time out under load. stalled: its "
        "runner is frozen, restart it. Series: ollama_instance_up, ollama_instance_condition.",
        no_data=GONE,
        unit="none",
    )
    return state_timeline(
        text,
        Query(instance.up(select), _legend(select, "health")),
        Query(instance.conditions(select), _legend(select, "{{condition}}")),
        mappings=fields.mapping(HEALTH),
    )


def _models(select: Selectors) -> Panel:
    text = PanelText(
        title="Loaded models",
        description="Models in the instance's memory. Less on the GPU than in memory: it computes "
        "on the CPU. Without a time they stay loaded. Series: ollama_instance_model_loaded, "
        "ollama_instance_model_bytes and the others of each model.",
        no_data="No model is loaded, or the server does not say; stock Ollama does.",
    )
    of_model = instance.models
    panel = choices.rows_by_cluster(
        select,
        text,
        Column(name="loaded", expr=of_model(select, catalogue.INSTANCE_MODEL_LOADED)),
        Column(name="memory", expr=of_model(select, catalogue.INSTANCE_MODEL_BYTES), unit="bytes"),
        Column(
            name="on the GPU",
            expr=of_model(select, catalogue.INSTANCE_MODEL_VRAM_BYTES),
            unit="bytes",
        ),
        Column(name="context", expr=of_model(select, catalogue.INSTANCE_MODEL_CONTEXT_LENGTH)),
        Column(name="unloads", expr=instance.models_expire_ms(select), unit="dateTimeFromNow"),
        labels=("model",),
        links={"model": choices.model_links(select)},
        sort=[("memory", True)],
    )
    return panel.optional()


def _speed(select: Selectors) -> Panel:
    text = PanelText(
        title="Speed against its peers",
        description="Tokens per second while it generates; its node's mean and the median of the "
        "nodes with the same model, engine and hardware. Alone below the node: restart it. With "
        "its node below the limit: the node is slow. Series: ollama_instance_tokens_per_second.",
        no_data=f"The instance reports no speed, as stock Ollama: {CANARY}.",
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
        no_data="The instance reports no latency, as stock Ollama: see its canaries below.",
        unit="s",
    )
    return chart(
        text,
        Query(instance.value(select, catalogue.INSTANCE_LATENCY_P99), _legend(select, "p99")),
        Query(instance.latency_limit(select), "limit"),
        overrides=[fields.limit_line("limit")],
    ).optional()


def _requests(select: Selectors) -> Panel:
    text = PanelText(
        title="Requests",
        description="Running and queued requests. Queued requests while no tokens are generated: "
        "it hangs, restart it. Series: ollama_instance_requests_running, "
        "ollama_instance_requests_queued.",
        no_data="The instance does not report its requests, as stock Ollama.",
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
        no_data="The instance does not count its tokens, as stock Ollama.",
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
        no_data="The instance does not count its errors, as stock Ollama.",
        unit="reqps",
    )
    errors = Query(instance.errors(select), _legend(select, "{{error_type}}"))
    return chart(text, errors, is_stacked=True).optional()


def _kv_cache(select: Selectors) -> Panel:
    text = PanelText(
        title="KV cache in use",
        description="Used part of the KV cache. Near 100 %, new requests wait. Series: "
        "ollama_instance_kv_cache_usage_ratio.",
        no_data="The instance does not report its KV cache; vLLM, SGLang and llama-server do, "
        "stock Ollama does not.",
        unit="percentunit",
    )
    used = instance.value(select, catalogue.INSTANCE_KV_CACHE_USAGE)
    return chart(text, Query(used, _legend(select, "used")), max=1).optional()


def _canary_results(select: Selectors) -> Panel:
    text = PanelText(
        title="Canaries",
        description="Whether the last canary got all its tokens in time. Failed while the health "
        "check is good: the runner is frozen. Series: ollama_instance_canary_success.",
        no_data=NO_CANARY,
        unit="none",
    )
    success = instance.value(select, catalogue.INSTANCE_CANARY_SUCCESS)
    return state_timeline(
        text,
        Query(success, _legend(select, "canary")),
        mappings=fields.mapping(CANARY_RESULT),
    ).optional()


def _canary_speed(select: Selectors) -> Panel:
    text = PanelText(
        title="Speed of canaries",
        description="Tokens per second of the last canary, beside the speed that stands for the "
        "instance: as it reports it, else from its counters, else of the canary. Series: "
        "ollama_instance_canary_tokens_per_second, ollama_instance_tokens_per_second.",
        no_data=NO_CANARY,
    )
    canary, own = (_legend(select, name) for name in ("canary", "instance"))
    return chart(
        text,
        Query(instance.value(select, catalogue.INSTANCE_CANARY_TOKENS_PER_SECOND), canary),
        Query(instance.value(select, catalogue.INSTANCE_TOKENS_PER_SECOND), own),
        overrides=[
            fields.coloured(canary, colours.PLAIN),
            fields.coloured(own, colours.GOOD),
        ],
    ).optional()


CANARY_TIMES = {
    "whole canary": catalogue.INSTANCE_CANARY_DURATION,
    "first token": catalogue.INSTANCE_CANARY_TIME_TO_FIRST_TOKEN,
    "queue": catalogue.INSTANCE_CANARY_WAITING,
    "load": catalogue.INSTANCE_CANARY_LOAD,
}


def _canary_times(select: Selectors) -> Panel:
    text = PanelText(
        title="Times of canaries",
        description="Of the last canary: its duration, and until its first token; within that, "
        "waiting in the server's queue and loading the model. Series: "
        "ollama_instance_canary_duration_seconds and the other times of canaries.",
        no_data=NO_CANARY,
        unit="s",
    )
    return chart(
        text,
        *(
            Query(instance.value(select, series), _legend(select, name))
            for name, series in CANARY_TIMES.items()
        ),
    ).optional()


def _age(select: Selectors) -> Panel:
    text = PanelText(
        title="Age",
        description="Time since its start; each drop is a restart. Replace it before it is old "
        "enough to leak memory. Series: ollama_instance_start_time_seconds.",
        no_data="Neither the instance (stock Ollama does not) nor its inventory (`started`) says "
        "when it started.",
        unit="s",
    )
    return chart(text, Query(instance.age(select), _legend(select, "age"))).optional()


def _neighbours(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances of the same node",
        description=f"At most {instance.MAX_NEIGHBOURS}: down first, then without a known speed, "
        "then slowest. If all have the same problem, it is the node. Series: ollama_instance_up.",
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
        labels=("instance_id", "model", "node", "engine"),
        facts=(instance.neighbours_info(select),),
        links={"instance_id": choices.instance_links(select), "model": choices.model_links(select)},
        sort=[("state", False), ("tokens/s", False)],
    )
