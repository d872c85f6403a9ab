"""All rules under some settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from alerts.groups import (
    availability,
    canary,
    inventory,
    latency,
    lifecycle,
    models,
    nodes,
    performance,
    pipeline,
    provisioner,
    slo,
    spread,
    thresholds,
)
from alerts.model import Alert, Group, Recording
from alerts.settings import Override, Settings
from ollama_fleet.suggestions import did_you_mean

GROUPS = (
    availability.group,
    latency.group,
    performance.group,
    nodes.group,
    lifecycle.group,
    models.group,
    canary.group,
    slo.availability_group,
    slo.requests_group,
    inventory.group,
    provisioner.group,
    pipeline.exporter_group,
    pipeline.telemetry_group,
    thresholds.group,
    spread.group,
)


class UnknownAlertsError(Exception):
    """The settings change alerts that do not exist; `faults` has a sentence by name."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        self.faults = faults


def groups(settings: Settings) -> tuple[Group, ...]:
    """Return all groups.

    Raises:
        UnknownAlertsError: The settings name alerts that there are not.
    """
    made = tuple(make(settings) for make in GROUPS)
    known = {alert.name for group in made for alert in group.alerts}
    if unknown := sorted(set(settings.alerts) - known):
        raise UnknownAlertsError({name: _unknown(name, known) for name in unknown})
    return tuple(_changed(group, settings.alerts) for group in made)


def _unknown(name: str, known: set[str]) -> str:
    return f"there is no such alert{did_you_mean(name, known)}"


def _changed(group: Group, overrides: Mapping[str, Override]) -> Group:
    rules = (_changed_rule(rule, overrides) for rule in group.rules)
    return dataclasses.replace(group, rules=tuple(rule for rule in rules if rule is not None))


def _changed_rule(
    rule: Recording | Alert, overrides: Mapping[str, Override]
) -> Recording | Alert | None:
    if isinstance(rule, Recording) or rule.name not in overrides:
        return rule
    override = overrides[rule.name]
    if not override.is_enabled:
        return None
    return dataclasses.replace(
        rule,
        severity=override.severity or rule.severity,
        for_s=rule.for_s if override.for_s is None else override.for_s,
        keep_firing_for_s=rule.keep_firing_for_s
        if override.keep_firing_for_s is None
        else override.keep_firing_for_s,
    )
