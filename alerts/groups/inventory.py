"""Rules on the inventory: is it still the whole list of instances, and up to date.

A bad inventory is dangerous because all ratios look fine: what is not listed is not missed.
"""

from __future__ import annotations

from alerts.model import Alert, Dashboard, Group, Severity
from alerts.names import DRAINED, INVENTORY
from alerts.promql import joined
from alerts.settings import Settings
from exporter import catalogue
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent


def group(settings: Settings) -> Group:
    """Return the alerts on the inventory."""
    shrinks = settings.fleet.comes_and_goes
    fewer = () if shrinks else (_shrunk(settings), _lost(settings))
    return Group("ollama-fleet-inventory", (*fewer, _stale(settings)))


def _before(settings: Settings) -> str:
    """Return how many instances there would be if only drained ones had left, as PromQL."""
    window = duration_text(settings.windows.inventory)
    return f"({INVENTORY} offset {window} - sum_over_time({DRAINED}[{window}]))"


def _shrunk(settings: Settings) -> Alert:
    share, window = settings.thresholds.inventory_shrunk, duration_text(settings.windows.inventory)
    return Alert(
        name="OllamaFleetInventoryShrunk",
        settings=("thresholds.inventory_shrunk", "windows.inventory"),
        expr=joined(INVENTORY, f"< {number(round(1 - share, 12))} * {_before(settings)}"),
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="The inventory lists far fewer instances than before.",
        description=(
            f"{{{{ $value }}}} instances are listed; more than {percent(share)} of those of "
            f"{window} ago are gone without being drained. Instances that are not listed are not "
            "monitored, and no other alert reports them."
        ),
        dashboard=Dashboard.EXPORTER,
    )


def _lost(settings: Settings) -> Alert:
    kept, window = 1 - settings.thresholds.inventory_lost, duration_text(settings.windows.inventory)
    return Alert(
        name="OllamaFleetInventoryLost",
        settings=("thresholds.inventory_lost", "windows.inventory"),
        expr=joined(
            INVENTORY,
            f"< {number(kept)} * {_before(settings)}",
            "or",
            f"{INVENTORY} == 0 and max_over_time({INVENTORY}[1d]) > 0",
        ),
        for_s=120,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="The inventory has lost most of the fleet.",
        description=(
            f"{{{{ $value }}}} instances are listed, less than {percent(kept)} of those of "
            f"{window} ago. The exporter polls only listed instances: most of the fleet is not "
            "monitored."
        ),
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
        description=(
            "{{ $labels.instance }} last succeeded in reading the inventory {{ $labels.source }} "
            "{{ $value | humanizeDuration }} ago (decades mean never). It keeps the last good "
            "list; newer instances are not monitored."
        ),
        dashboard=Dashboard.EXPORTER,
    )
