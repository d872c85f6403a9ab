"""Ask a Prometheus for the past, in queries of bounded size and within a deadline."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from alerts.errors import AlertsError, CheckError
from alerts.names import INVENTORY
from alerts.proposals import Point
from alerts.tunables import FINEST_S
from ollama_fleet.durations import duration_text
from ollama_fleet.prometheus import PrometheusClient, PrometheusError
from ollama_fleet.urls import without_password

TIMEOUT_S = 60.0
DEADLINE_S = 900.0
MAX_POINTS = 10_080
"""Of each quantity: a week of minutes, two weeks of two minutes each."""
POINTS_PER_QUERY = 2016
"""Prometheus gives at most 11,000, and has a bound on what a query may load at a time."""
MAX_SINCE_S = 12 * 604_800.0
MAX_BODY_BYTES = 8 * 2**20


class HistoryError(AlertsError):
    """A Prometheus has no history of the fleet."""


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is looked at."""

    start_s: float
    end_s: float
    step_s: float

    @classmethod
    def until(cls, end_s: float, since_s: float, *, max_points: int = MAX_POINTS) -> Span:
        """Return the span of a length, in steps of whole minutes."""
        step_s = math.ceil(since_s / max_points / FINEST_S) * FINEST_S
        end_s = end_s // step_s * step_s
        return cls(end_s - since_s // step_s * step_s + step_s, end_s, step_s)


class Archive:
    """Asks one Prometheus for the past."""

    def __init__(self, client: PrometheusClient, span: Span) -> None:
        self.client = client
        self.span = span
        self.asked = ""
        """What it was asked for last."""

    async def points(self, query: str) -> list[Point]:
        """Return the points of a query that gives one series at most."""
        found = await self.points_by(query, "")
        return found.get("", [])

    async def points_by(
        self, query: str, label: str, *, span: Span | None = None
    ) -> dict[str, list[Point]]:
        """Return the points of a query's series by the one label that tells these apart."""
        span, found = span or self.span, defaultdict[str, list[Point]](list)
        start_s = span.start_s
        while start_s <= span.end_s:
            end_s = min(start_s + (POINTS_PER_QUERY - 1) * span.step_s, span.end_s)
            answer = await self.client.query_range(
                query, start_s=start_s, end_s=end_s, step_s=span.step_s
            )
            for series in answer:
                points = [point for point in series.numbers if math.isfinite(point[1])]
                found[series.metric.get(label, "")] += points
            start_s = end_s + span.step_s
        return found


@asynccontextmanager
async def archive(url: str, *, since_s: float, now_s: float) -> AsyncIterator[Archive]:
    """Open the archive of a Prometheus that knows the fleet.

    Raises:
        CheckError: It cannot be asked, does not give so much, or takes too long.
        HistoryError: It has no history of the fleet.
    """
    client = PrometheusClient(url.rstrip("/"), timeout_s=TIMEOUT_S, max_body_bytes=MAX_BODY_BYTES)
    shown, since = without_password(client.url), duration_text(since_s)
    opened = Archive(client, Span.until(now_s, since_s))
    opened.asked = INVENTORY
    try:
        async with client, asyncio.timeout(DEADLINE_S):
            if not await opened.points(f"max({INVENTORY})"):
                raise HistoryError(
                    f"{shown} has no {INVENTORY} in the last {since}: load the built rules there, "
                    "or name another Prometheus with --prometheus.url"
                )
            yield opened
    except PrometheusError as error:
        raise CheckError(
            f"{shown} {error} (asked for {opened.asked} of {since}); is --prometheus.url the "
            "address of a Prometheus that runs? A shorter --since asks for less"
        ) from error
    except TimeoutError as error:
        raise CheckError(
            f"{shown} did not answer everything within {duration_text(DEADLINE_S)} (asked for "
            f"{opened.asked} of {since}); a shorter --since asks for less"
        ) from error
