"""Which thresholds are in force, as series for dashboards to draw."""

from __future__ import annotations

from alerts.groups import availability, nodes, performance
from alerts.model import Group, Recording
from alerts.settings import Settings
from exporter.catalogue import FLEET_THRESHOLD
from ollama_fleet.levels import ABSOLUTE, number


def group(settings: Settings) -> Group:
    """Return a recording rule per threshold; the texts are those that the alerts compare with."""
    limit = number(settings.thresholds.queued_per_instance)
    texts = {
        "healthy_instances": availability.healthy_floor(settings),
        "request_latency_p99_seconds": performance.latency_limit(settings),
        "tokens_per_second": performance.speed_floor(settings),
        "node_speed_ratio": nodes.slow_ratio(settings),
        "queued_per_instance": limit,
        "availability_ratio": number(settings.slo.availability),
        "request_success_ratio": number(settings.slo.requests),
    }
    return Group(
        "ollama-fleet-thresholds",
        tuple(
            Recording(FLEET_THRESHOLD.name, _vector(text), {"name": name})
            for name, text in texts.items()
        ),
    )


def _vector(text: str) -> str:
    return f"vector({text})" if ABSOLUTE.fullmatch(text) else text
