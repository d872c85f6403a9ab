"""Which thresholds are in force, as series for dashboards to draw."""

from __future__ import annotations

from alerts.groups import availability, latency, nodes, performance
from alerts.model import Group, Recording
from alerts.names import INVENTORY
from alerts.settings import Settings
from exporter import catalogue
from ollama_fleet.levels import ABSOLUTE, number


def group(settings: Settings) -> Group:
    """Return a recording rule per threshold; the texts are those that the alerts compare with."""
    limit = number(settings.thresholds.queued_per_instance)
    texts = {
        catalogue.HEALTHY_THRESHOLD: availability.healthy_floor(settings),
        catalogue.LATENCY_THRESHOLD: latency.latency_limit(settings),
        catalogue.SPEED_THRESHOLD: performance.speed_floor(settings),
        catalogue.NODE_SPEED_THRESHOLD: nodes.slow_ratio(settings),
        catalogue.QUEUED_THRESHOLD: limit,
        catalogue.REQUEST_SUCCESS_THRESHOLD: number(settings.slo.requests),
    }
    return Group(
        "ollama-fleet-thresholds",
        tuple(Recording(series.name, _per_cluster(text)) for series, text in texts.items()),
    )


def _per_cluster(text: str) -> str:
    return f"{text} + 0 * {INVENTORY}" if ABSOLUTE.fullmatch(text) else text
