"""Export the hours that Prometheus has and the warehouse lacks, oldest first."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

from exporter.catalogue import EXPORTER_POLL_INTERVAL
from exporter.warehouse.errors import SourceError, WarehouseError
from exporter.warehouse.rollups import (
    HOUR_S,
    Answers,
    Naming,
    instance_rows,
    model_rows,
    node_rows,
    questions,
)
from exporter.warehouse.schema import INSTANCE_HOURS, MODEL_HOURS, NODE_HOURS, TABLES, Table
from exporter.warehouse.storage import DAY_HOURS, Warehouse
from ollama_fleet.clock import Clock
from ollama_fleet.prometheus import PrometheusClient, PrometheusError

log = logging.getLogger("exporter.warehouse")

HOUR = timedelta(hours=1)
TIMEOUT_S = 120.0
MAX_BODY_BYTES = 128 * 2**20
"""Of one answer: about 500,000 series."""
MAX_SINCE_S = 10_000 * HOUR_S
"""Prometheus gives at most 11,000 points of a series."""
PRESENT = f"count(count_over_time({EXPORTER_POLL_INTERVAL.name}[1h]))"
"""Whether any exporter was scraped: a cheap question, whatever the size of the fleet."""


@dataclass(frozen=True, slots=True)
class Span:
    """How far back to look, and how long after its end an hour is complete."""

    since_s: float
    settle_s: float

    def last_end_s(self, now_s: float) -> int:
        """Return the end of the last complete hour."""
        return int((now_s - self.settle_s) // HOUR_S) * HOUR_S

    def first_end_s(self, now_s: float) -> int:
        """Return the end of the first hour to look at."""
        return self.last_end_s(now_s) - int(self.since_s // HOUR_S - 1) * HOUR_S


@dataclass(frozen=True, slots=True)
class Exported:
    """What one export did."""

    n_hours: int
    n_empty: int
    """Hours in which Prometheus has no exporter."""
    n_bytes: int
    """Written, the hours of before in the same files included."""
    duration_s: float

    def as_json(self) -> Mapping[str, Any]:
        """Return it as a program reads it."""
        return {
            "hours": self.n_hours,
            "empty_hours": self.n_empty,
            "bytes_written": self.n_bytes,
            "duration_seconds": round(self.duration_s, 3),
        }


def missing(
    with_data: Collection[datetime], last: datetime, held: Callable[[date], Collection[int]]
) -> list[datetime]:
    """Return the hours to export, oldest first: from the first that Prometheus has to the last.

    Args:
        with_data: Hours that Prometheus has.
        last: The last complete hour.
        held: Returns the hours of a day that the warehouse has, empty ones included.
    """
    found: list[datetime] = []
    hour = min(with_data, default=last + HOUR)
    while hour <= last:
        if hour.hour not in held(hour.date()):
            found.append(hour)
        hour += HOUR
    return found


class Export:
    """Brings hours from one Prometheus into one warehouse."""

    def __init__(self, client: PrometheusClient, warehouse: Warehouse, naming: Naming) -> None:
        self._client = client
        self._warehouse = warehouse
        self._naming = naming
        self._held: dict[date, frozenset[int]] = {}
        """Of days that are complete: nothing changes them."""

    async def run(self, span: Span, *, now_s: float) -> Exported:
        """Export every complete hour that is missing.

        Raises:
            WarehouseError: Prometheus or the storage fails; the hours before are exported.
        """
        started_s, n_bytes, n_empty = time.monotonic(), 0, 0
        with_data = await self._hours_with_data(span, now_s)
        # Each day is looked at once: in an object store that is a request for each table.
        held = cache(self._hours_held)
        hours = missing(with_data, _hour_ending(span.last_end_s(now_s)), held)
        for hour in hours:
            is_empty = hour not in with_data
            rows = _no_rows() if is_empty else await self._rows(hour)
            n_empty += is_empty
            n_bytes += self._write(hour, rows)
            log.info(
                "hour exported hour=%s instances=%d", hour.isoformat(), len(rows[INSTANCE_HOURS])
            )
        return Exported(len(hours), n_empty, n_bytes, time.monotonic() - started_s)

    async def run_every(
        self, interval_s: float, span: Span, clock: Clock, show: Callable[[Exported], None]
    ) -> None:
        """Export every interval, until cancelled; a failure is logged, and the next run goes on."""
        while True:
            started_s = clock.monotonic_s()
            try:
                show(await self.run(span, now_s=clock.unix_s()))
            except WarehouseError as error:
                log.error("export failed: %s", error)
            await clock.sleep(started_s + interval_s - clock.monotonic_s())

    async def _hours_with_data(self, span: Span, now_s: float) -> set[datetime]:
        try:
            found = await self._client.query_range(
                PRESENT,
                start_s=span.first_end_s(now_s) - 0.001,
                end_s=span.last_end_s(now_s) - 0.001,
                step_s=HOUR_S,
            )
        except PrometheusError as error:
            raise self._failure(PRESENT, error) from error
        return {_hour_ending(round(at_s)) for one in found for at_s, _ in one.numbers}

    def _hours_held(self, day: date) -> frozenset[int]:
        """Return the hours that all tables have of a day."""
        held = self._held.get(day)
        if held is None:
            held = frozenset.intersection(*(self._warehouse.hours(one, day) for one in TABLES))
            if len(held) == DAY_HOURS:
                self._held[day] = held
        return held

    async def _rows(self, hour: datetime) -> Mapping[Table, Sequence[Mapping[str, Any]]]:
        answers = await self._answers(hour.timestamp() + HOUR_S - 0.001)
        instances = instance_rows(hour, answers, self._naming)
        if not instances:
            log.warning(
                "hour without instances hour=%s: the exporter publishes no series per instance; "
                "set metrics.per-instance to true",
                hour.isoformat(),
            )
        return {
            INSTANCE_HOURS: instances,
            NODE_HOURS: node_rows(instances),
            MODEL_HOURS: model_rows(instances, answers, self._naming),
        }

    async def _answers(self, at_s: float) -> Answers:
        answers = {}
        for question in questions(self._naming):
            try:
                result = await self._client.query(question.expression, at_s=at_s)
            except PrometheusError as error:
                raise self._failure(question.expression, error) from error
            answers[question.name] = result.series
        return answers

    def _write(self, hour: datetime, rows: Mapping[Table, Sequence[Mapping[str, Any]]]) -> int:
        """Write the hour into each table that lacks it: an export may have ended between two."""
        return sum(
            self._warehouse.add(table, hour, rows[table])
            for table in TABLES
            if hour.hour not in self._warehouse.hours(table, hour.date())
        )

    def _failure(self, expression: str, error: PrometheusError) -> SourceError:
        # A password in the address must not be repeated in messages.
        shown = re.sub(r"//[^/@]*@", "//", self._client.url)
        return SourceError(f"{shown} {error} (asked for {expression})")


def _no_rows() -> Mapping[Table, Sequence[Mapping[str, Any]]]:
    return dict.fromkeys(TABLES, ())


def _hour_ending(end_s: float) -> datetime:
    return datetime.fromtimestamp(end_s - HOUR_S, UTC)
