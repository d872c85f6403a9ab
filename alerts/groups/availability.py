"""Rules on counts: how many instances are there, and are those healthy that should be."""

from __future__ import annotations

from alerts.annotations import VALUE, count, most
from alerts.model import Alert, Dashboard, Group, Recording, Severity
from alerts.names import (
    AVAILABLE,
    AVAILABLE_RATIO,
    CONDITIONS,
    EXPECTED,
    INSTANCES,
    INVENTORY,
    LOSS,
    MISSING,
    MODEL_EXPECTED,
    MODEL_INSTANCES,
    MODEL_INVENTORY,
    NODE_INSTANCES,
)
from alerts.promql import Scope, joined, of_size
from alerts.settings import LOOKBACK_SCRAPES, Settings
from exporter import catalogue
from exporter.catalogue import Condition
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent

HEALTHY = f'{INSTANCES}{{status="healthy"}}'
EXCUSED = 'status=~"draining|provisioning|starting|away"'
"""Matches instances that need not serve."""
FAILING = 'status=~"unhealthy|unreachable|loading|unknown"'
"""Matches instances that should serve and do not."""

NONE_LEFT = f"{AVAILABLE} == 0 and {EXPECTED} > 0"
"""Where nothing is left there is an outage, however few there were."""

LOSS_S = 900.0
"""What a loss is measured in: a quarter of an hour is compared with the one before."""
LASTING_S = 2700.0
"""A loss that continues is seen at every moment of this time; a single step for half an hour."""
STEADY = 0.25
"""And is at no moment smaller than this part of its mean."""
NORMAL = 0.98
"""For this part of the time no more are missing than is normal."""


def group(settings: Settings) -> Group:
    """Return the recording rules that all others build on, and the alerts on counts."""
    return Group(
        "ollama-fleet-availability",
        (
            *_counts(settings),
            *_losses(),
            _healthy_low(settings),
            _capacity_low(settings),
            _model_unavailable(settings),
            _model_instances_down(settings),
        ),
    )


def healthy_floor(settings: Settings) -> str:
    """Return the number of healthy instances below which somebody is woken, as PromQL."""
    level = settings.thresholds.healthy_instances
    if settings.fixed_size or not level.is_per_instance:
        return of_size(level, settings.fixed_size or INVENTORY)
    # Rounded down: of a fleet of 50 the loss of a single instance must wake nobody.
    return f"floor({of_size(level, EXPECTED)})"


def too_many(share: float, settings: Settings) -> str:
    """Return the number of instances beyond which somebody is woken, as PromQL.

    The share is rounded up, so it takes two instances at least.
    """
    least = settings.thresholds.min_missing - 1
    limit = f"ceil({number(share)} * {EXPECTED})"
    return limit if least <= 1 else f"clamp_min({limit}, {least})"


def failing_nodes(settings: Settings) -> str:
    """Return the sentence of an annotation on the nodes where most instances fail."""
    scope = settings.scope
    failing = f'sum {scope.by("node")} ({NODE_INSTANCES}{{node!="", {FAILING}}})'
    return most(scope, "node", failing, all_of=NODE_INSTANCES)


def failing_models(settings: Settings) -> str:
    """Return the sentence of an annotation on the models whose instances mostly fail."""
    scope = settings.scope
    failing = f'sum {scope.by("model")} ({MODEL_INSTANCES}{{model!="", {FAILING}}})'
    return most(scope, "model", failing, all_of=MODEL_INSTANCES)


def with_condition(settings: Settings, condition: Condition) -> str:
    """Return how many instances have a condition, by cluster, as PromQL."""
    return f'sum {settings.scope.by()} ({CONDITIONS}{{condition="{condition}"}})'


def polled_shards(scope: Scope) -> str:
    """Return a series for each shard that an exporter polls, as PromQL."""
    return f"max {scope.by('shard')} ({scope.last(catalogue.FLEET_INVENTORY_INSTANCES)})"


def unpolled_shards(scope: Scope) -> str:
    """Return how many shards no exporter polls, where there are any, as PromQL."""
    shards = f"max {scope.by()} ({scope.last(catalogue.EXPORTER_SHARDS)})"
    # An exporter that does not poll, or has just started, publishes nothing of its shard.
    return joined(shards, f"- count {scope.by()} ({polled_shards(scope)})", "> 0")


