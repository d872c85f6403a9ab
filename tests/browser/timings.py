"""Measure how long the page takes, in a real Chromium."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from tests.browser.chromium import chromium, opened
from tests.browser.page import FIRST_PAINT, UPDATE, FleetPage
from tests.waiting import eventually

N_LOADS = 5
N_UPDATES = 2
VALUE = "speed"
"""Of all that colours the cells, what changes most from poll to poll."""


@dataclass(frozen=True, slots=True)
class Timings:
    """How long a page took, in ms."""

    first_paint_ms: float
    """From the navigation until the cells are on the screen."""
    update_ms: float
    """Of the main thread, for the longest update."""

    def __str__(self) -> str:
        return (
            f"first paint after {self.first_paint_ms:,.0f} ms (wanted: 1,000), "
            f"longest update {self.update_ms:.1f} ms (wanted: 100)"
        )


async def timings_of(page: FleetPage) -> Timings:
    """Return the timings of a page that is open, once it has had some updates."""
    await eventually(lambda: _has_updates(page))
    (first_paint_ms,) = await page.durations_ms(FIRST_PAINT)
    return Timings(first_paint_ms, max(await page.durations_ms(UPDATE)))


async def _has_updates(page: FleetPage) -> bool:
    return len(await page.durations_ms(UPDATE)) >= N_UPDATES


async def measure(url: str) -> Timings:
    """Return the median first paint of some loads, and the longest update of all of them."""
    loads = []
    async with chromium() as browser:
        for _ in range(N_LOADS):
            async with opened(browser, f"{url}/fleet?value={VALUE}") as page:
                loads.append(await timings_of(page))
    first_paint_ms = median(load.first_paint_ms for load in loads)
    return Timings(first_paint_ms, max(load.update_ms for load in loads))
