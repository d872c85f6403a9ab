"""Sections on canaries, the exporter's own small requests: what they found, and what they cost."""

from __future__ import annotations

from dashboards.choices import CANARY
from dashboards.kit import fields
from dashboards.kit.board import Section, row, section
from dashboards.kit.panels import Panel, PanelText, Query, chart
from dashboards.queries import models, pipeline
from dashboards.queries.selectors import Selectors
from exporter import catalogue

NO_CANARIES = f"The exporters send no canaries: {CANARY}."
NO_SUCCESS = f"No canary of the chosen models succeeded in the last 15 minutes: {CANARY}."
OF_MODELS = (
    (
        catalogue.FLEET_CANARY_DURATION,
        "Duration",
        "Whole canaries. Far above their usual: instances are overloaded or slow.",
    ),
    (
        catalogue.FLEET_CANARY_TIME_TO_FIRST_TOKEN,
        "Time to first token",
        "Until the first token came. High with a short wait: the GPU is busy.",
    ),
    (
        catalogue.FLEET_CANARY_WAITING,
        "Wait in the queue",
        "Time in the queue of the server. It climbs: add instances.",
    ),
    (
        catalogue.FLEET_CANARY_LOAD,
        "Load time",
        "Time that servers loaded the model for. Good: near 0, as canaries load nothing.",
    ),
)


def of_models(select: Selectors) -> Section:
    """Return the charts of the exporter's own requests."""
    panels = (_of_model(select, *one) for one in OF_MODELS)
    return section("Canaries", row(8, *panels))


def _of_model(select: Selectors, series: catalogue.Series, what: str, meaning: str) -> Panel:
    text = PanelText(
        title=f"{what}, p99 of canaries",
        description=f"{meaning} One canary in a hundred took longer, in the last 15 minutes. "
        f"Series: {series.name}.",
        no_data=NO_SUCCESS,
        unit="s",
    )
    return chart(text, Query(models.canary_p99(select, series), "{{model}}")).optional()


def cost(select: Selectors) -> Section:
    """Return the charts of what canaries found, and what they cost the fleet."""
    return section(
        "Canaries", row(8, _canary_results(select), _canary_cost(select), _canary_seconds(select))
    )


def _canary_results(select: Selectors) -> Panel:
    text = PanelText(
        title="Canaries by outcome",
        description="Canaries of the last 15 minutes. stalled: the runner is frozen or far too "
        "slow. skipped: the instance was busy, or the model not loaded; a canary never loads one. "
        "Mostly skipped: canaries say little. Series: ollama_fleet_canary_results_total.",
        no_data=NO_CANARIES,
        unit="none",
    )
    results = Query(pipeline.canary_results(select), "{{outcome}}")
    return chart(text, results, overrides=fields.by_outcome(), is_stacked=True).optional()


def _canary_cost(select: Selectors) -> Panel:
    text = PanelText(
        title="Cost of canaries",
        description="Requests and generated tokens per second that instances spend on canaries; "
        "each replica of the exporter sends its own. Too many: a longer --canary.period. Series: "
        "ollama_fleet_canary_requests_total, ollama_fleet_canary_tokens_total.",
        no_data=NO_CANARIES,
    )
    cost = pipeline.canary_cost
    return chart(
        text,
        Query(cost(select, catalogue.FLEET_CANARY_REQUESTS), "requests/s"),
        Query(cost(select, catalogue.FLEET_CANARY_TOKENS), "tokens/s"),
    ).optional()


def _canary_seconds(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances busy with canaries",
        description="Time that instances spend on canaries, per second: as many are busy with one "
        "on average. Good: far below one in a hundred. Series: ollama_fleet_canary_seconds_total.",
        no_data=NO_CANARIES,
        unit="none",
    )
    seconds = pipeline.canary_cost(select, catalogue.FLEET_CANARY_SECONDS)
    return chart(text, Query(seconds, "busy")).optional()
