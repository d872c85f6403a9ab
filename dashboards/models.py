"""Models: how many instances serve each, how fast, and how they differ among themselves."""

from __future__ import annotations

from dashboards import canaries, choices
from dashboards.choices import CANARY, DISAGREEING, Uid
from dashboards.kit import colours, fields
from dashboards.kit.board import Board, Section, row, section
from dashboards.kit.controls import to_dashboard
from dashboards.kit.panels import Column, Panel, PanelText, Query, chart, table
from dashboards.queries import fleet, models
from dashboards.queries.selectors import Selectors
from dashboards.settings import DashboardSettings
from exporter import catalogue

NO_MODEL = "No instance of the chosen models is in the inventory."
NO_SPEED = f"The chosen models' servers report no speed, as stock Ollama: {CANARY}."
NO_LATENCY = f"The chosen models' servers report no latency, as stock Ollama: {CANARY}."
NO_LOADED = "No server of the chosen models says what it has loaded; stock Ollama does."


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard for whoever answers for a model."""
    select = Selectors.of(settings)
    return Board(
        uid=Uid.MODELS,
        title="Models",
        description="How many instances serve each model, how fast, and what its users feel.",
        scrape_interval=settings.scrape_interval,
        variables=(*choices.common(settings, select), choices.model(select)),
        annotations=choices.event_annotations(select),
        sections=(
            section("", row(9, _all(select))),
            section("Instances", row(8, _by_status(select), _healthy(select))),
            _loaded_models(select),
            section(
                "Speed",
                row(8, _speed(select), _generated(select)),
                row(8, _median_speed(select), _slow_end(select)),
            ),
            section("Requests", row(8, _requests(select), _failed_share(select), _errors(select))),
            section("Latency", row(8, _p99(select), _slow_instances(select))),
            _inside_of_servers(select),
            canaries.of_models(select),
            section(
                "Spread over instances, a chart per model",
                row(8, _speed_spread(select)),
                row(8, _latency_spread(select)),
                is_collapsed=True,
            ),
        ),
    )


def _all(select: Selectors) -> Panel:
    text = PanelText(
        title="Models",
        description="The chosen models, the largest first. A healthy share below 100 % is what "
        "users feel first. Fewer loaded than healthy: servers unloaded the model. Errors of one "
        "model: the model. Errors of all: the fleet. Series: model:ollama_instances:sum, "
        "ollama_model_loaded_instances, model:ollama_tokens_per_second:sum.",
        no_data=NO_MODEL,
    )
    ratio = {"unit": "percentunit", "decimals": 1}
    return table(
        text,
        Column(name="instances", expr=models.instances(select)),
        Column(name="healthy", expr=models.healthy(select)),
        Column(
            name="healthy, share",
            expr=models.healthy_ratio(select),
            unit="percentunit",
            overrides=ratio,
        ),
        Column(name="of the fleet", expr=models.share(select), unit="percentunit", overrides=ratio),
        *(
            Column(name=name, expr=models.now(select, series))
            for name, series in (
                ("installed", catalogue.MODEL_INSTALLED_INSTANCES),
                ("loaded", catalogue.MODEL_LOADED_INSTANCES),
                ("unload when idle", catalogue.MODEL_EXPIRING_INSTANCES),
                ("on CPU", catalogue.MODEL_ON_CPU_INSTANCES),
            )
        ),
        Column(name="tokens/s", expr=models.speed(select), unit="short"),
        Column(name="tokens/s each", expr=models.speed_each(select), unit="short"),
        Column(name="p99", expr=models.latency_p99_known(select), unit="s"),
        Column(name="requests/s", expr=models.requests(select), unit="reqps"),
        Column(name="errors/s", expr=models.errors(select), unit="reqps"),
        labels=("model",),
        links={"model": [to_dashboard("The model", Uid.MODELS, "model")]},
        sort=[("instances", True)],
    )


def _by_status(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances of the chosen models",
        description=f"Stacked by status. Good: nearly all healthy. {DISAGREEING} Series: "
        "model:ollama_instances:sum.",
        no_data=NO_MODEL,
        unit="none",
    )
    return chart(
        text,
        Query(models.by_status(select), "{{status}}"),
        overrides=fields.by_status(),
        is_stacked=True,
    )


def _healthy(select: Selectors) -> Panel:
    text = PanelText(
        title="Healthy share by model",
        description="Healthy share of each model's instances. One line that falls alone: a bad "
        "rollout of that model, or its nodes. All together: the fleet. Series: "
        "model:ollama_instances:sum, model:ollama_inventory_instances:sum.",
        no_data=NO_MODEL,
        unit="percentunit",
    )
    return chart(text, Query(models.healthy_ratio(select), "{{model}}"), max=1)


def _speed(select: Selectors) -> Panel:
    text = PanelText(
        title="Generation capacity",
        description="Tokens per second that healthy instances can generate, by model. It falls "
        "with their number and their speed: see below. Series: model:ollama_tokens_per_second:sum.",
        no_data=NO_SPEED,
    )
    return chart(text, Query(models.speed(select), "{{model}}"), is_stacked=True)


def _generated(select: Selectors) -> Panel:
    text = PanelText(
        title="Tokens generated",
        description="Tokens per second that are generated: current load of each model. Series: "
        "ollama_fleet_generated_tokens_total.",
        no_data="The chosen models' servers count no tokens, as stock Ollama.",
    )
    return chart(text, Query(models.generated(select), "{{model}}"), is_stacked=True).optional()


def _requests(select: Selectors) -> Panel:
    text = PanelText(
        title="Requests",
        description="Requests per second by model, as far as its instances count them. Series: "
        "ollama_fleet_request_duration_seconds.",
        no_data="The chosen models' servers report no histogram of requests, as stock Ollama: see "
        "the canaries below.",
        unit="reqps",
    )
    return chart(text, Query(models.requests(select), "{{model}}"), is_stacked=True).optional()


def _failed_share(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed requests, share",
        description="Share of each model's requests that fail: of five minutes, or of an hour "
        "where there are few. OllamaModelRequestsFailing is about it. Series: "
        "model:ollama_request_errors_per_requests:ratio.",
        no_data="The chosen models' servers report no histogram of requests, as stock Ollama, or "
        "too few requests end.",
        unit="percentunit",
    )
    return chart(text, Query(models.failed_share(select), "{{model}}")).optional()


def _errors(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed requests",
        description="Per second by model. One model alone: its engine, its memory or its last "
        "rollout. All together: the fleet's. Series: model:ollama_errors:rate5m.",
        no_data="The chosen models' servers count no errors, as stock Ollama.",
        unit="reqps",
    )
    return chart(text, Query(models.errors(select), "{{model}}"), is_stacked=True).optional()


def _median_speed(select: Selectors) -> Panel:
    text = PanelText(
        title="Speed per instance, median",
        description="Half of a model's instances are faster. A step: engine, driver or "
        "quantisation changed. Series: model:ollama_instance_tokens_per_second:quantile.",
        no_data=NO_SPEED,
    )
    return chart(text, Query(models.speed_spread(select, "0.5"), "{{model}}"))


def _slow_end(select: Selectors) -> Panel:
    text = PanelText(
        title="Speed per instance, slowest tenth",
        description="Nine in ten of a model's instances are faster. It falls while the median "
        "stays: some nodes slowed down, see the nodes dashboard. Series: "
        "model:ollama_instance_tokens_per_second:quantile.",
        no_data=NO_SPEED,
    )
    return chart(text, Query(models.speed_spread(select, "0.1"), "{{model}}"))


def _p99(select: Selectors) -> Panel:
    text = PanelText(
        title="Latency, p99 of requests",
        description="From the histogram of all requests of a model, and the fleet's limit. "
        "Series: ollama_fleet_request_duration_seconds.",
        no_data="The chosen models' servers report no histogram of requests, as stock Ollama: see "
        "the canaries below.",
        unit="s",
    )
    return chart(
        text,
        Query(models.latency_p99(select), "{{model}}"),
        Query(fleet.latency_limit(select), "limit"),
        overrides=[fields.limit_line("limit")],
    ).optional()


def _slow_instances(select: Selectors) -> Panel:
    text = PanelText(
        title="Latency, p99 of the slowest instances",
        description="One instance in a hundred reports a higher p99. Far above the p99 of "
        "requests: few instances are overloaded, look at how load is balanced. Series: "
        "model:ollama_instance_request_latency_p99_seconds:quantile.",
        no_data=NO_LATENCY,
        unit="s",
    )
    return chart(
        text,
        Query(models.latency_spread(select, "0.99"), "{{model}}"),
        Query(fleet.latency_limit(select), "limit"),
        overrides=[fields.limit_line("limit")],
    )


def _speed_spread(select: Selectors) -> Panel:
    text = PanelText(
        title="Speed of $model",
        description="Spread of speed over instances: half, nine in ten, and 99 in 100 are faster "
        "than the lines. Series: model:ollama_instance_tokens_per_second:quantile.",
        no_data=NO_SPEED,
    )
    names = {"0.5": "median", "0.1": "slowest tenth", "0.01": "slowest hundredth"}
    median, tenth, hundredth = names.values()
    return chart(
        text,
        *(Query(models.speed_spread(select, quantile), name) for quantile, name in names.items()),
        overrides=[
            fields.band(median, tenth, colours.GOOD),
            fields.band(tenth, hundredth, colours.WARNING),
            fields.coloured(hundredth, colours.BAD),
        ],
        repeat="model",
    )


def _latency_spread(select: Selectors) -> Panel:
    text = PanelText(
        title="Latency of $model",
        description="Spread of the instances' own p99: half, nine in ten, and 99 in 100 are below "
        "the lines. Series: model:ollama_instance_request_latency_p99_seconds:quantile.",
        no_data=NO_LATENCY,
        unit="s",
    )
    names = {"0.99": "slowest hundredth", "0.9": "slowest tenth", "0.5": "median"}
    hundredth, tenth, median = names.values()
    return chart(
        text,
        *(Query(models.latency_spread(select, quantile), name) for quantile, name in names.items()),
        overrides=[
            fields.band(hundredth, tenth, colours.BAD),
            fields.band(tenth, median, colours.WARNING),
            fields.coloured(median, colours.GOOD),
        ],
        repeat="model",
    )


def _loaded_models(select: Selectors) -> Section:
    """Return the charts of what servers have in memory."""
    return section(
        "Loaded models", row(8, _loaded(select), _on_cpu(select), _memory(select), _loads(select))
    )


def _loaded(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances with the model loaded",
        description="Instances that have the model in memory; one with two models counts for both. "
        "A fall while the healthy ones stay: servers unload it. Series: "
        "ollama_model_loaded_instances.",
        no_data=NO_LOADED,
        unit="none",
    )
    loaded = Query(models.now(select, catalogue.MODEL_LOADED_INSTANCES), "{{model}}")
    return chart(text, loaded).optional()


def _on_cpu(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances with the model on the CPU",
        description="Instances that have the model partly or wholly outside of GPU memory: many "
        "times slower. Good: none, or all where there is no GPU. Series: "
        "ollama_model_on_cpu_instances.",
        no_data=NO_LOADED,
        unit="none",
    )
    on_cpu = Query(models.now(select, catalogue.MODEL_ON_CPU_INSTANCES), "{{model}}")
    return chart(text, on_cpu).optional()


def _memory(select: Selectors) -> Panel:
    text = PanelText(
        title="Memory of loaded models",
        description="Memory of the chosen models in all instances, on GPUs and off them. Off the "
        "GPU that grows: models do not fit beside each other. Series: ollama_model_vram_bytes, "
        "ollama_model_loaded_bytes.",
        no_data=NO_LOADED,
        unit="bytes",
    )
    return chart(
        text,
        Query(models.total(select, catalogue.MODEL_VRAM_BYTES), "on the GPU"),
        Query(models.off_gpu_bytes(select), "off the GPU"),
        overrides=[
            fields.coloured("on the GPU", colours.GOOD),
            fields.coloured("off the GPU", colours.WARNING),
        ],
        is_stacked=True,
    ).optional()


def _loads(select: Selectors) -> Panel:
    text = PanelText(
        title="Loads and unloads in an hour",
        description="Times that instances loaded and unloaded the model within the hour before. "
        "Good: few. Many: clients ask for more models than fit, or keep_alive is short. Series: "
        "ollama_fleet_model_loads_total, ollama_fleet_model_unloads_total.",
        no_data=NO_LOADED,
        unit="none",
    )
    return chart(
        text,
        Query(models.last_hour(select, catalogue.FLEET_MODEL_LOADS), "{{model}} loaded"),
        Query(models.last_hour(select, catalogue.FLEET_MODEL_UNLOADS), "{{model}} unloaded"),
    ).optional()


def _inside_of_servers(select: Selectors) -> Section:
    """Return the charts of what only some engines report."""
    return section(
        "Inside of servers that report it",
        row(8, _first_token(select), _queue_time(select), _kv_cache(select)),
    )


def _first_token(select: Selectors) -> Panel:
    text = PanelText(
        title="Time to first token, p99 of requests",
        description="What a user waits until an answer begins. High with a short queue: long "
        "prompts. Series: ollama_fleet_time_to_first_token_seconds.",
        no_data="No server reports it; vLLM, SGLang and TGI do. Of stock Ollama, see the canaries.",
        unit="s",
    )
    series = catalogue.FLEET_TIME_TO_FIRST_TOKEN
    return chart(text, Query(models.reported_quantile(select, series), "{{model}}")).optional()


def _queue_time(select: Selectors) -> Panel:
    text = PanelText(
        title="Queue time, p99 of requests",
        description="Time that requests wait in their instance's queue. It climbs: add instances. "
        "Series: ollama_fleet_queue_time_seconds.",
        no_data="No server reports it; vLLM, SGLang and TGI do. Of stock Ollama, see the canaries.",
        unit="s",
    )
    series = catalogue.FLEET_QUEUE_TIME
    return chart(text, Query(models.reported_quantile(select, series), "{{model}}")).optional()


def _kv_cache(select: Selectors) -> Panel:
    text = PanelText(
        title="KV cache in use",
        description="One instance in ten uses more of its KV cache. Near 100 %, new requests wait "
        "or push others out. Series: model:ollama_instance_kv_cache_usage_ratio:quantile.",
        no_data="No server reports it; vLLM, SGLang and llama-server do, stock Ollama does not.",
        unit="percentunit",
    )
    used = Query(models.kv_cache_spread(select, "0.9"), "{{model}}")
    return chart(text, used, max=1).optional()
