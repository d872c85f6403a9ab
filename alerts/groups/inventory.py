"""Rules on the inventory: is it still the whole list of instances, up to date, and let in service.

A bad inventory is dangerous because all ratios look fine: what is not listed is not missed, and
what is drained neither.
"""

from __future__ import annotations

from alerts.annotations import VALUE, count
from alerts.groups.lifecycle import limit
from alerts.model import Alert, Dashboard, Group, Recording, Severity
from alerts.names import DRAINED, EXPECTED, INSTANCES, INVENTORY, PERMANENT, TRANSIENT
from alerts.promql import joined
from alerts.settings import Settings
from exporter import catalogue
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent

DRAINING = f'{INSTANCES}{{status="draining"}}'
COMES_BACK = "7d:1h"
"""A fleet that comes and goes does so every week."""


def group(settings: Settings) -> Group:
    """Return the alerts on the inventory."""
    return Group(
        "ollama-fleet-inventory",
        (
            *_counts(settings),
            _shrunk(settings),
            _lost(settings),
            _empty(settings),
            _stale(settings),
            _all_drained(settings),
            _drained_long(settings),
        ),
    )


def _counts(settings: Settings) -> tuple[Recording, ...]:
    transient = settings.scope.fleet_sum(catalogue.FLEET_TRANSIENT_INSTANCES)
    return (
        Recording(TRANSIENT, transient),
        Recording(PERMANENT, f"{INVENTORY} - {TRANSIENT}"),
        Recording(DRAINED, _drained(settings)),
    )


def _drained(settings: Settings) -> str:
    """Return how many instances left since the evaluation before, as far as they were drained.

    The smaller of the two: what left the inventory, and what was draining before.
    """
    interval = duration_text(settings.prometheus.evaluation_interval)
    draining = f"sum {settings.scope.by()} ({DRAINING} offset {interval})"
    left = f"clamp_min({PERMANENT} offset {interval} - {PERMANENT}, 0)"
    return joined(f"{left} < {draining}", "or", f"{draining} <= {left}")


def _before(settings: Settings) -> str:
    """Return how many instances there would be if only drained ones had left, as PromQL."""
    window = duration_text(settings.windows.inventory)
    return f"({PERMANENT} offset {window} - sum_over_time({DRAINED}[{window}]))"


def _shrunk(settings: Settings) -> Alert:
    share, window = settings.thresholds.inventory_shrunk, duration_text(settings.windows.inventory)
    return Alert(
        name="OllamaFleetInventoryShrunk",
        settings=("thresholds.inventory_shrunk", "windows.inventory"),
        expr=joined(PERMANENT, f"< {number(round(1 - share, 12))} * {_before(settings)}"),
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="The inventory lists far fewer instances than before.",
        description=f"Instances listed: {{{{ $value }}}}; more than {percent(share)} of those of "
        f"{window} ago are gone without being drained. Instances that are not listed are not "
        "monitored, and no other alert reports them.",
        dashboard=Dashboard.EXPORTER,
    )


def _lost(settings: Settings) -> Alert:
    kept, window = 1 - settings.thresholds.inventory_lost, duration_text(settings.windows.inventory)
    return Alert(
        name="OllamaFleetInventoryLost",
        settings=("thresholds.inventory_lost", "windows.inventory"),
        expr=joined(
            PERMANENT,
            f"< {number(kept)} * {_before(settings)}",
            "or",
            f"{PERMANENT} == 0 and max_over_time({PERMANENT}[1d]) > 0",
        ),
        for_s=120,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="The inventory has lost most of the fleet.",
        description=f"Instances listed: {VALUE}"
        f"{count(settings.scope, f'{_before(settings)} > 0', before=' of ')}, less than "
        f"{percent(kept)} of those of {window} ago. The exporter polls "
        "only listed instances: most of the fleet is not monitored. First: look at what the "
        "inventory says now, and who wrote it.",
        dashboard=Dashboard.EXPORTER,
    )


def _empty(settings: Settings) -> Alert:
    return Alert(
        name="OllamaFleetInventoryEmpty",
        expr=joined(
            f"{INVENTORY} == 0",
            f"unless max_over_time({TRANSIENT}[{COMES_BACK}]) > 0",
        ),
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="The inventory lists no instance.",
        description="Instances listed: {{ $value }}. The inventory can be read and is empty. "
        "Nothing is monitored, and no other alert reports that.",
        dashboard=Dashboard.EXPORTER,
    )


def _stale(settings: Settings) -> Alert:
    age_s = settings.thresholds.inventory_age
    read_at = settings.scope.last(catalogue.EXPORTER_INVENTORY_LAST_SUCCESS)
    return Alert(
        name="OllamaFleetInventoryStale",
        settings=("thresholds.inventory_age",),
        expr=f"time() - {read_at} > {number(age_s)}",
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="An inventory cannot be read.",
        description="{{ $labels.instance }} last succeeded in reading the inventory {{ "
        "$labels.source }} {{ $value | humanizeDuration }} ago (decades mean never). It keeps the "
        "last good list; newer instances are not monitored.",
        dashboard=Dashboard.EXPORTER,
    )


def _all_drained(settings: Settings) -> Alert:
    least = settings.thresholds.min_missing - 1
    return Alert(
        name="OllamaFleetAllDrained",
        settings=("thresholds.min_missing",),
        expr=joined(
            # Not a fleet that starts, or whose laptops are closed: most of it must be drained.
            f"sum {settings.scope.by()} ({DRAINING}) > clamp_min(0.5 * {INVENTORY}, {least})",
            f"and {EXPECTED} <= 0",
        ),
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL,
        summary="The whole fleet is drained.",
        description="Instances drained: "
        f"{VALUE}{count(settings.scope, INVENTORY, before=' of ')}. None is left in service. "
        "Every request fails. First: see who drained them last; a filter that matches everything "
        "is the usual cause.",
    )


def _drained_long(settings: Settings) -> Alert:
    scope, window_s = settings.scope, settings.windows.drained
    window, most = duration_text(window_s), limit(settings.thresholds.drained_instances, settings)
    return Alert(
        name="OllamaFleetDrainedLong",
        settings=("thresholds.drained_instances", "windows.drained"),
        expr=joined(
            f"sum {scope.by()} (min_over_time({DRAINING}[{window}])) > {most}",
            f"and {scope.covered(INVENTORY, window_s)}",
        ),
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="Many instances have been drained for long.",
        description=f"Instances drained for {window}: at least {VALUE}"
        f"{count(scope, INVENTORY, before=' of ')}. They serve nobody and count as missing "
        "nowhere. First: ask who drained them; they may be forgotten.",
    )
