"""Take revisions of the whole fleet while somebody looks, and keep the last few."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from exporter.steps import run_in_steps
from exporter.ui.cells import columns
from exporter.ui.layout import next_layout
from exporter.ui.protocol import Changes, changes

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Coroutine, Generator, Mapping
    from typing import Any

    from exporter.catalogue import Series
    from exporter.poller import Poller
    from exporter.ui.cells import Column, Totals, Value
    from exporter.ui.layout import Layout
    from exporter.ui.recent import RecentHistory
    from ollama_fleet.clock import Clock

    BuildView = Callable[[Layout | None, frozenset[Value]], Coroutine[Any, Any, "FleetView"]]


KEPT = 12
"""Revisions: a browser that misses a few still gets changes only."""


@dataclass(frozen=True, slots=True)
class FleetView:
    """What a survey of the fleet gives."""

    layout: Layout
    columns: Mapping[str, Column]
    """By `status`, `conditions` and the values that were wanted."""
    totals: Totals
    p99s_s: Mapping[Series, float]
    """Of requests and canaries of the last minutes, by the series of their times."""
    taken_at_s: float
    """Seconds since 1970 UTC."""
    speeds: array[float]
    """In tokens/s, by cell; NaN where one is not known."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A FleetView, numbered."""

    number: int
    fleet_view: FleetView
    made_at_s: float
    """On the monotonic clock."""


class Revisions:
    """The last revisions, newest last; all of one layout."""

    def __init__(self, build: BuildView, clock: Clock, *, refresh_s: float) -> None:
        self._build = build
        self._clock = clock
        self.refresh_s = refresh_s
        self._kept: deque[Revision] = deque(maxlen=KEPT)
        self._number = 0
        self._asked_for: dict[Value, int] = {}
        """The revision at which each value was asked for last."""
        self._making: asyncio.Task[Revision] | None = None

    def __repr__(self) -> str:
        return f"<Revisions: {len(self._kept)} kept, the last is {self._number}>"

    async def latest(self, value: Value | None = None) -> Revision:
        """Return a revision that is not older than the refresh interval, with a value's column."""
        if value is not None:
            self._asked_for[value] = self._number
        newest = self._kept[-1] if self._kept else None
        if newest is not None and self._is_fresh(newest) and _has(newest, value):
            return newest
        revision = await self._made()
        # The one that was under way may have been begun before anybody asked for the value.
        return revision if _has(revision, value) else await self._made()

    def changes(self, since: int, name: str, now: Revision) -> Changes:
        """Return what changed in a column; all of it where `since` or its column is not kept."""
        known = next((kept for kept in self._kept if kept.number == since), None)
        is_comparable = (
            known is not None and known.fleet_view.layout.name == now.fleet_view.layout.name
        )
        before = known.fleet_view.columns.get(name) if known is not None and is_comparable else None
        return changes(before, now.fleet_view.columns[name])

    async def close(self) -> None:
        """Stop what is being made."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)

    def _is_fresh(self, revision: Revision) -> bool:
        return self._clock.monotonic_s() - revision.made_at_s < self.refresh_s

    async def _made(self) -> Revision:
        """Return the next revision, which is made once for all who wait."""
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make())
        # One browser that leaves must not end the work for the others.
        return await asyncio.shield(self._making)

    async def _make(self) -> Revision:
        newest = self._kept[-1].fleet_view.layout if self._kept else None
        fleet_view = await self._build(newest, self._wanted())
        if newest is None or newest.name != fleet_view.layout.name:
            self._kept.clear()
        self._number += 1
        revision = Revision(self._number, fleet_view, self._clock.monotonic_s())
        self._kept.append(revision)
        return revision

    def _wanted(self) -> frozenset[Value]:
        """Return the values that somebody has asked for lately."""
        oldest = self._number - KEPT
        return frozenset(value for value, asked in self._asked_for.items() if asked >= oldest)


def _has(revision: Revision, value: Value | None) -> bool:
    return value is None or value in revision.fleet_view.columns


class ViewBuilder:
    """Looks at a fleet, and names its layouts as no other process does."""

    def __init__(
        self, poller: Poller, recent: RecentHistory, clock: Clock, *, poll_interval_s: float
    ) -> None:
        self._poller = poller
        self._recent = recent
        self._clock = clock
        self._process = f"{round(1000 * clock.unix_s()):x}"
        self._numbers = count(1)
        self.poll_interval_s = poll_interval_s
        self._named_at_s = -math.inf

    async def build(self, before: Layout | None, wanted: frozenset[Value]) -> FleetView:
        """Return the fleet as it is now."""
        fleet_view, _ = await run_in_steps(self._steps(before, wanted))
        return fleet_view

    def _steps(
        self, before: Layout | None, wanted: frozenset[Value]
    ) -> Generator[None, None, FleetView]:
        rows = yield from self._poller.rows()
        now_s = self._clock.unix_s()
        layout = yield from next_layout(rows, before, self._new_name, is_held=self._is_held())
        seen = yield from columns(rows, layout, wanted, now_s=now_s, errors=self._recent.errors_of)
        p99s_s = self._recent.p99s_s()
        return FleetView(layout, seen.by_name, seen.totals, p99s_s, now_s, seen.speeds)

    def _is_held(self) -> bool:
        """Return whether instances that are given another model one by one have to wait.

        Every browser loads the whole map for each layout: once a poll cycle is often enough, except
        in the first one, in which the models become known.
        """
        age_s = self._clock.monotonic_s() - self._named_at_s
        return self._poller.has_seen_all.is_set() and age_s < self.poll_interval_s

    def _new_name(self) -> str:
        self._named_at_s = self._clock.monotonic_s()
        return f"{self._process}-{next(self._numbers)}"