def _counts(settings: Settings) -> tuple[Recording, ...]:
    scope = settings.scope
    excused = f"sum {scope.by()} ({INSTANCES}{{{EXCUSED}}})"
    return (
        Recording(INSTANCES, scope.fleet_sum(catalogue.FLEET_INSTANCES, "status")),
        Recording(INVENTORY, scope.fleet_sum(catalogue.FLEET_INVENTORY_INSTANCES)),
        Recording(EXPECTED, f"{INVENTORY} - {excused}"),
        Recording(AVAILABLE, _available(settings)),
        Recording(AVAILABLE_RATIO, f"{AVAILABLE} / ({EXPECTED} > 0)"),
        Recording(MODEL_INSTANCES, scope.fleet_sum(catalogue.MODEL_INSTANCES, "model", "status")),
        Recording(CONDITIONS, scope.fleet_sum(catalogue.FLEET_INSTANCE_CONDITIONS, "condition")),
        Recording(MODEL_INVENTORY, _by_model(settings)),
        Recording(MODEL_EXPECTED, _model_expected(settings)),
    )


def _available(settings: Settings) -> str:
    """Return how many instances serve, or did until a moment ago.

    Of replicas the one with the fewest recent failures counts: after its start an exporter takes
    every failure for a recent one.
    """
    scope, series = settings.scope, catalogue.FLEET_RECENTLY_FAILED_INSTANCES
    recent = f"min {scope.by(*series.labels)} ({scope.last(series)})"
    return f"sum {scope.by()} ({HEALTHY}) + sum {scope.by()} ({recent})"


def _by_model(settings: Settings) -> str:
    """Return the instances of each model, whatever their status.

    Each exporter's statuses are added up first, and the lookback is that of the sum: an instance
    whose status changes counts once, also where replicas disagree about it.
    """
    scope = settings.scope
    labels = ("job", "instance", *catalogue.SHARD, "model")
    counts = f"sum {scope.by(*labels)} ({scope.raw(catalogue.MODEL_INSTANCES)})"
    span, step = (duration_text(scope.lookback_s / part) for part in (1, LOOKBACK_SCRAPES))
    each = f"max {scope.by(*catalogue.SHARD, 'model')} (last_over_time(({counts})[{span}:{step}]))"
    return f"sum {scope.by('model')} ({each})"


def _model_expected(settings: Settings) -> str:
    excused = f"sum {settings.scope.by('model')} ({MODEL_INSTANCES}{{{EXCUSED}}})"
    # Of a model only those statuses are published that some of its instances have.
    return f"{MODEL_INVENTORY} - ({excused} or 0 * {MODEL_INVENTORY})"


def _losses() -> tuple[Recording, ...]:
    """Return what is missing, and how many more than a quarter of an hour before.

    Missing instances are compared, not healthy ones: a fleet made smaller on purpose misses none.
    """
    window = f"{MISSING}[{duration_text(LOSS_S)}]"
    before = f"avg_over_time({window} offset {duration_text(LOSS_S)})"
    return (
        Recording(MISSING, f"{EXPECTED} - {AVAILABLE}"),
        Recording(LOSS, f"avg_over_time({window}) - {before}"),
    )


def _above_floor(settings: Settings) -> tuple[str, str, str]:
    """Return what is compared with the floor, the floor, and in words what is compared."""
    floor = healthy_floor(settings)
    if EXPECTED in floor:
        return AVAILABLE, floor, "healthy"
    # Against a fixed number, what is out of service on purpose must count as being there.
    counted = f"{AVAILABLE} + ({INVENTORY} - {EXPECTED})"
    return counted, floor, "healthy or out of service on purpose"


def _healthy_low(settings: Settings) -> Alert:
    scope, (counted, floor, those) = settings.scope, _above_floor(settings)
    if is_share := counted == AVAILABLE:
        low, out_of = _low_share(settings, floor), EXPECTED
    else:
        low, out_of = _low_number(settings, counted, floor), INVENTORY
    share = f" ({settings.thresholds.healthy_instances})" if is_share else ""
    return Alert(
        name="OllamaFleetHealthyInstancesLow",
        settings=(
            "thresholds.healthy_instances",
            *(["thresholds.min_missing"] if is_share else []),
        ),
        expr=low,
        # Two scrapes, after the exporter's poll.grace-period: who fails for less is not missing.
        for_s=2 * settings.prometheus.scrape_interval,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="Too few instances are healthy.",
        description=f"Instances {those}: {VALUE}{count(scope, out_of, before=' of ')}, floor "
        f"{count(scope, floor)}{share}."
        f"{failing_nodes(settings)}{failing_models(settings)} Requests pile up on the others. "
        "First: see whether those that fail share a rack, a switch, a model or a rollout.",
    )


