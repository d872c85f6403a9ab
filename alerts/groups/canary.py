"""Rules on canaries: do instances answer the exporter's own small requests, and are these sent."""

from __future__ import annotations

from alerts.annotations import VALUE, count
from alerts.groups.availability import HEALTHY, too_many, with_condition
from alerts.groups.lifecycle import limit
from alerts.model import Alert, Dashboard, Group, Severity
from alerts.names import EXPECTED
from alerts.promql import joined
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Condition
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import percent


def group(settings: Settings) -> Group:
    """Return the alerts on canaries; without canaries none of them fires."""
    return Group(
        "ollama-fleet-canary", (_stalled(settings), _many_stalled(settings), _stopped(settings))
    )


def _stalled(settings: Settings) -> Alert:
    stalled = with_condition(settings, Condition.STALLED)
    return Alert(
        name="OllamaFleetCanariesStalled",
        settings=("thresholds.stalled_instances",),
        expr=f"{stalled} > {limit(settings.thresholds.stalled_instances, settings)}",
        for_s=900,
        keep_firing_for_s=600,
        severity=Severity.WARNING,
        summary="Instances do not answer canaries.",
        description="Instances that pass their health check and did not answer their last canary: "
        "{{ $value }}. The runner is frozen or overloaded. Real requests hang as well.",
    )


def _many_stalled(settings: Settings) -> Alert:
    share = settings.thresholds.stalled_share
    return Alert(
        name="OllamaFleetManyCanariesStalled",
        settings=("thresholds.stalled_share", "thresholds.min_missing"),
        expr=joined(with_condition(settings, Condition.STALLED), f"> {too_many(share, settings)}"),
        # Longer than a canary's usual period, so a second one has had its try.
        for_s=360,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="A large part of the fleet does not answer canaries.",
        description=f"Instances that pass their health check and do not answer canaries: {VALUE}"
        f"{count(settings.scope, EXPECTED, before=' of ')}, more than {percent(share)}. Real "
        "requests hang as well. First: look at the GPUs and at the log of one of them.",
    )


def _stopped(settings: Settings) -> Alert:
    scope, window = settings.scope, settings.windows.canary
    results = scope.over("increase", catalogue.FLEET_CANARY_RESULTS, window)
    return Alert(
        name="OllamaFleetCanaryStopped",
        settings=("windows.canary",),
        expr=joined(
            f"{scope.fleet_sum(catalogue.FLEET_CANARY_RESULTS, 'shard', inner=results)} == 0",
            f"and {scope.on()} sum {scope.by()} ({HEALTHY}) > 0",
        ),
        # After its start an exporter needs up to a period for the first canary.
        for_s=600,
        keep_firing_for_s=600,
        severity=Severity.WARNING,
        summary="The exporter sends no canaries.",
        description="Canaries are on, but the exporters of shard {{ $labels.shard }} have sent or "
        f"skipped {{{{ $value }}}} in {duration_text(window)}. Instances that only a canary can "
        "see as frozen are not seen.",
        dashboard=Dashboard.EXPORTER,
    )
