"""Ask a Prometheus which alerts fire or are pending and which thresholds its rules use."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from exporter.catalogue import RULE_SERIES
from ollama_fleet.prometheus import PrometheusClient, PrometheusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ollama_fleet.clock import Clock
    from ollama_fleet.prometheus import LoadedRule, Series

    Rules = Mapping[tuple[str, str], LoadedRule]
    """By name and severity."""


log = logging.getLogger("exporter.ui")

TIMEOUT_S = 5.0
MAX_FIRING = 100
MAX_FIRING_OF_ONE_NAME = 50
MAX_PENDING = 20
MAX_PENDING_OF_ONE_NAME = 5
"""An alert that is about instances may fire for thousands at once, just when somebody looks."""
KEPT_S = 60.0
"""How long an answer still counts as current if no page asked in between."""
CRITICAL = "critical"
SEVERITIES = (CRITICAL, "warning", "info")

FIRING = 'ALERTS{alertstate="firing",alertname=~"Ollama.+"}'
FIRING_QUERY = (
    f"bottomk by (alertname) ({MAX_FIRING_OF_ONE_NAME}, "
    f'ALERTS_FOR_STATE{{alertname=~"Ollama.+"}} and ignoring (alertstate) {FIRING})'
)
"""Those of a name that fire for longest; the value is since when. /api/v1/alerts tells that too,
but of every alert of that Prometheus, most of which may not be ours, and not where rules
are evaluated elsewhere (vmalert, Thanos' or Mimir's ruler) and their series are written to what we
ask."""
PENDING_QUERY = (
    f"bottomk by (alertname) ({MAX_PENDING_OF_ONE_NAME}, "
    f'ALERTS_FOR_STATE{{alertname=~"Ollama.+"}} and ignoring (alertstate) '
    'ALERTS{alertstate="pending",alertname=~"Ollama.+"})'
)
"""Those of a name that will fire first."""
N_FIRING_QUERY = f"count by (severity) ({FIRING})"
THRESHOLDS_QUERY = f'{{__name__=~"{"|".join(series.name for series in RULE_SERIES)}"}}'
QUERIES = (THRESHOLDS_QUERY, FIRING_QUERY, N_FIRING_QUERY, PENDING_QUERY)


RULES_KEPT_S = 60.0
"""Rules change seldom, and are a large answer."""
LABEL = re.compile(r"\{\{ *\$labels\.(\w+) *\| *urlquery *\}\}")
"""In a link of our rules."""


class Alert(msgspec.Struct, frozen=True):
    """An alert that fires or is pending."""

    name: str
    severity: str
    labels: dict[str, str]
    """Without name and severity."""
    since_seconds: float
    """Since 1970 UTC."""
    for_seconds: float | None = None
    """How long it is pending before it fires; None where Prometheus does not say."""
    dashboard_url: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the Prometheus answered last."""

    error: str = ""
    """Why it is not known what is so now; empty when it is."""
    firing: tuple[Alert, ...] = ()
    """The most severe of those that fire."""
    pending: tuple[Alert, ...] = ()
    """Those of a name that will fire first."""
    n_firing: int = 0
    """All that fire."""
    n_critical: int = 0
    """Those of them that are critical."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """By series, those that are the same throughout that Prometheus."""


class Prometheus:
    """A Prometheus that is asked now and then."""

    def __init__(self, url: str, clock: Clock, *, refresh_s: float) -> None:
        self._client = PrometheusClient(url, timeout_s=TIMEOUT_S)
        self._clock = clock
        self.refresh_s = refresh_s
        self._answer = Answer("Prometheus has not been asked yet")
        self._asked_at_s = -math.inf
        self._answered_at_s = -math.inf
        self._asking: asyncio.Task[None] | None = None
        self._logged = ""
        self._rules: Rules = {}
        self._rules_asked_at_s = -math.inf

    @property
    def url(self) -> str:
        """Return the base URL."""
        return self._client.url

    def __repr__(self) -> str:
        return f"<Prometheus {self._client.url}: {self._answer.error or 'answers'}>"

    def latest(self) -> Answer:
        """Return what is known; ask again, beside, where that is older than the refresh interval.

        An answer from before a long pause is dropped.
        """
        now_s = self._clock.monotonic_s()
        if now_s - self._answered_at_s > KEPT_S + self.refresh_s:
            self._answer = Answer(self._answer.error or "Prometheus is being asked again")
        is_asking = self._asking is not None and not self._asking.done()
        if not is_asking and now_s - self._asked_at_s >= self.refresh_s:
            self._asked_at_s = now_s
            self._asking = asyncio.create_task(self._ask())
        return self._answer

    async def close(self) -> None:
        """Stop asking and close the connection."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._client.close()

    async def _ask(self) -> None:
        try:
            results = await asyncio.gather(*[self._client.query(text) for text in QUERIES])
        except PrometheusError as error:
            self._note(str(error))
            self._answer = replace(self._answer, error=f"Prometheus {error}")
            return
        self._note("")
        self._answered_at_s = self._clock.monotonic_s()
        answer = answer_of(*[result.series for result in results])
        if answer.firing or answer.pending:
            await self._ask_rules()
        self._answer = replace(
            answer,
            firing=tuple(with_rule(alert, self._rules) for alert in answer.firing),
            pending=tuple(with_rule(alert, self._rules) for alert in answer.pending),
        )

    async def _ask_rules(self) -> None:
        """Ask for the rules, which say how long an alert is pending and where its dashboard is."""
        now_s = self._clock.monotonic_s()
        if now_s - self._rules_asked_at_s < RULES_KEPT_S:
            return
        self._rules_asked_at_s = now_s
        # Others than Prometheus may evaluate the rules: the alerts are known without.
        with suppress(PrometheusError):
            groups = await self._client.rule_groups()
            rules = [rule for group in groups for rule in group.rules]
            self._rules = {
                (rule.name, rule.labels.get("severity", "")): rule
                for rule in rules
                if rule.type == "alerting"
            }

    def _note(self, failure: str) -> None:
        """Log a failure, unless the one before was the same; and a recovery."""
        if failure and failure != self._logged:
            log.warning("prometheus query failed url=%s: %s", self._client.url, failure)
        elif self._logged and not failure:
            log.info("prometheus answers again url=%s", self._client.url)
        self._logged = failure


