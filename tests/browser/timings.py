"""Measure how long the page takes, in a real Chromium over the real exporter.

In:   a folder to run in; how many instances.
Out:  Timings. `python -m tests.browser.timings` prints them.
Fails with ChromiumMissingError or ChildError.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from tests.browser.chromium import chromium, opened
from tests.browser.page import FIRST_PAINT, UPDATE, FleetPage
from tests.browser.programs import exporter, simulation
from tests.waiting import eventually

N = 10_000
INTERVAL = "5s"
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


async def measure(run_dir: Path, n_instances: int = N) -> Timings:
    """Return the median first paint of some loads, and the longest update of all of them."""
    async with (
        chromium() as browser,
        simulation(run_dir, n_instances) as simulated,
        exporter(run_dir, simulated.inventory, interval=INTERVAL) as url,
    ):
        loads = []
        for _ in range(N_LOADS):
            async with opened(browser, f"{url}/fleet?value={VALUE}") as page:
                loads.append(await timings_of(page))
    first_paint_ms = median(load.first_paint_ms for load in loads)
    return Timings(first_paint_ms, max(load.update_ms for load in loads))


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        click.echo(f"{N:,} cells by {VALUE}: {asyncio.run(measure(Path(folder)))}")


if __name__ == "__main__":
    main()
