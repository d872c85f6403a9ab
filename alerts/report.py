"""Tables for a terminal: the alerts, and what a live Prometheus made of the rules."""

from __future__ import annotations

from collections.abc import Iterator

from alerts import rulebook
from alerts.check import Checked, Result, State
from alerts.settings import Settings
from ollama_fleet.durations import duration_text
from ollama_fleet.tables import table


def listing(settings: Settings) -> str:
    """Return a line per alert."""
    alerts = [alert for group in rulebook.groups(settings) for alert in group.alerts]
    rows = [
        (alert.name, str(alert.severity), duration_text(alert.for_s), alert.summary)
        for alert in alerts
    ]
    return table(("ALERT", "SEVERITY", "FOR", "SUMMARY"), rows)


def checked(result: Result) -> str:
    """Return a line per rule, and what follows from all of them."""
    rows = [
        (rule.name, rule.severity or "record", str(rule.state), _milliseconds(rule), _remark(rule))
        for rule in result.rules
    ]
    head = ("RULE", "SEVERITY", "STATE", "TIME", "REMARK")
    return "\n".join([table(head, rows), "", *_summary(result)])


def _milliseconds(rule: Checked) -> str:
    return f"{1000 * rule.evaluation_s:.1f} ms"


def _remark(rule: Checked) -> str:
    if rule.error:
        return rule.error
    if rule.state is State.NO_DATA and rule.missing:
        return f"no {', '.join(rule.missing)}"
    return f"{rule.n_results} series" if rule.state in (State.FIRES, State.RECORDS) else ""


def _summary(result: Result) -> Iterator[str]:
    counts = {state: sum(rule.state is state for rule in result.rules) for state in State}
    counted = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    yield (f"{len(result.rules)} rules: {counted}; {1000 * result.evaluation_s:.0f} ms in total")
    if result.not_loaded:
        yield (
            f"{len(result.not_loaded)} of the names are not loaded in this Prometheus: add the "
            "built rules/*.yml to its rule_files, and reload it"
        )
