"""Write groups of rules as Prometheus' rule files."""

from __future__ import annotations

from typing import Any

import yaml

from alerts.model import Alert, Group, Recording
from alerts.settings import Links, Settings
from ollama_fleet.durations import duration_text

BANNER = "# Made by `ollama-fleet alerts build`: change the settings, not this file.\n"
LINE_WIDTH = 100_000
"""Lines are never folded: a changed word must not move all others in a diff."""


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that expressions stay readable."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(document: object) -> str:
    """Return a document as YAML below the banner that says what made it."""
    return BANNER + dumped(document)


def dumped(document: object) -> str:
    """Return a document as YAML."""
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": LINE_WIDTH}
    return str(yaml.dump(document, Dumper=_Dumper, **options))


def rule_file(group: Group, settings: Settings) -> str:
    """Return the rule file of one group."""
    interval = duration_text(settings.prometheus.evaluation_interval * group.every)
    rules = [_rule(rule, settings.links) for rule in group.rules]
    return as_yaml({"groups": [{"name": group.name, "interval": interval, "rules": rules}]})


def runbook_url(alert: Alert, links: Links) -> str:
    """Return where the alert's runbook is."""
    if links.served_runbooks:
        return f"{links.served_runbooks}/{alert.name}"
    return f"{links.runbooks}/{alert.name}.md"


def dashboard_url(alert: Alert, links: Links) -> str:
    """Return the dashboard that shows what the alert is about; a template of Prometheus."""
    query = f"?{alert.dashboard_query}" if alert.dashboard_query else ""
    return f"{links.grafana}/d/{alert.dashboard}{query}"


def _rule(rule: Recording | Alert, links: Links) -> dict[str, Any]:
    if isinstance(rule, Recording):
        labels = {"labels": dict(rule.labels)} if rule.labels else {}
        return {"record": rule.name, "expr": rule.expr, **labels}
    return _alert(rule, links)


def _alert(alert: Alert, links: Links) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        **_duration("for", alert.for_s),
        **_duration("keep_firing_for", alert.keep_firing_for_s),
        "labels": alert.all_labels,
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": runbook_url(alert, links),
            "dashboard_url": dashboard_url(alert, links),
            **alert.site_annotations,
        },
    }


def _duration(key: str, seconds: float) -> dict[str, str]:
    return {key: duration_text(seconds)} if seconds else {}
