"""Say what an alert is, under given settings."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from importlib import resources
from typing import Any

from alerts import rulebook, rulefile
from alerts.errors import AlertsError
from alerts.model import Alert, Group, Recording
from alerts.settings import Settings
from ollama_fleet.durations import duration_text
from ollama_fleet.suggestions import did_you_mean

RUNBOOKS = "runbooks"


class UnknownAlertError(AlertsError):
    """There is no alert of that name."""


def as_json(settings: Settings) -> list[dict[str, Any]]:
    """Return every alert with all that its rule says."""
    return [
        {
            "name": alert.name,
            "group": group.name,
            "severity": str(alert.severity),
            "for_seconds": alert.for_s,
            "keep_firing_for_seconds": alert.keep_firing_for_s,
            "labels": {**alert.labels, **alert.site_labels},
            "summary": alert.summary,
            "description": alert.description,
            "expr": alert.expr,
            "settings": {key: value_of(settings, key) for key in alert.settings},
            "runbook_url": rulefile.runbook_url(alert, settings.links),
            "dashboard_url": rulefile.dashboard_url(alert, settings.links),
        }
        for group in rulebook.groups(settings)
        for alert in group.alerts
    ]


def text(settings: Settings, name: str) -> str:
    """Return an alert's rules, the settings in force and its runbook.

    Raises:
        UnknownAlertError: There is no such alert, or the settings leave it out.
    """
    groups = rulebook.groups(settings)
    variants = [alert for group in groups for alert in group.alerts if alert.name == name]
    if not variants:
        if name in settings.alerts:
            raise UnknownAlertError(f"{name} is left out: the settings say `enabled: false`")
        raise UnknownAlertError(_unknown(groups, name))
    parts = [
        f"{name}: {variants[0].summary}",
        *(_rule(alert) for alert in variants),
        *_recorded(groups, variants),
        _settings(settings, variants[0]),
        runbook(name),
    ]
    return "\n\n".join(part for part in parts if part)


def runbook(name: str) -> str:
    """Return the text of an alert's runbook."""
    path = resources.files("alerts") / RUNBOOKS / f"{name}.md"
    return path.read_text(encoding="utf-8").strip()


def value_of(settings: Settings, key: str) -> str:
    """Return the value of a setting such as `windows.rate`, as one would write it."""
    value: Any = settings.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return str(value)


def dependencies(expression: str, groups: tuple[Group, ...]) -> Iterator[Recording]:
    """Yield the recording rules that an expression rests on, each after its own."""
    seen: dict[tuple[str, str], Recording] = {}
    _collect(expression, [rule for group in groups for rule in group.recordings], seen)
    yield from seen.values()


def _collect(
    expression: str, recordings: list[Recording], seen: dict[tuple[str, str], Recording]
) -> None:
    for rule in recordings:
        key = (rule.name, rule.expr)
        if key not in seen and mentions(expression, rule.name):
            _collect(rule.expr, recordings, seen)
            seen[key] = rule


def mentions(expression: str, name: str) -> bool:
    """Return whether an expression reads a series of exactly this name."""
    return re.search(rf"(?<![\w:]){re.escape(name)}(?![\w:])", expression) is not None


def _rule(alert: Alert) -> str:
    hold = f"for {duration_text(alert.for_s)}" if alert.for_s else "at once"
    return f"{alert.severity}, {hold}:\n{_indented(alert.expr)}"


def _recorded(groups: tuple[Group, ...], variants: list[Alert]) -> Iterator[str]:
    """Yield the recording rules behind the alert, each once."""
    rules = (rule for alert in variants for rule in dependencies(alert.expr, groups))
    for rule in dict.fromkeys((rule.name, rule.expr) for rule in rules):
        yield f"{rule[0]} is\n{_indented(rule[1])}"


def _settings(settings: Settings, alert: Alert) -> str:
    if not alert.settings:
        return ""
    lines = [f"  {key}: {value_of(settings, key)}" for key in alert.settings]
    return "\n".join(["Settings in force:", *lines])


def _indented(expression: str) -> str:
    return textwrap.indent(expression, "    ")


def _unknown(groups: tuple[Group, ...], name: str) -> str:
    known = sorted({alert.name for group in groups for alert in group.alerts})
    hint = did_you_mean(name, known) or "; `ollama-fleet alerts list` names all"
    return f"there is no alert {name}{hint}"