def _low_number(settings: Settings, counted: str, floor: str) -> str:
    """Return the healthy instances if they are too few, wherever all shards are counted."""
    on = settings.scope.on()
    return joined(
        counted, f"< {floor}", f"unless {on} {unpolled_shards(settings.scope)}", "or", NONE_LEFT
    )


def _low_share(settings: Settings, floor: str) -> str:
    """Return the healthy instances if they are too few, or none, of those that should serve."""
    least = settings.thresholds.min_missing
    low = f"{AVAILABLE} < {floor}"
    is_rounded = least <= 2 and settings.thresholds.healthy_instances.value < 1
    if not is_rounded:
        low = joined(low, f"and {MISSING} >= {least}")
    return joined(low, "or", NONE_LEFT)


def _capacity_low(settings: Settings) -> Alert:
    scope, (counted, floor, _) = settings.scope, _above_floor(settings)
    trend, lasting, hour = map(
        duration_text, (settings.windows.trend, LASTING_S, LASTING_S + LOSS_S)
    )
    mean = f"avg_over_time({LOSS}[{lasting}])"
    normal = f"quantile_over_time({number(NORMAL)}, {MISSING}[{trend}] offset {hour})"
    return Alert(
        name="OllamaFleetCapacityLow",
        settings=("thresholds.healthy_instances", "windows.trend", "windows.horizon"),
        expr=joined(
            f"({counted} - {floor} >= 0) / {mean} * {number(LOSS_S)}"
            f" < {number(settings.windows.horizon)}",
            f"and min_over_time({LOSS}[{lasting}]) > {number(STEADY)} * {mean}",
            # Instances that die one by one and come back together lose no capacity.
            f"and {MISSING} > {normal}",
        ),
        for_s=300,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Instances are lost one after the other.",
        description=f"{{{{ $value | humanizeDuration }}}} until the floor ({count(scope, floor)}) "
        f"is reached, if the loss of the last {hour} continues. Instances healthy now: "
        f"{count(scope, AVAILABLE)}{count(scope, EXPECTED, before=' of ')}."
        f"{failing_nodes(settings)}{failing_models(settings)} First: "
        "restart or replace what has been failing for longest.",
    )


def _model_unavailable(settings: Settings) -> Alert:
    scope, least = settings.scope, settings.thresholds.min_model_instances
    failing = f'{MODEL_INSTANCES}{{model!="", {FAILING}}}'
    return Alert(
        name="OllamaModelUnavailable",
        settings=("thresholds.min_model_instances",),
        expr=joined(
            f'sum {scope.by("model")} ({MODEL_INSTANCES}{{model!="", status="healthy"}}) == 0',
            f"and {scope.on('model')}",
            f"sum {scope.by('model')} ({failing}) >= {least}",
            # Nothing of the fleet is left: that is another page, and this would be one per model.
            f"unless {scope.on()} {AVAILABLE} == 0",
        ),
        for_s=180,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL,
        summary="No instance of a model is healthy.",
        description=f"Instances of {{{{ $labels.model }}}} healthy: {VALUE}"
        f"{count(scope, MODEL_INVENTORY, 'model', before=' of ')}. Every request for this "
        "model fails, even if the fleet's count looks good. First: look at the log of one of "
        "them, and at what was rolled out last.",
        dashboard=Dashboard.MODELS,
        dashboard_query="var-model={{ $labels.model | urlquery }}",
    )


def _model_instances_down(settings: Settings) -> Alert:
    scope, thresholds = settings.scope, settings.thresholds
    share, least = thresholds.model_instances_down, thresholds.min_model_instances
    healthy = f'sum {scope.by("model")} ({MODEL_INSTANCES}{{status="healthy"}})'
    return Alert(
        name="OllamaModelInstancesDown",
        settings=("thresholds.model_instances_down", "thresholds.min_model_instances"),
        expr=joined(
            f'{MODEL_EXPECTED}{{model!=""}} - {healthy}',
            f"> clamp_min({number(share)} * {MODEL_EXPECTED}, {least - 1})",
        ),
        for_s=180,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="Many instances of a model fail.",
        description=f"Instances of {{{{ $labels.model }}}} failing: {VALUE}"
        f"{count(scope, MODEL_EXPECTED, 'model', before=' of ')}, more than "
        f"{percent(share)}. The others take their requests. First: see whether those that fail "
        f"share a node or a version.",
        dashboard=Dashboard.MODELS,
        dashboard_query="var-model={{ $labels.model | urlquery }}",
    )
