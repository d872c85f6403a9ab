"""Rules on counts: how many instances are there, and are those healthy that should be."""

from __future__ import annotations

from alerts.annotations import VALUE, count, most
from alerts.model import Alert, Dashboard, Group, Recording, Severity
from alerts.names import (
    CONDITIONS,
    DRAINED,
    EXPECTED,
    HEALTHY_RATIO,
    INSTANCES,
    INVENTORY,
    MODEL_INSTANCES,
    MODEL_INVENTORY,
    NODE_INSTANCES,
    STUCK,
)
from alerts.promql import joined, of_size
from alerts.settings import LOOKBACK_SCRAPES, Settings
from exporter import catalogue
from exporter.catalogue import Condition
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number

HEALTHY = f'{INSTANCES}{{status="healthy"}}'
PROVISIONING = f'{INSTANCES}{{status="provisioning"}}'


def group(settings: Settings) -> Group:
    """Return the recording rules that all others build on, and the alerts on counts."""
    return Group(
        "ollama-fleet-availability",
        (
            *_counts(settings),
            _healthy_low(settings),
            _dropping_fast(settings),
            _model_unavailable(settings),
            _capacity_low(settings),
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


def failing_statuses(settings: Settings) -> str:
    """Return the matcher of instances that should serve and do not."""
    gone = "" if settings.fleet.comes_and_goes else "|unreachable"
    return f'status=~"unhealthy{gone}|loading|unknown"'


def failing_nodes(settings: Settings) -> str:
    """Return the sentence of an annotation on the nodes where most instances fail."""
    scope = settings.scope
    gone = f'{NODE_INSTANCES}{{node!="", {failing_statuses(settings)}}}'
    failing = f"sum {scope.by('node')} ({gone})"
    return most(scope, "node", failing, all_of=NODE_INSTANCES)


def failing_models(settings: Settings) -> str:
    """Return the sentence of an annotation on the models of which most instances fail."""
    scope = settings.scope
    gone = f'{MODEL_INSTANCES}{{model!="", {failing_statuses(settings)}}}'
    failing = f"sum {scope.by('model')} ({gone})"
    return most(scope, "model", failing, all_of=MODEL_INSTANCES)


def with_condition(settings: Settings, condition: Condition) -> str:
    """Return how many instances have a condition, by cluster, as PromQL."""
    return f'sum {settings.scope.by()} ({CONDITIONS}{{condition="{condition}"}})'


def _counts(settings: Settings) -> tuple[Recording, ...]:
    scope, window = settings.scope, duration_text(settings.windows.provisioning)
    left = "|unreachable" if settings.fleet.comes_and_goes else ""
    withdrawn = f'{INSTANCES}{{status=~"draining|provisioning{left}"}}'
    return (
        Recording(INSTANCES, scope.fleet_sum(catalogue.FLEET_INSTANCES, "status")),
        Recording(INVENTORY, scope.fleet_sum(catalogue.FLEET_INVENTORY_INSTANCES)),
        # Without history nothing is stuck: a fleet that just comes up pages nobody.
        Recording(
            STUCK,
            joined(
                f"sum {scope.by()} (",
                f"  min_over_time({PROVISIONING}[{window}])",
                f"  and {PROVISIONING} offset {window}",
                "  or",
                f"  0 * {PROVISIONING}",
                ")",
            ),
        ),
        Recording(DRAINED, _drained(settings)),
        Recording(EXPECTED, f"{INVENTORY} - (sum {scope.by()} ({withdrawn}) - {STUCK})"),
        Recording(HEALTHY_RATIO, f"sum {scope.by()} ({HEALTHY}) / ({EXPECTED} > 0)"),
        Recording(MODEL_INSTANCES, scope.fleet_sum(catalogue.MODEL_INSTANCES, "model", "status")),
        Recording(CONDITIONS, scope.fleet_sum(catalogue.FLEET_INSTANCE_CONDITIONS, "condition")),
        Recording(MODEL_INVENTORY, _by_model(settings)),
    )


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


def _drained(settings: Settings) -> str:
    """Return how many instances left since the evaluation before, as far as they were drained.

    The smaller of the two: what left the inventory, and what was draining before.
    """
    scope, interval = settings.scope, duration_text(settings.prometheus.evaluation_interval)
    draining = f'sum {scope.by()} ({INSTANCES}{{status="draining"}} offset {interval})'
    return joined(
        f"clamp_min({INVENTORY} offset {interval} - {INVENTORY}, 0) < {draining}",
        "or",
        draining,
    )


def _healthy_low(settings: Settings) -> Alert:
    scope, floor = settings.scope, healthy_floor(settings)
    healthy, those, out_of = f"sum {scope.by()} ({HEALTHY})", "healthy", EXPECTED
    share = ""
    if is_share := EXPECTED in floor:
        share = f" ({settings.thresholds.healthy_instances})"
        low = _low_share(settings, healthy, floor)
    else:
        # Against a fixed number, what is out of service on purpose must count as being there.
        low = joined(f"{healthy} + ({INVENTORY} - {EXPECTED})", f"< {floor}")
        those, out_of = "healthy or out of service on purpose", INVENTORY
    return Alert(
        name="OllamaFleetHealthyInstancesLow",
        settings=(
            "thresholds.healthy_instances",
            *(["thresholds.min_missing"] if is_share else []),
            "windows.provisioning",
        ),
        expr=low,
        for_s=120,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="Too few instances are healthy.",
        description=(
            f"{VALUE}{count(scope, out_of, before=' of ')} instances {those}, floor "
            f"{count(scope, floor)}{share}."
            f"{failing_nodes(settings)}{failing_models(settings)} Requests pile up on the others. "
            "First: see whether those that fail share a rack, a switch, a model or a rollout."
        ),
    )


def _low_share(settings: Settings, healthy: str, floor: str) -> str:
    """Return the healthy instances if they are too few, or none, of those that should serve."""
    scope, least = settings.scope, settings.thresholds.min_missing
    low = f"{healthy} < {floor}"
    is_rounded = least <= 2 and settings.thresholds.healthy_instances.value < 1
    if not is_rounded:
        low = joined(f"({low}", f"and {scope.on()} {EXPECTED} - {healthy} >= {least})")
    # Where nothing is left there is an outage, however few there were: the floor of one is one.
    return joined(low, "or", f"{healthy} == 0 and {EXPECTED} > 0")


def _dropping_fast(settings: Settings) -> Alert:
    scope, window = settings.scope, duration_text(settings.windows.drop)
    share = number(settings.thresholds.healthy_drop)
    missing = f"({EXPECTED} - sum {scope.by()} ({HEALTHY}))"
    before = f"({EXPECTED} offset {window} - sum {scope.by()} ({HEALTHY} offset {window}))"
    return Alert(
        name="OllamaFleetHealthDroppingFast",
        settings=("thresholds.healthy_drop", "windows.drop", "windows.provisioning"),
        # Missing instances are compared, not healthy ones: a fleet made smaller on purpose has
        # fewer healthy instances, and misses none.
        expr=joined(missing, f"- {before}", f"> ceil({share} * {INVENTORY})"),
        for_s=60,
        keep_firing_for_s=300,
        # One host that reboots takes a large share of a small fleet. A loss that lasts pages by
        # the floor, a minute later.
        severity=Severity.WARNING,
        summary="The fleet is losing healthy instances fast.",
        description=(
            f"{{{{ $value }}}} instances that should serve were lost within {window}. Typical "
            "causes: a rack, a switch or a bad rollout."
        ),
    )


def _model_unavailable(settings: Settings) -> Alert:
    scope, least = settings.scope, settings.thresholds.min_model_instances
    failing = f'{MODEL_INSTANCES}{{model!="", {failing_statuses(settings)}}}'
    return Alert(
        name="OllamaModelUnavailable",
        settings=("thresholds.min_model_instances",),
        expr=joined(
            f'sum {scope.by("model")} ({MODEL_INSTANCES}{{model!="", status="healthy"}}) == 0',
            f"and {scope.on('model')}",
            f"sum {scope.by('model')} ({failing}) >= {least}",
        ),
        for_s=180,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL,
        summary="No instance of a model is healthy.",
        description=(
            f"{VALUE}{count(scope, MODEL_INVENTORY, 'model', before=' of ')} instances of "
            "{{ $labels.model }} are healthy. Every request for this model fails, even if the "
            "fleet's count looks good. First: look at the log of one of them, and at what was "
            "rolled out last."
        ),
        dashboard=Dashboard.MODELS,
        dashboard_query="var-model={{ $labels.model | urlquery }}",
    )


def _capacity_low(settings: Settings) -> Alert:
    windows = settings.windows
    trend_s, horizon = windows.trend, duration_text(windows.horizon)
    floor = number(settings.thresholds.capacity)
    return Alert(
        name="OllamaFleetCapacityLow",
        settings=(
            "thresholds.capacity",
            "windows.trend",
            "windows.horizon",
            "windows.provisioning",
        ),
        expr=joined(
            f"predict_linear({HEALTHY_RATIO}[{duration_text(trend_s)}], {number(windows.horizon)})"
            f" < {floor}",
            # After an outage that is over the trend stays steep for hours.
            f"and {HEALTHY_RATIO} < avg_over_time({HEALTHY_RATIO}[{duration_text(trend_s)}])",
            # Of a short history any stumble makes a steep trend.
            f"and {settings.scope.covered(HEALTHY_RATIO, trend_s)}",
        ),
        for_s=1800,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="Too few instances will be healthy soon.",
        description=(
            f"If the trend of the last {duration_text(trend_s)} continues, {{{{ $value | "
            "humanizePercentage }} of the instances that should serve will be healthy in "
            f"{horizon}."
        ),
    )
