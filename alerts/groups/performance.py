"""Rules on speed: could the fleet generate what it should, and do requests wait."""

from __future__ import annotations

from alerts.annotations import NUMBER, PERCENT, count, lowest
from alerts.groups.availability import HEALTHY, with_condition
from alerts.groups.lifecycle import limit
from alerts.model import Alert, Dashboard, Group, Recording, Severity
from alerts.names import (
    CAPACITY,
    EXPECTED,
    GENERATED,
    INVENTORY,
    MEASURED,
    MISSING,
    MODEL_SPEED,
    NODE_SPEED_RATIO,
    QUEUED,
    SPEED,
)
from alerts.promql import joined, of_size
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Condition
from ollama_fleet.levels import number, percent

WORTH_NAMING = 0.9
"""Part of its peers' speed below which a page names a node."""


def group(settings: Settings) -> Group:
    """Return the rules on generation speed and waiting requests."""
    return Group(
        "ollama-fleet-performance",
        (
            *_speeds(settings),
            _throughput_low(settings),
            _queued(settings),
            _queue_saturated(settings),
            _not_serving(settings),
            _kv_cache_saturated(settings),
        ),
    )


def speed_floor(settings: Settings) -> str:
    """Return the fleet's tokens/s below which somebody is woken, as PromQL."""
    return of_size(settings.thresholds.tokens_per_second, settings.fixed_size or EXPECTED)


def _speeds(settings: Settings) -> tuple[Recording, ...]:
    scope = settings.scope
    generated = scope.over("rate", catalogue.FLEET_GENERATED_TOKENS, settings.windows.rate)
    return (
        Recording(MODEL_SPEED, scope.fleet_sum(catalogue.FLEET_TOKENS_PER_SECOND, "model")),
        Recording(SPEED, f"sum {scope.by()} ({MODEL_SPEED})"),
        Recording(MEASURED, scope.fleet_sum(catalogue.FLEET_MEASURED_INSTANCES)),
        # Servers with counters only have no speed once they were idle for an hour. They have not
        # become slow, so they count like the mean of the others.
        Recording(
            CAPACITY,
            joined(
                f"{SPEED} / ({MEASURED} > 0) * sum {scope.by()} ({HEALTHY})",
                f"and {MEASURED}",
                f">= {number(settings.thresholds.min_measured)} * sum {scope.by()} ({HEALTHY})",
            ),
        ),
        Recording(GENERATED, scope.fleet_sum(catalogue.FLEET_GENERATED_TOKENS, inner=generated)),
    )


def _throughput_low(settings: Settings) -> Alert:
    scope, level = settings.scope, settings.thresholds.tokens_per_second
    share = f" ({level})" if level.is_per_instance else ""
    return Alert(
        name="OllamaFleetTokenThroughputLow",
        settings=(
            "thresholds.tokens_per_second",
            "thresholds.min_measured",
            *(["thresholds.min_missing"] if _is_share(settings) else []),
        ),
        expr=joined(CAPACITY, f"< {speed_floor(settings)}", *_guards(settings)),
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL,
        summary="Generation capacity of the fleet is too low.",
        description="The healthy instances can generate {{ $value | humanize }} tokens/s, less "
        "than the floor of "
        f"{count(scope, speed_floor(settings), form=NUMBER)}{share}.{_slow_nodes(settings)} This "
        "is capacity, not current load. First: see whether instances are missing, or nodes slowed "
        "down (temperature, power, a driver).",
    )


def _is_share(settings: Settings) -> bool:
    return settings.thresholds.tokens_per_second.is_per_instance and not settings.fixed_size


def _guards(settings: Settings) -> tuple[str, ...]:
    """Return what else must hold: several instances are missing, or those that serve are slow."""
    if not _is_share(settings):
        return ()
    thresholds, healthy = settings.thresholds, f"sum {settings.scope.by()} ({HEALTHY})"
    slow = f"{CAPACITY} < {of_size(thresholds.tokens_per_second, healthy)}"
    return (f"and ({MISSING} >= {thresholds.min_missing} or {slow})",)


def _slow_nodes(settings: Settings) -> str:
    slow = f"{NODE_SPEED_RATIO} < {WORTH_NAMING}"
    return lowest(settings.scope, "Slowest nodes against their peers:", "node", slow, PERCENT)


def _queued(settings: Settings) -> Recording:
    return Recording(QUEUED, settings.scope.fleet_sum(catalogue.FLEET_REQUESTS_QUEUED))


def _queue_saturated(settings: Settings) -> Alert:
    scope = settings.scope
    most = number(settings.thresholds.queued_per_instance)
    return Alert(
        name="OllamaFleetQueueSaturated",
        settings=("thresholds.queued_per_instance",),
        expr=joined(
            QUEUED,
            f"/ sum {scope.by()} ({HEALTHY})",
            f"> {most}",
        ),
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="Request queues are saturated.",
        description=(
            'Requests that wait per healthy instance: {{ $value | printf "%.1f" }}, more than '
            f"{most}. Users wait: add instances or reduce load."
        ),
    )


def _not_serving(settings: Settings) -> Alert:
    hung = with_condition(settings, Condition.NOT_SERVING)
    return Alert(
        name="OllamaFleetInstancesNotServing",
        settings=("thresholds.stuck_instances",),
        expr=f"{hung} > {limit(settings.thresholds.stuck_instances, settings)}",
        for_s=300,
        keep_firing_for_s=600,
        severity=Severity.WARNING,
        summary="Healthy instances do not serve requests.",
        description="Instances with queued requests that have generated no token for 10 minutes: "
        "{{ $value }}. A restart usually helps.",
        dashboard=Dashboard.MODELS,
    )


def _kv_cache_saturated(settings: Settings) -> Alert:
    share = settings.thresholds.kv_cache_instances
    full = with_condition(settings, Condition.KV_CACHE_FULL)
    return Alert(
        name="OllamaFleetKvCacheSaturated",
        settings=("thresholds.kv_cache_instances",),
        expr=f"{full} > ceil({number(share)} * {INVENTORY})",
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="The KV cache of many instances is full.",
        description=f"Instances that use 95% or more of their KV cache: {{{{ $value }}}}, more "
        f"than {percent(share)} of the fleet. Servers delay or abort requests when it is full: "
        "reduce parallel requests or context lengths, or add instances.",
        dashboard=Dashboard.MODELS,
    )
