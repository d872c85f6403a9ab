"""Rules on models: is each in memory where it should be, on the GPU, and does it stay there."""

from __future__ import annotations

from alerts.annotations import VALUE, count
from alerts.groups.availability import too_many, with_condition
from alerts.groups.lifecycle import limit
from alerts.model import Alert, Dashboard, Group, Recording, Severity, linked
from alerts.names import (
    EXPECTED,
    EXPIRING,
    LOADED,
    NOT_LOADED,
    ON_CPU,
    UNLOADS,
)
from alerts.promql import joined
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Condition
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent

IDLE_S = 259_200.0
"""How long a model that its server unloads when idle may stay unused, such as over a weekend."""
MOSTLY_ON_CPU = 0.5
"""From this share on, a model does not fit the GPUs of its fleet, which is no fault of one."""


def group(settings: Settings) -> Group:
    """Return the rules on loaded and installed models."""
    return Group(
        "ollama-fleet-models",
        linked(
            Dashboard.MODELS,
            *_counts(settings),
            _not_loaded(settings),
            _many_not_loaded(settings),
            _not_installed(settings),
            _on_cpu(settings),
            _unloads_high(settings),
        ),
    )


def _counts(settings: Settings) -> tuple[Recording, ...]:
    scope = settings.scope
    unloaded = scope.over("increase", catalogue.FLEET_MODEL_UNLOADS, settings.windows.changes)
    return (
        Recording(LOADED, scope.fleet_sum(catalogue.MODEL_LOADED_INSTANCES, "model")),
        Recording(ON_CPU, scope.fleet_sum(catalogue.MODEL_ON_CPU_INSTANCES, "model")),
        Recording(UNLOADS, scope.fleet_sum(catalogue.FLEET_MODEL_UNLOADS, inner=unloaded)),
        Recording(EXPIRING, scope.fleet_sum(catalogue.MODEL_EXPIRING_INSTANCES)),
        Recording(NOT_LOADED, _unexpectedly_not_loaded(settings)),
    )


def _unexpectedly_not_loaded(settings: Settings) -> str:
    """Return the instances without their model, less those whose server may just unload it.

    Stock Ollama unloads a model that is idle for five minutes: at night that is no fault.
    """
    scope, missing = settings.scope, with_condition(settings, Condition.MODEL_NOT_LOADED)
    return joined(
        missing,
        f"- (max_over_time({EXPIRING}[{duration_text(IDLE_S)}]) or {scope.on()} 0 * {missing})",
    )


def _not_loaded(settings: Settings) -> Alert:
    return Alert(
        name="OllamaFleetModelsNotLoaded",
        settings=("thresholds.not_loaded_instances",),
        expr=f"{NOT_LOADED} > {limit(settings.thresholds.not_loaded_instances, settings)}",
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Instances do not have their model in memory.",
        description="Instances that answer without their model in memory: {{ $value }}. The "
        "inventory lists it for them: the next request to each waits until it is loaded, or fails.",
    )


def _many_not_loaded(settings: Settings) -> Alert:
    share = settings.thresholds.not_loaded_share
    return Alert(
        name="OllamaFleetManyModelsNotLoaded",
        settings=("thresholds.not_loaded_share", "thresholds.min_missing"),
        expr=f"{NOT_LOADED} > {too_many(share, settings)}",
        for_s=300,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="A large part of the fleet does not have its model in memory.",
        description="Instances that answer without the model that the inventory lists for them: "
        f"{VALUE}{count(settings.scope, EXPECTED, before=' of ')}, more than {percent(share)}. "
        "Requests wait until it is loaded, or fail. First: see whether servers were restarted, or "
        "clients load other models.",
    )


def _not_installed(settings: Settings) -> Alert:
    level = settings.thresholds.not_installed_instances
    missing = with_condition(settings, Condition.MODEL_NOT_INSTALLED)
    return Alert(
        name="OllamaFleetModelsNotInstalled",
        settings=("thresholds.not_installed_instances",),
        expr=f"{missing} > {limit(level, settings)}",
        for_s=600,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Instances do not have their model on disk.",
        description="Instances that answer without their model on disk: {{ $value }}. The "
        "inventory lists it for them: every request for it fails there until it is pulled.",
    )


def _on_cpu(settings: Settings) -> Alert:
    return Alert(
        name="OllamaModelOnCpu",
        settings=("thresholds.on_cpu",),
        expr=joined(
            f"{ON_CPU} > ceil({number(settings.thresholds.on_cpu)} * {LOADED})",
            f"and {ON_CPU} < {number(MOSTLY_ON_CPU)} * {LOADED}",
        ),
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Some instances run a model on the CPU that others run on the GPU.",
        description="Instances that have {{ $labels.model }} partly or wholly outside GPU memory, "
        "while most others have it on the GPU: {{ $value }}. They are many times slower. Usual "
        "causes: a lost GPU, or another process that takes its memory.",
        dashboard_query="var-model={{ $labels.model | urlquery }}",
    )


def _unloads_high(settings: Settings) -> Alert:
    window = duration_text(settings.windows.changes)
    return Alert(
        name="OllamaFleetModelUnloadsHigh",
        settings=("thresholds.unloads", "windows.changes"),
        expr=f"{UNLOADS} > {limit(settings.thresholds.unloads, settings)}",
        for_s=300,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Servers unload models too often.",
        description=(
            f'Models unloaded in {window}: {{{{ $value | printf "%.0f" }}}}. Each is loaded '
            "again for the next request, which waits meanwhile. Usual causes: more models than "
            "memory, or a keep_alive that is too short."
        ),
    )
