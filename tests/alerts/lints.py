"""Lints of rules that need no PromQL: names, texts, labels, durations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from alerts.model import Alert, Group, Recording, Severity
from alerts.rulefile import dashboard_url, runbook_url
from alerts.settings import Settings
from tests.conftest import ROOT

Lint = Callable[[Sequence[Group], Settings], Iterator[str]]

WATCHDOG = "Watchdog"
MAX_NAME = 40
MAX_RULES = 20
GROUP_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
ALERT_NAME = re.compile(r"Ollama([A-Z]+[a-z0-9]*)+")
RECORDED_NAME = re.compile(r"[a-z_]+:[a-z][a-z0-9_]*:[a-z][a-z0-9_]*")
SENTENCE = re.compile(r"[A-Z][^{}%]*\.")
LABEL_IN_TEXT = re.compile(r"\$labels\.(\w+)")
CONTROL = re.compile(r"\{\{ (?:with|range|if|end)\b.*?\}\}")
PRINTED = re.compile(r"\{\{.*?\}\}")
PLURAL_OF_ONE = re.compile(r"\b1 (?:[a-z-]+ )?[a-z-]+s\b(?!/)")
LEAST_SCRAPES = 2
"""So many scrape intervals an alert must hold: one failed scrape must tell nobody anything."""


def alerts(groups: Sequence[Group]) -> Iterator[Alert]:
    for group in groups:
        yield from group.alerts


def recordings(groups: Sequence[Group]) -> Iterator[Recording]:
    for group in groups:
        yield from group.recordings


def texts(alert: Alert, settings: Settings) -> str:
    """Return all of an alert's annotations that may be templates, as one text."""
    links = f"{runbook_url(alert, settings.links)} {dashboard_url(alert, settings.links)}"
    return f"{alert.summary} {alert.description} {links}"


def group_names(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for group in groups:
        if not GROUP_NAME.fullmatch(group.name) or len(group.name) > MAX_NAME:
            yield f"{group.name}: is not kebab-case of at most {MAX_NAME} characters"
        if len(group.rules) > MAX_RULES:
            yield f"{group.name}: has {len(group.rules)} rules, more than {MAX_RULES}"
    for name, n in Counter(group.name for group in groups).items():
        if n > 1:
            yield f"{name}: is the name of {n} groups"


def alert_names(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for alert in alerts(groups):
        is_ours = ALERT_NAME.fullmatch(alert.name) or alert.name == WATCHDOG
        if not is_ours or len(alert.name) > MAX_NAME:
            yield f"{alert.name}: is not Ollama… in CamelCase of at most {MAX_NAME} characters"


def recorded_names(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for rule in recordings(groups):
        if not RECORDED_NAME.fullmatch(rule.name):
            yield f"{rule.name}: is not level:metric:operations"
        if "_total:" in rule.name:
            yield f"{rule.name}: has kept the _total of a counter that it takes the rate of"


def severities(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for alert in alerts(groups):
        if (alert.severity is Severity.NONE) != (alert.name == WATCHDOG):
            yield f"{alert.name}: has the severity {alert.severity}; none is for {WATCHDOG} alone"
        if "severity" in alert.labels:
            yield f"{alert.name}: names a severity among its further labels"


def summaries(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for alert in alerts(groups):
        if not SENTENCE.fullmatch(alert.summary):
            yield f"{alert.name}: its summary is no sentence without templates: {alert.summary}"


def descriptions(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for alert in alerts(groups):
        if "{{" not in alert.description and alert.name not in WITHOUT_VALUE:
            yield f"{alert.name}: its description tells neither a value nor a label"


def plurals(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    """Find what a text says of a single thing as if there were several: "1 instances"."""
    for alert in alerts(groups):
        said = PRINTED.sub(
            lambda one: "1" if "value" in one[0] else "label", CONTROL.sub("", alert.description)
        )
        if found := PLURAL_OF_ONE.search(said):
            yield f"{alert.name}: says {found[0]!r} of one"


WITHOUT_VALUE = frozenset(
    {"OllamaFleetExporterDown", "OllamaFleetMetricsAbsent", "OllamaGatewayAllDown"}
)
"""What is absent has neither a value nor labels to tell of."""


def links(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    for alert in alerts(groups):
        runbook = runbook_url(alert, settings.links).removeprefix(settings.links.runbooks)
        if not (ROOT / "alerts" / "runbooks" / runbook.lstrip("/")).is_file():
            yield f"{alert.name}: there is no alerts/runbooks{runbook}"
        if not dashboard_url(alert, settings.links).startswith(f"{settings.links.grafana}/d/"):
            yield f"{alert.name}: links to no dashboard of {settings.links.grafana}"


def holds(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    least_s = LEAST_SCRAPES * settings.prometheus.scrape_interval
    for alert in alerts(groups):
        if alert.name != WATCHDOG and alert.for_s < least_s:
            yield f"{alert.name}: fires after {alert.for_s:g} s; {least_s:g} s are two scrapes"


def keeps(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for alert in alerts(groups):
        if alert.severity is Severity.CRITICAL and not alert.keep_firing_for_s:
            yield f"{alert.name}: pages, and a page that flaps wakes somebody again and again"


def duplicates(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    found = Counter(
        (rule.name, tuple(sorted(rule.labels.items()))) for group in groups for rule in group.rules
    )
    for (name, labels), n in found.items():
        if n > 1:
            yield f"{name}: {n} rules make it with the labels {dict(labels)}"


LINTS: tuple[Lint, ...] = (
    group_names, alert_names, recorded_names, severities, summaries, descriptions, plurals, links,
    holds, keeps, duplicates,
)  # fmt: skip
