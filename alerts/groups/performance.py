"""Rules on speed: does the fleet answer fast enough, could it generate what it should."""

from __future__ import annotations

from alerts.groups.availability import HEALTHY
from alerts.model import Alert, Dashboard, Group, Recording, Severity
from alerts.names import (
    CANARIES_P99,
    CAPACITY,
    EXPECTED,
    GENERATED,
    INVENTORY,
    KV_CACHE,
    LATENCY_P99,
    MEASURED,
    MODEL_SPEED,
    QUEUED,
    REQUESTS_P99,
    SPEED,
)
from alerts.promql import indented, joined, of_size
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Series
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent

QUANTILE = 0.99
COUNTED_S = 3600.0
"""How long after its last request a histogram still stands for the instances' own p99."""


def group(settings: Settings) -> Group:
    """Return the rules on latency, generation speed and waiting requests."""
    return Group(
        "ollama-fleet-performance",
        (
            *_latencies(settings),
            *_speeds(settings),
            _latency_high(settings),
            _throughput_low(settings),
            _queued(settings),
            _queue_saturated(settings),
            _not_serving(settings),
            _kv_cache(settings),
            _kv_cache_saturated(settings),
        ),
    )


def latency_limit(settings: Settings) -> str:
    """Return the p99 latency in seconds above which somebody is woken, as PromQL."""
    return number(settings.thresholds.request_latency_p99)


def speed_floor(settings: Settings) -> str:
    """Return the fleet's tokens/s below which somebody is woken, as PromQL."""
    return of_size(settings.thresholds.tokens_per_second, settings.fixed_size or EXPECTED)


def _latencies(settings: Settings) -> tuple[Recording, ...]:
    windows = settings.windows
    requests = _p99(settings, catalogue.FLEET_REQUEST_DURATION, windows.rate)
    canaries = _p99(settings, catalogue.FLEET_CANARY_DURATION, windows.canary)
    return (
        Recording(REQUESTS_P99, requests),
        Recording(CANARIES_P99, canaries),
        Recording(LATENCY_P99, _best_latency(settings)),
    )


def _p99(settings: Settings, durations: Series, window_s: float) -> str:
    scope = settings.scope
    rate = scope.over("rate", durations, window_s, suffix="_bucket")
    buckets = scope.fleet_sum(durations, "le", inner=rate, suffix="_bucket")
    return joined(
        f"histogram_quantile({QUANTILE}, {buckets})",
        f"and {scope.on()}",
        f"{_count(settings, durations, window_s)} >= {settings.thresholds.min_requests}",
    )


def _count(settings: Settings, durations: Series, window_s: float) -> str:
    scope = settings.scope
    gained = scope.over("increase", durations, window_s, suffix="_count")
    return scope.fleet_sum(durations, inner=gained, suffix="_count")


def _best_latency(settings: Settings) -> str:
    """Prefer real requests, then canaries, then what instances report.

    Of several shards' own p99 the highest counts: quantiles cannot be averaged. What instances
    report is not asked while their requests are counted: of few requests it says nothing.
    """
    scope = settings.scope
    reported = f"max {scope.by()} ({scope.last(catalogue.FLEET_REQUEST_LATENCY_P99)})"
    counted = _count(settings, catalogue.FLEET_REQUEST_DURATION, COUNTED_S)
    sources = {
        "requests": REQUESTS_P99,
        "canaries": CANARIES_P99,
        "instances": f"{reported} unless {scope.on()} {indented(counted)} > 0",
    }
    return f"\nor {scope.on()}\n".join(
        f'label_replace({latency}, "source", "{name}", "", "")' for name, latency in sources.items()
    )


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


def _latency_high(settings: Settings) -> Alert:
    return Alert(
        name="OllamaFleetLatencyP99High",
        settings=(
            "thresholds.request_latency_p99",
            "thresholds.min_requests",
            "windows.rate",
            "windows.canary",
        ),
        expr=f"{LATENCY_P99} > {latency_limit(settings)}",
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL,
        summary="Request latency p99 is too high.",
        description=(
            "One request in a hundred takes longer than {{ $value | humanizeDuration }} (source: "
            "{{ $labels.source }}); the limit is "
            f"{duration_text(settings.thresholds.request_latency_p99)}. A few overloaded instances "
            "are enough: check the load balancing."
        ),
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
