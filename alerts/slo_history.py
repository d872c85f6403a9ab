"""Ask a Prometheus for the hours of a period, and for what happened in the worst of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from alerts import rulebook, slo
from alerts.archive import Archive, HistoryError, Span, archive
from alerts.names import AVAILABLE_RATIO, NODE_EXPECTED, NODE_INSTANCES, REQUEST_ERRORS, REQUESTS
from alerts.settings import Settings
from alerts.slo import HOUR_S, Fired, Hour, Report, Worst
from ollama_fleet.durations import duration_text
from ollama_fleet.prometheus import History, quoted

MINUTES = 60
EACH_MINUTE = "[59m30s:1m]"
"""60 of them in every version: with `[1h:1m]` Prometheus 2 counts those at both ends, 61."""
AFTER_S = 900
"""An alert holds for some minutes before it fires: those of the next quarter of an hour count."""
MAX_FIRED, MAX_NODES = 12, 5
Say = Callable[[str], None]


async def report(
    settings: Settings, url: str, *, cluster: str | None, since_s: float, end_s: float, say: Say
) -> Report:
    """Return the service level of a period that ends at a whole hour.

    Raises:
        CheckError: Prometheus cannot be asked, or does not give so much.
        HistoryError: It has no history of the fleet, or of several.
    """
    async with archive(url, since_s=since_s, now_s=end_s) as past:
        past.span = Span(end_s - since_s + HOUR_S, end_s, HOUR_S)
        asked = _Questions(past, settings, say)
        name = await asked.cluster(cluster)
        hours = await asked.hours(name)
        judged = slo.judge(
            name, hours, availability=settings.slo.availability, requests=settings.slo.requests
        )
        return await asked.causes(judged)


class _Questions:
    def __init__(self, past: Archive, settings: Settings, say: Say) -> None:
        self._past = past
        self._label = settings.prometheus.cluster_label
        self._say = say
        self._summaries = {
            alert.name: alert.summary
            for group in rulebook.groups(settings)
            for alert in group.alerts
        }

    async def cluster(self, wanted: str | None) -> str:
        """Return the fleet that is wanted, or the only one.

        Raises:
            HistoryError: There is another number of them.
        """
        self._past.asked = AVAILABLE_RATIO
        query = f"count by ({self._label}) (present_over_time({AVAILABLE_RATIO}[1h]))"
        found = sorted(await self._past.points_by(query, self._label))
        if wanted in found:
            return wanted or ""
        length = duration_text(self._past.span.end_s - self._past.span.start_s + HOUR_S)
        if not found:
            raise HistoryError(f"there is no {AVAILABLE_RATIO} in {length}: load the built rules")
        if wanted is None and len(found) == 1:
            return found[0]
        raise HistoryError(
            f"there are {len(found)} fleets, by the label {self._label}: name one with --cluster, "
            f"such as {found[0]!r}"
        )

    async def hours(self, cluster: str) -> list[Hour]:
        """Return every hour of the period, those without data too."""
        self._say("availability")
        minutes, available = [
            await self._each(f"{function}({self._minutes_of(AVAILABLE_RATIO, cluster)})")
            for function in ("count_over_time", "avg_over_time")
        ]
        self._say("requests")
        requests, failed = [
            await self._each(f"sum_over_time({self._minutes_of(name, cluster)}) * 60")
            for name in (REQUESTS, REQUEST_ERRORS)
        ]
        span = self._past.span
        return [
            Hour(
                start_s=at_s - HOUR_S,
                covered=minutes.get(at_s, 0.0) / MINUTES,
                available=available.get(at_s),
                requests=requests.get(at_s),
                failed=failed.get(at_s, 0.0) if at_s in requests else None,
            )
            for at_s in range(int(span.start_s), int(span.end_s) + 1, HOUR_S)
        ]

    async def causes(self, judged: Report) -> Report:
        """Return the report with the causes of its worst hours."""
        worst = []
        for n, one in enumerate(judged.worst, start=1):
            self._say(f"causes of hour {n} of {len(judged.worst)}")
            worst.append(await self._causes(one, judged.cluster))
        return replace(judged, worst=tuple(worst))

    async def _causes(self, one: Worst, cluster: str) -> Worst:
        end_s = one.hour.start_s + HOUR_S
        where = f'alertstate="firing", severity=~"critical|warning", {self._matcher(cluster)}'
        window = f"[{duration_text(HOUR_S + AFTER_S - 30)}:1m]"
        minutes = f"max by (alertname, severity) (count_over_time(ALERTS{{{where}}}{window}))"
        fired = await self._at(f"topk({MAX_FIRED}, {minutes})", end_s + AFTER_S)
        healthy = self._of(NODE_INSTANCES, cluster, 'status="healthy"')
        missing = (
            f"max by (node) (avg_over_time(({self._of(NODE_EXPECTED, cluster)} "
            f"- on (node) {healthy})[1h:5m]))"
        )
        nodes = await self._at(f"topk({MAX_NODES}, {missing} >= 1)", end_s)
        ranked = sorted(nodes, key=lambda series: -series.numbers[0][1])
        return slo.with_causes(
            one,
            [_fired(series) for series in fired],
            [series.metric.get("node", "") for series in ranked],
            summaries=self._summaries,
        )

    async def _each(self, query: str) -> dict[int, float]:
        return {int(at_s): value for at_s, value in await self._past.points(query)}

    async def _at(self, query: str, at_s: float) -> list[History]:
        self._past.asked = "ALERTS"
        return await self._past.client.query_range(query, start_s=at_s, end_s=at_s, step_s=60)

    def _minutes_of(self, name: str, cluster: str) -> str:
        """Return the minutes of an hour that have a number: NaN is one without data."""
        return f"({self._of(name, cluster)} >= 0){EACH_MINUTE}"

    def _of(self, name: str, cluster: str, where: str = "") -> str:
        matchers = ", ".join(filter(None, (where, f"{self._label}={quoted(cluster)}")))
        return f"{name}{{{matchers}}}"

    def _matcher(self, cluster: str) -> str:
        """Return what alerts of this fleet match, and those of others who know no fleets."""
        pattern = f"|{re.escape(cluster)}"
        return f"{self._label}=~{quoted(pattern)}"


def _fired(series: History) -> Fired:
    ((_, minutes),) = series.numbers[:1]
    return Fired(
        alert=series.metric.get("alertname", ""),
        severity=series.metric.get("severity", ""),
        minutes=round(minutes) if math.isfinite(minutes) else 0,
    )
