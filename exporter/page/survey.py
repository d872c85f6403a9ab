"""Look at the whole fleet once, for the page.

In:   the poller's rows, the layout so far and the values that are wanted.
Out:  a Sight. It is taken in short steps: no poll waits for it.
"""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

from exporter.leisure import at_leisure
from exporter.page.cells import columns
from exporter.page.layout import settle
from exporter.page.revisions import Sight

if TYPE_CHECKING:
    from collections.abc import Generator

    from exporter.page.cells import Value
    from exporter.page.layout import Layout
    from exporter.page.recent import Recent
    from exporter.poller import Poller
    from ollama_fleet.clock import Clock


class Surveyor:
    """Looks at a fleet, and names its layouts as no other process does."""

    def __init__(
        self, poller: Poller, recent: Recent, clock: Clock, *, poll_interval_s: float
    ) -> None:
        self._poller = poller
        self._recent = recent
        self._clock = clock
        self._process = f"{round(1000 * clock.unix_s()):x}"
        self._numbers = count(1)
        self._poll_interval_s = poll_interval_s
        self._named_at_s = -math.inf

    async def survey(self, before: Layout | None, wanted: frozenset[Value]) -> Sight:
        """Return the fleet as it is now."""
        sight, _ = await at_leisure(self._steps(before, wanted))
        return sight

    def _steps(
        self, before: Layout | None, wanted: frozenset[Value]
    ) -> Generator[None, None, Sight]:
        rows = yield from self._poller.rows()
        now_s = self._clock.unix_s()
        layout = yield from settle(rows, before, self._new_name, is_held=self._is_held())
        seen = yield from columns(rows, layout, wanted, now_s=now_s, errors=self._recent.errors_of)
        p99_s = self._recent.request_latency_p99_s(seen.totals.latencies_p99_s)
        return Sight(layout, seen.by_name, seen.totals, p99_s, now_s)

    def _is_held(self) -> bool:
        """Return whether instances that are given another model one by one have to wait.

        For each layout every browser loads the whole map: once a pass is often enough, save in
        the first one, in which models become known at all.
        """
        age_s = self._clock.monotonic_s() - self._named_at_s
        return self._poller.has_seen_all.is_set() and age_s < self._poll_interval_s

    def _new_name(self) -> str:
        self._named_at_s = self._clock.monotonic_s()
        return f"{self._process}-{next(self._numbers)}"
