"""Models: how many instances serve each, how fast, and how they differ among themselves."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import DISAGREEING, Uid
from dashboards.kit import colours, fields, variables
from dashboards.kit.board import Board
from dashboards.kit.grid import Section, row
from dashboards.kit.links import to_dashboard
from dashboards.kit.panels import Column, Panel, Query, Words, chart, table
from dashboards.queries import fleet, models
from dashboards.queries.select import Ask
from dashboards.settings import DashboardSettings

NO_MODEL = "No instance of the chosen models is in the inventory."
NO_SPEED = "No instance of the chosen models tells how fast it generates."
NO_LATENCY = "No instance of the chosen models tells of its latency."


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard for whoever answers for a model."""
    ask = Ask.of(settings)
    return Board(
        uid=Uid.MODELS,
        title="Models",
        description="How many instances serve each model, how fast, and what its users feel.",
        scrape_interval=settings.scrape_interval,
        variables=(variables.data_source(), choices.cluster(ask), choices.model(ask)),
        marks=choices.marks(ask),
        sections=(
            Section("", (row(9, (24, _all(ask))),)),
            Section("Instances", (row(8, (12, _by_status(ask)), (12, _healthy(ask))),)),
            Section(
                "Speed",
                (
                    row(8, (12, _speed(ask)), (12, _generated(ask))),
                    row(8, (12, _median_speed(ask)), (12, _slow_end(ask))),
                ),
            ),
            Section("Requests", (row(8, (12, _requests(ask)), (12, _errors(ask))),)),
            Section("Latency", (row(8, (12, _p99(ask)), (12, _slow_instances(ask))),)),
            Section(
                "Spread over instances, a chart per model",
                (row(8, (24, _speed_spread(ask))), row(8, (24, _latency_spread(ask)))),
                is_collapsed=True,
            ),
        ),
    )


def _all(ask: Ask) -> Panel:
    words = Words(
        title="Models",
        description="The chosen models, the largest first. A share of healthy instances below "
        "100 % is what its users feel first; errors of one model alone are its own, of all are the "
        "fleet's. Series: ollama_model_instances, model:ollama_tokens_per_second:sum, "
        "model:ollama_errors:rate5m.",
        no_data=NO_MODEL,
    )
    ratio = {"unit": "percentunit", "decimals": 1}
    return table(
        words,
        Column(name="instances", expr=models.instances(ask)),
        Column(name="healthy", expr=models.healthy(ask)),
        Column(
            name="healthy, share",
            expr=models.healthy_ratio(ask),
            unit="percentunit",
            looks=ratio,
        ),
        Column(name="of the fleet", expr=models.share(ask), unit="percentunit", looks=ratio),
        Column(name="tokens/s", expr=models.speed(ask), unit="short"),
        Column(name="tokens/s each", expr=models.speed_each(ask), unit="short"),
        Column(name="p99", expr=models.latency_p99_known(ask), unit="s"),
        Column(name="requests/s", expr=models.requests(ask), unit="reqps"),
        Column(name="errors/s", expr=models.errors(ask), unit="reqps"),
        labels=("model",),
        links={"model": [to_dashboard("The model", Uid.MODELS, "model")]},
        sort=[("instances", True)],
    )


def _by_status(ask: Ask) -> Panel:
    words = Words(
        title="Instances of the chosen models",
        description=f"Stacked by status. Good: nearly all healthy. {DISAGREEING} "
        "Series: model:ollama_instances:sum.",
        no_data=NO_MODEL,
        unit="none",
    )
    return chart(
        words,
        Query(models.by_status(ask), "{{status}}"),
        overrides=fields.by_status(),
        is_stacked=True,
    )


def _healthy(ask: Ask) -> Panel:
    words = Words(
        title="Healthy share by model",
        description="Of each model's instances. One line that falls alone: a bad rollout of that "
        "model, or its nodes. All together: the fleet. Series: ollama_model_instances.",
        no_data=NO_MODEL,
        unit="percentunit",
    )
    return chart(words, Query(models.healthy_over_time(ask), "{{model}}"), max=1)


def _speed(ask: Ask) -> Panel:
    words = Words(
        title="Token throughput",
        description="Tokens per second that healthy instances can generate, by model. It falls "
        "with their number and with their speed: see below which. "
        "Series: model:ollama_tokens_per_second:sum.",
        no_data=NO_SPEED,
        unit="short",
    )
    return chart(words, Query(models.speed(ask), "{{model}}"), is_stacked=True)


def _generated(ask: Ask) -> Panel:
    words = Words(
        title="Tokens generated",
        description="Tokens per second that were really generated: what is asked of each model. "
        "Series: ollama_fleet_generated_tokens_total.",
        no_data="No instance of the chosen models counts its tokens.",
        unit="short",
    )
    return chart(words, Query(models.generated(ask), "{{model}}"), is_stacked=True).optional()


