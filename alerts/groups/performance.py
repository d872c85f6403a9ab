"""Rules on speed: could the fleet generate what it should, and do requests wait."""

from __future__ import annotations

from alerts.groups.availability import HEALTHY
from alerts.model import Alert, Dashboard, Group, Recording, Severity
from alerts.names import (
    CAPACITY,
    EXPECTED,
    GENERATED,
    INVENTORY,
    KV_CACHE,
    MEASURED,
    MODEL_SPEED,
    QUEUED,
    SPEED,
)
from alerts.promql import joined, of_size
from alerts.settings import Settings
from exporter import catalogue
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent


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
            _kv_cache(settings),
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
    return Alert(
        name="OllamaFleetTokenThroughputLow",
        settings=(
            "thresholds.tokens_per_second",
            "thresholds.min_measured",
            "windows.provisioning",
        ),
        expr=joined(CAPACITY, f"< {speed_floor(settings)}"),
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL,
        summary="Generation capacity of the fleet is too low.",
        description=(
            "The healthy instances can generate {{ $value | humanize }} tokens/s, less than the "
            f"floor of {settings.thresholds.tokens_per_second}. This is capacity, not current "
            "load: hardware slowed down or instances are missing."
        ),
    )


def _queued(settings: Settings) -> Recording:
    scope = settings.scope
    queued = scope.per_instance(scope.raw(catalogue.INSTANCE_REQUESTS_QUEUED))
    return Recording(QUEUED, f"sum {scope.by()} ({queued})")


def _queue_saturated(settings: Settings) -> Alert:
    scope = settings.scope
    limit = number(settings.thresholds.queued_per_instance)
    return Alert(
        name="OllamaFleetQueueSaturated",
        settings=("thresholds.queued_per_instance",),
        expr=joined(
            scope.last(QUEUED),
            f"/ sum {scope.by()} ({HEALTHY})",
            f"> {limit}",
        ),
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="Request queues are saturated.",
        description=(
            '{{ $value | printf "%.1f" }} requests wait per healthy instance, more than '
            f"{limit}. Users wait: add instances or reduce load."
        ),
    )


def _not_serving(settings: Settings) -> Alert:
    scope, window_s = settings.scope, settings.windows.stuck
    waiting = scope.over("min_over_time", catalogue.INSTANCE_REQUESTS_QUEUED, window_s)
    generating = scope.over("rate", catalogue.INSTANCE_GENERATED_TOKENS, window_s)
    limit = of_size(settings.thresholds.stuck_instances, settings.fixed_size or EXPECTED)
    same = scope.on("instance_id")
    return Alert(
        name="OllamaFleetInstancesNotServing",
        settings=("thresholds.stuck_instances", "windows.stuck"),
        expr=joined(
            f"count {scope.by()} (",
            f"  {scope.per_instance(waiting)} > 0",
            # It must still be there: the window also sees those that have left since.
            f"  and {same} {scope.per_instance(scope.last(catalogue.INSTANCE_REQUESTS_QUEUED))}",
            f"  and {same} {scope.per_instance(generating)} == 0",
            ")",
            f"> {limit}",
            f"and {scope.on()} {scope.covered(INVENTORY, window_s)}",
        ),
        for_s=300,
        keep_firing_for_s=600,
        severity=Severity.WARNING,
        summary="Healthy instances do not serve requests.",
        description=(
            f"{{{{ $value }}}} instances had queued requests for {duration_text(window_s)} and "
            "generated no token. A restart usually helps."
        ),
        dashboard=Dashboard.MODELS,
    )


def _kv_cache(settings: Settings) -> Recording:
    """Return the rule of one quantile, which costs less than two counts of all instances."""
    scope = settings.scope
    below = number(round(1 - settings.thresholds.kv_cache_instances, 12))
    usage = scope.raw(catalogue.INSTANCE_KV_CACHE_USAGE)
    return Recording(KV_CACHE, f"quantile {scope.by()} ({below}, {usage})")


def _kv_cache_saturated(settings: Settings) -> Alert:
    thresholds = settings.thresholds
    return Alert(
        name="OllamaFleetKvCacheSaturated",
        settings=("thresholds.kv_cache", "thresholds.kv_cache_instances"),
        expr=f"{settings.scope.last(KV_CACHE)} > {number(thresholds.kv_cache)}",
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="The KV cache of many instances is full.",
        description=(
            f"{percent(thresholds.kv_cache_instances)} of the instances use {{{{ $value | "
            "humanizePercentage }} or more of their KV cache. Servers delay or abort requests when "
            "it is full: reduce parallel requests or context lengths, or add instances."
        ),
        dashboard=Dashboard.MODELS,
    )