def with_rule(alert: Alert, rules: Rules) -> Alert:
    """Return an alert with what its rule says of it."""
    rule = rules.get((alert.name, alert.severity))
    if rule is None:
        return alert
    url = LABEL.sub(
        lambda label: quote(alert.labels.get(label[1], ""), safe=""),
        rule.annotations.get("dashboard_url", ""),
    )
    is_link = url.startswith(("http://", "https://")) and "{{" not in url
    return msgspec.structs.replace(
        alert, for_seconds=rule.for_s, dashboard_url=url if is_link else ""
    )


def answer_of(
    thresholds: Iterable[Series],
    firing: Iterable[Series],
    n_firing: Iterable[Series],
    pending: Iterable[Series],
) -> Answer:
    """Combine the answers to the queries."""
    alerts = alerts_of(firing, MAX_FIRING)
    n_by_severity: Counter[str] = Counter()
    for each in n_firing:
        if math.isfinite(each.number):
            n_by_severity[each.metric.get("severity", "")] += round(each.number)
    # Asked at about the same time, not at the very same.
    n_critical = max(n_by_severity[CRITICAL], sum(alert.severity == CRITICAL for alert in alerts))
    return Answer(
        "",
        alerts,
        alerts_of(pending, MAX_PENDING),
        max(n_by_severity.total(), len(alerts)),
        n_critical,
        thresholds_of(thresholds),
    )


def thresholds_of(series: Iterable[Series]) -> dict[str, float]:
    """Return the thresholds by series.

    One that has several values is left out: this Prometheus has several fleets, and which of them
    is ours is not known.
    """
    found: dict[str, set[float]] = {}
    for each in series:
        found.setdefault(each.metric.get("__name__", ""), set()).add(each.number)
    single = {name: numbers.pop() for name, numbers in found.items() if len(numbers) == 1}
    return {name: number for name, number in single.items() if math.isfinite(number)}


def alerts_of(series: Iterable[Series], most: int) -> tuple[Alert, ...]:
    """Return the alerts, the most severe first, then by name; not more than can be read."""
    alerts = [_alert(each) for each in series if math.isfinite(each.number)]
    return tuple(sorted(alerts, key=_rank)[:most])


def _alert(series: Series) -> Alert:
    labels = {name: text for name, text in series.metric.items() if name != "__name__"}
    name, severity = labels.pop("alertname", ""), labels.pop("severity", "")
    return Alert(name, severity, labels, series.number)


def _rank(alert: Alert) -> tuple[int, str, list[tuple[str, str]]]:
    is_known = alert.severity in SEVERITIES
    severity = SEVERITIES.index(alert.severity) if is_known else len(SEVERITIES)
    return severity, alert.name, sorted(alert.labels.items())
