"""Ask a Prometheus which alerts fire and which thresholds its rules use."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from exporter.catalogue import RULE_SERIES
from ollama_fleet.prometheus import PrometheusClient, PrometheusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ollama_fleet.clock import Clock
    from ollama_fleet.prometheus import Series


log = logging.getLogger("exporter.ui")

TIMEOUT_S = 5.0
MAX_FIRING = 100
MAX_FIRING_OF_ONE_NAME = 50
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
N_FIRING_QUERY = f"count by (severity) ({FIRING})"
THRESHOLDS_QUERY = f'{{__name__=~"{"|".join(series.name for series in RULE_SERIES)}"}}'
QUERIES = (THRESHOLDS_QUERY, FIRING_QUERY, N_FIRING_QUERY)


class Firing(msgspec.Struct, frozen=True):
    """An alert that fires."""

    name: str
    severity: str
    labels: dict[str, str]
    """Without name and severity."""
    since_seconds: float
    """Since 1970 UTC."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the Prometheus answered last."""

    error: str = ""
    """Why it is not known what is so now; empty when it is."""
    firing: tuple[Firing, ...] = ()
    """The most severe of those that fire."""
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
        self._answer = answer_of(*[result.series for result in results])

    def _note(self, failure: str) -> None:
        """Log a failure, unless the one before was the same; and a recovery."""
        if failure and failure != self._logged:
            log.warning("prometheus query failed url=%s: %s", self._client.url, failure)
        elif self._logged and not failure:
            log.info("prometheus answers again url=%s", self._client.url)
        self._logged = failure


def answer_of(
    thresholds: Iterable[Series], firing: Iterable[Series], n_firing: Iterable[Series]
) -> Answer:
    """Combine the answers to the queries."""
    alerts = firing_of(firing)
    n_by_severity: Counter[str] = Counter()
    for each in n_firing:
        if math.isfinite(each.number):
            n_by_severity[each.metric.get("severity", "")] += round(each.number)
    # Asked at about the same time, not at the very same.
    n_critical = max(n_by_severity[CRITICAL], sum(alert.severity == CRITICAL for alert in alerts))
    return Answer(
        "", alerts, max(n_by_severity.total(), len(alerts)), n_critical, thresholds_of(thresholds)
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


def firing_of(series: Iterable[Series]) -> tuple[Firing, ...]:
    """Return the alerts, the most severe first, then by name; not more than can be read."""
    alerts = [_firing(each) for each in series if math.isfinite(each.number)]
    return tuple(sorted(alerts, key=_rank)[:MAX_FIRING])


def _firing(series: Series) -> Firing:
    labels = {name: text for name, text in series.metric.items() if name != "__name__"}
    name, severity = labels.pop("alertname", ""), labels.pop("severity", "")
    return Firing(name, severity, labels, series.number)


def _rank(firing: Firing) -> tuple[int, str, list[tuple[str, str]]]:
    is_known = firing.severity in SEVERITIES
    severity = SEVERITIES.index(firing.severity) if is_known else len(SEVERITIES)
    return severity, firing.name, sorted(firing.labels.items())
