"""What dashboards draw over time and no alert needs: spreads over instances, errors, starts."""

from __future__ import annotations

from alerts.model import Group, Recording
from alerts.names import (
    LATENCY_SPREAD,
    MODEL_ERRORS,
    MODEL_KV_CACHE_SPREAD,
    MODEL_LATENCY_SPREAD,
    MODEL_SPEED_SPREAD,
    NODE_ERRORS,
    NODE_STARTED,
)
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Series

EVERY = 4
"""In evaluation intervals: a spread changes slowly."""
RECENT_S = 300.0
SPREADS = {
    LATENCY_SPREAD: catalogue.FLEET_INSTANCE_REQUEST_LATENCY_P99,
    MODEL_LATENCY_SPREAD: catalogue.MODEL_INSTANCE_REQUEST_LATENCY_P99,
    MODEL_SPEED_SPREAD: catalogue.MODEL_INSTANCE_TOKENS_PER_SECOND,
    MODEL_KV_CACHE_SPREAD: catalogue.MODEL_INSTANCE_KV_CACHE_USAGE,
}


def group(settings: Settings) -> Group:
    """Return the recording rules that only dashboards read."""
    spreads = [
        Recording(name, settings.scope.fleet_mean(series, *series.labels[1:]))
        for name, series in SPREADS.items()
    ]
    return Group(
        "ollama-fleet-spread",
        (
            *spreads,
            _errors(settings, NODE_ERRORS, catalogue.NODE_ERRORS, "node"),
            _errors(settings, MODEL_ERRORS, catalogue.FLEET_ERRORS, "model"),
            Recording(
                NODE_STARTED, settings.scope.fleet_sum(catalogue.NODE_STARTED_INSTANCES, "node")
            ),
        ),
        every=EVERY,
    )


def _errors(settings: Settings, name: str, series: Series, label: str) -> Recording:
    errors = settings.scope.over("rate", series, RECENT_S)
    return Recording(name, settings.scope.fleet_sum(series, label, inner=errors))
