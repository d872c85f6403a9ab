"""Measure how long the exporter's page `/fleet` takes in a browser at the fleet's size."""

from __future__ import annotations

from bench.bench import Bench
from bench.figures import Finding
from bench.fleet import SimulatedFleet
from bench.ours import RunningExporter
from tests.browser import timings
from tests.browser.chromium import ChromiumMissingError


async def measure_page(bench: Bench, fleet: SimulatedFleet, ours: RunningExporter) -> list[Finding]:
    """Open the page some times and wait for updates; tell what Chromium took."""
    bench.say(f"the page /fleet: {timings.N_LOADS} loads")
    try:
        took = await timings.measure(f"http://{ours.address}")
    except ChromiumMissingError as error:
        return [f"the page /fleet: left out: {error}"]
    return [f"the page /fleet, {bench.n_instances:,} cells by {timings.VALUE}: {took}"]