def _requests(ask: Ask) -> Panel:
    words = Words(
        title="Requests",
        description="Requests per second by model, as far as its instances count them. "
        "Series: ollama_fleet_request_duration_seconds.",
        no_data="No instance of the chosen models gives a histogram of its requests.",
        unit="reqps",
    )
    return chart(words, Query(models.requests(ask), "{{model}}"), is_stacked=True).optional()


def _errors(ask: Ask) -> Panel:
    words = Words(
        title="Failed requests",
        description="Per second by model. One model alone: its engine, its memory or its last "
        "rollout. All together: the fleet's. Series: model:ollama_errors:rate5m.",
        no_data="No instance of the chosen models counts its errors.",
        unit="reqps",
    )
    return chart(words, Query(models.errors(ask), "{{model}}"), is_stacked=True).optional()


def _median_speed(ask: Ask) -> Panel:
    words = Words(
        title="Speed per instance, median",
        description="Half of a model's instances are faster. A step: engine, driver or "
        "quantisation changed. Series: model:ollama_instance_tokens_per_second:quantile.",
        no_data=NO_SPEED,
        unit="short",
    )
    return chart(words, Query(models.speed_spread(ask, "0.5"), "{{model}}"))


def _slow_end(ask: Ask) -> Panel:
    words = Words(
        title="Speed per instance, slowest tenth",
        description="Nine in ten of a model's instances are faster. It falls while the median "
        "stays: some nodes slowed down, see the nodes dashboard. "
        "Series: model:ollama_instance_tokens_per_second:quantile.",
        no_data=NO_SPEED,
        unit="short",
    )
    return chart(words, Query(models.speed_spread(ask, "0.1"), "{{model}}"))


def _p99(ask: Ask) -> Panel:
    words = Words(
        title="Latency, p99 of requests",
        description="From the histogram of all requests of a model, and the fleet's limit. "
        "Series: ollama_fleet_request_duration_seconds.",
        no_data="No instance of the chosen models gives a histogram of its requests.",
        unit="s",
    )
    return chart(
        words,
        Query(models.latency_p99(ask), "{{model}}"),
        Query(fleet.latency_limit(ask), "limit"),
        overrides=[fields.limit_line("limit")],
    )


def _slow_instances(ask: Ask) -> Panel:
    words = Words(
        title="Latency, p99 of the slowest instances",
        description="One instance in a hundred reports a higher p99. Far above the p99 of "
        "requests: few instances are overloaded, look at how load is balanced. "
        "Series: model:ollama_instance_request_latency_p99_seconds:quantile.",
        no_data=NO_LATENCY,
        unit="s",
    )
    return chart(
        words,
        Query(models.latency_spread(ask, "0.99"), "{{model}}"),
        Query(fleet.latency_limit(ask), "limit"),
        overrides=[fields.limit_line("limit")],
    )


def _speed_spread(ask: Ask) -> Panel:
    words = Words(
        title="Speed of $model",
        description="Between which speeds the instances lie: half, nine in ten, and all but one "
        "in a hundred are faster than the lines. "
        "Series: model:ollama_instance_tokens_per_second:quantile.",
        no_data=NO_SPEED,
        unit="short",
    )
    names = {"0.5": "median", "0.1": "slowest tenth", "0.01": "slowest hundredth"}
    median, tenth, hundredth = names.values()
    return chart(
        words,
        *(Query(models.speed_spread(ask, quantile), name) for quantile, name in names.items()),
        overrides=[
            fields.band(median, tenth, colours.GOOD),
            fields.band(tenth, hundredth, colours.WARNING),
            fields.coloured(hundredth, colours.BAD),
        ],
        repeat="model",
    )


def _latency_spread(ask: Ask) -> Panel:
    words = Words(
        title="Latency of $model",
        description="Between which the p99 of single instances lie: half, nine in ten, and all "
        "but one in a hundred are below the lines. "
        "Series: model:ollama_instance_request_latency_p99_seconds:quantile.",
        no_data=NO_LATENCY,
        unit="s",
    )
    names = {"0.99": "slowest hundredth", "0.9": "slowest tenth", "0.5": "median"}
    hundredth, tenth, median = names.values()
    return chart(
        words,
        *(Query(models.latency_spread(ask, quantile), name) for quantile, name in names.items()),
        overrides=[
            fields.band(hundredth, tenth, colours.BAD),
            fields.band(tenth, median, colours.WARNING),
            fields.coloured(median, colours.GOOD),
        ],
        repeat="model",
    )
