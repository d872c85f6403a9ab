"""What dashboards draw over time and no alert needs: spreads over instances, sums per node, model.

A chart over six hours asks for hundreds of points. Of 10,000 instances each that would take
seconds; what is recorded once a minute is there at once.
"""

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
from ollama_fleet.levels import number

QUANTILES_ABOVE = (0.5, 0.9, 0.99)
"""Of what hurts when it is high."""
QUANTILES_BELOW = (0.5, 0.1, 0.01)
"""Of what hurts when it is low."""
EVERY = 4
"""In evaluation intervals: a spread changes slowly, and each costs a look at every instance."""
RECENT_S = 300.0


def group(settings: Settings) -> Group:
    """Return the recording rules that only dashboards read."""
    latency, speed = catalogue.INSTANCE_LATENCY_P99, catalogue.INSTANCE_TOKENS_PER_SECOND
    kv_cache = catalogue.INSTANCE_KV_CACHE_USAGE
    return Group(
        "ollama-fleet-spread",
        (
            *_spread(settings, LATENCY_SPREAD, latency, QUANTILES_ABOVE),
            *_spread(settings, MODEL_LATENCY_SPREAD, latency, QUANTILES_ABOVE, "model"),
            *_spread(settings, MODEL_SPEED_SPREAD, speed, QUANTILES_BELOW, "model"),
            *_spread(settings, MODEL_KV_CACHE_SPREAD, kv_cache, QUANTILES_ABOVE, "model"),
            _errors_of_nodes(settings),
            _errors_of_models(settings),
            _started(settings),
        ),
        every=EVERY,
    )


def _spread(
    settings: Settings, name: str, series: Series, quantiles: tuple[float, ...], *labels: str
) -> tuple[Recording, ...]:
    """Return a rule per quantile. Replicas all tell of each instance, so none weighs more."""
    scope = settings.scope
    each = scope.raw(series)
    if "model" in labels:
        each = scope.with_model(each)
    return tuple(
        Recording(
            name,
            f"quantile {scope.by(*labels)} ({number(q)}, {each})",
            {"quantile": number(q)},
        )
        for q in quantiles
    )


def _errors_of_nodes(settings: Settings) -> Recording:
    scope = settings.scope
    errors = scope.over("rate", catalogue.NODE_ERRORS, RECENT_S)
    return Recording(NODE_ERRORS, scope.fleet_sum(catalogue.NODE_ERRORS, "node", inner=errors))


def _errors_of_models(settings: Settings) -> Recording:
    """Return the rule for what no exporter adds up."""
    scope = settings.scope
    errors = scope.with_model(scope.over("rate", catalogue.INSTANCE_ERRORS, RECENT_S))
    each = scope.per_instance(errors, "model", "error_type")
    return Recording(MODEL_ERRORS, f"sum {scope.by('model')} ({each})")


def _started(settings: Settings) -> Recording:
    scope = settings.scope
    started = scope.per_instance(scope.raw(catalogue.INSTANCE_START_TIME), "node")
    return Recording(
        NODE_STARTED, f"count {scope.by('node')} (time() - {started} < {number(RECENT_S)})"
    )
