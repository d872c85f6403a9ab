"""All rules under some settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from alerts.groups import (
    availability,
    baseline,
    canary,
    errors,
    gateway,
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
    latency.low_traffic_group,
    performance.group,
    nodes.group,
    lifecycle.group,
    models.group,
    canary.group,
    slo.availability_group,
    errors.group,
    slo.requests_group,
    gateway.group,
    inventory.group,
    provisioner.group,
    pipeline.exporter_group,
    pipeline.telemetry_group,
    thresholds.group,
    spread.group,
    baseline.group,
)
UNCHANGED = Override()


class UnfitSettingsError(Exception):
    """The settings do not fit the rules; `faults` has a sentence by the setting's key."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {fault}" for key, fault in faults.items()))
        self.faults = faults


def groups(settings: Settings) -> tuple[Group, ...]:
    """Return all groups.

    Raises:
        UnfitSettingsError: The settings name alerts that there are not, or labels of the rules.
    """
    made = tuple(make(settings) for make in GROUPS)
    if faults := dict(_faults(made, settings)):
        raise UnfitSettingsError(faults)
    return tuple(_changed(group, settings) for group in made)


def _faults(made: tuple[Group, ...], settings: Settings) -> Iterator[tuple[str, str]]:
    known = {alert.name for group in made for alert in group.alerts}
    for name in sorted(set(settings.alerts) - known):
        yield f"alerts.{name}", f"there is no such alert{did_you_mean(name, known)}"
    taken = {label for group in made for rule in group.rules for label in rule.labels}
    for label in sorted(taken & set(settings.labels)):
        yield f"labels.{label}", "the rules set this label themselves: choose another name"


def _changed(group: Group, settings: Settings) -> Group:
    rules = (_changed_rule(rule, settings) for rule in group.rules)
    return dataclasses.replace(group, rules=tuple(rule for rule in rules if rule is not None))


def _changed_rule(rule: Recording | Alert, settings: Settings) -> Recording | Alert | None:
    if isinstance(rule, Recording):
        return rule
    override = settings.alerts.get(rule.name, UNCHANGED)
    if not override.is_enabled:
        return None
    return dataclasses.replace(
        rule,
        severity=override.severity or rule.severity,
        for_s=rule.for_s if override.for_s is None else override.for_s,
        keep_firing_for_s=rule.keep_firing_for_s
        if override.keep_firing_for_s is None
        else override.keep_firing_for_s,
        site_labels=settings.labels,
        site_annotations=settings.annotations,
    )
