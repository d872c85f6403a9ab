"""Rules on the life of instances: do they restart, age or drift apart as they should not."""

from __future__ import annotations

from alerts import series
from alerts.annotations import VALUE
from alerts.groups.availability import with_condition
from alerts.model import Alert, Dashboard, Group, Recording, Severity
from alerts.names import INVENTORY, OLD, OVERDUE, RESTARTS, VERSIONS
from alerts.promql import joined, of_size
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Condition
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import Level

EVERY = 4
"""In evaluation intervals: two rules look at every instance, and nothing here is in a hurry."""
GRACE_S = 21_600.0
"""How late a rotation may be before an alert fires."""
PLANNED = 'reason=~"rotated|changed|replaced|drained|node_removed"'
"""Of replacements: what the provisioner does because somebody wants it."""
OUT_OF_MEMORY = 'error_type="out_of_memory"'


def group(settings: Settings) -> Group:
    """Return the alerts on flapping, memory, age and versions."""
    return Group(
        "ollama-fleet-lifecycle",
        (
            _flapping(settings),
            _restarts(settings),
            _restarts_high(settings),
            _out_of_memory(settings),
            *_counts(settings),
            _rotation_overdue(settings),
            _rotation_critical(settings),
            _version_skew(settings),
        ),
        every=EVERY,
    )


def limit(level: Level, settings: Settings) -> str:
    """Return a number of instances, rounded up: in a small fleet one instance is nobody's alert."""
    text = of_size(level, settings.fixed_size or INVENTORY)
    return f"ceil({text})" if INVENTORY in text else text


def _flapping(settings: Settings) -> Alert:
    flapping = with_condition(settings, Condition.FLAPPING)
    return Alert(
        name="OllamaFleetInstancesFlapping",
        settings=("thresholds.flapping_instances",),
        expr=f"{flapping} > {limit(settings.thresholds.flapping_instances, settings)}",
        for_s=300,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Many instances are flapping.",
        description="Instances that changed between up and down more than 4 times in 15 minutes: "
        "{{ $value }}. They crash and restart, or their health checks time out under load.",
    )


def _restarts(settings: Settings) -> Recording:
    scope = settings.scope
    seen = scope.over("increase", catalogue.FLEET_RESTARTS, settings.windows.changes)
    return Recording(RESTARTS, scope.fleet_sum(catalogue.FLEET_RESTARTS, inner=seen))


def _restarts_high(settings: Settings) -> Alert:
    scope, window_s = settings.scope, settings.windows.changes
    planned = settings.provisioner_scope.over(
        "increase", series.REPLACEMENTS, window_s, where=PLANNED
    )
    return Alert(
        name="OllamaFleetRestartsHigh",
        settings=("thresholds.restarts", "windows.changes"),
        expr=joined(
            f"{RESTARTS} - (sum {scope.by()} ({planned}) or {scope.on()} 0 * {RESTARTS})",
            f"> {limit(settings.thresholds.restarts, settings)}",
        ),
        for_s=300,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Instances restart too often.",
        description=f"Restarts of instances in {duration_text(window_s)}: {VALUE}, "
        "without those that the provisioner planned. Each aborts the running requests and "
        "loads the model again. Usual causes: a crash loop, or a rollout that replaces "
        "everything at once.",
    )


def _out_of_memory(settings: Settings) -> Alert:
    scope, window_s = settings.scope, settings.windows.out_of_memory
    gained = scope.over("increase", catalogue.FLEET_ERRORS, window_s, where=OUT_OF_MEMORY)
    return Alert(
        name="OllamaFleetOutOfMemoryRestarts",
        settings=("thresholds.out_of_memory", "windows.out_of_memory"),
        expr=joined(
            scope.fleet_sum(catalogue.FLEET_ERRORS, inner=gained),
            f"> {limit(settings.thresholds.out_of_memory, settings)}",
        ),
        for_s=60,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Instances run out of memory and restart.",
        description=f"Out-of-memory errors in {duration_text(window_s)}: {VALUE}. "
        "Each aborts the running requests. Usual cause: too many concurrent requests per "
        "instance.",
    )


def _counts(settings: Settings) -> tuple[Recording, ...]:
    """Return how many instances are too old, and how many run each version.

    Ages are the one figure that is read per instance, and compared as raw samples: whatever makes
    10,000 new series first, even `time() - …`, costs several times as much.
    """
    scope, thresholds, versions = (
        settings.scope,
        settings.thresholds,
        catalogue.FLEET_ENGINE_INSTANCES,
    )
    known = scope.last(versions, where='version!=""')
    return (
        # Of a fleet that is rotated weekly some instance is always a few minutes over.
        Recording(OVERDUE, _older(settings, thresholds.rotation_age + GRACE_S)),
        Recording(OLD, _older(settings, thresholds.rotation_critical_age)),
        Recording(VERSIONS, scope.fleet_sum(versions, "engine", "version", inner=known)),
    )


def _older(settings: Settings, age_s: float) -> str:
    scope, started = settings.scope, settings.scope.raw(catalogue.INSTANCE_START_TIME)
    old = f"{started} < time() - {round(age_s)}"
    return f"count {scope.by()} (count {scope.by('instance_id')} ({old}))"


def _rotation_overdue(settings: Settings) -> Alert:
    age_s = settings.thresholds.rotation_age
    return Alert(
        name="OllamaFleetRotationOverdue",
        settings=("thresholds.rotation_age",),
        expr=settings.scope.last(OVERDUE),
        for_s=900,
        keep_firing_for_s=1800,
        severity=Severity.WARNING,
        summary="Instances are overdue for rotation.",
        description=f"Instances that have been running for longer than {duration_text(age_s)}, and "
        f"{duration_text(GRACE_S)} more: {{{{ $value }}}}. Rotation is stuck or does not cover "
        "them.",
    )


def _rotation_critical(settings: Settings) -> Alert:
    age_s = settings.thresholds.rotation_critical_age
    return Alert(
        name="OllamaFleetRotationCritical",
        settings=("thresholds.rotation_critical_age", "thresholds.rotation_critical_instances"),
        expr=joined(
            settings.scope.last(OLD),
            f"> {limit(settings.thresholds.rotation_critical_instances, settings)}",
        ),
        for_s=3600,
        keep_firing_for_s=3600,
        severity=Severity.WARNING,
        summary="Many instances are old enough to leak memory.",
        description=f"Instances that have been running for longer than {duration_text(age_s)}: "
        "{{ $value }}. They leak memory until they are killed. Rotate them now, one node at a "
        "time.",
    )


def _version_skew(settings: Settings) -> Alert:
    return Alert(
        name="OllamaFleetVersionSkew",
        settings=("thresholds.versions",),
        expr=f"count {settings.scope.by('engine')} ({VERSIONS}) > {settings.thresholds.versions}",
        for_s=86_400,
        keep_firing_for_s=3600,
        severity=Severity.INFO,
        summary="Instances of one engine run several versions.",
        description="Versions of {{ $labels.engine }} that have been running side by side for a "
        "day: {{ $value }}. A rollout got stuck, or nodes were left out of it.",
        dashboard=Dashboard.MODELS,
    )
