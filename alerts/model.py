"""The parts of a rule file: recording rules, alerts and the groups that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Severity(StrEnum):
    """How much a person must hurry; the value is the label's value."""

    CRITICAL = "critical"
    """A page."""
    WARNING = "warning"
    """A ticket: somebody looks at it in working hours."""
    INFO = "info"
    """No notification; shown on dashboards only."""
    NONE = "none"
    """Only of Watchdog, which always fires."""


class Dashboard(StrEnum):
    """The dashboards that alerts link to; the value is the dashboard's uid."""

    FLEET = "ollama-fleet-overview"
    NODES = "ollama-fleet-nodes"
    MODELS = "ollama-fleet-models"
    EXPORTER = "ollama-fleet-exporter"
    TRAFFIC = "ollama-fleet-traffic"


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording rule: the expression's result is kept under a name."""

    name: str
    """`level:metric:operations`."""
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alerting rule. Each series that its expression gives is an alert of its own."""

    name: str
    expr: str
    severity: Severity
    summary: str
    """One sentence without values: notifications group under it."""
    description: str
    """How much, which one, what users feel; a template of Prometheus."""
    for_s: float = 0.0
    """How long the expression must hold before the alert fires (`for`)."""
    keep_firing_for_s: float = 0.0
    """How long it goes on firing after the expression ended (`keep_firing_for`)."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Further ones, beside `severity`: they tell it from its namesakes."""
    site_labels: Mapping[str, str] = field(default_factory=dict)
    """What the settings add to all alerts alike, as `site_annotations`."""
    site_annotations: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    """What of the settings moves it: `thresholds.healthy_instances`."""
    dashboard: Dashboard = Dashboard.FLEET
    dashboard_query: str = ""
    """What the link to the dashboard ends with, such as `var-node={{ $labels.node }}`."""

    @property
    def all_labels(self) -> dict[str, str]:
        """Return the labels of its rule, `severity` first."""
        return {"severity": str(self.severity), **self.labels, **self.site_labels}


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated one after the other, so that alerts see what was just recorded."""

    name: str
    rules: tuple[Recording | Alert, ...]
    every: int = 1
    """How often it is evaluated, in evaluation intervals."""

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Return the alerts among the rules."""
        return tuple(rule for rule in self.rules if isinstance(rule, Alert))

    @property
    def recordings(self) -> tuple[Recording, ...]:
        """Return the recording rules among the rules."""
        return tuple(rule for rule in self.rules if isinstance(rule, Recording))


def linked(dashboard: Dashboard, *rules: Recording | Alert) -> tuple[Recording | Alert, ...]:
    """Return rules whose alerts all link to one dashboard."""
    return tuple(
        replace(rule, dashboard=dashboard) if isinstance(rule, Alert) else rule for rule in rules
    )
