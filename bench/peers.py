"""Measure what others need for the same fleet, each as a process of its own."""

from __future__ import annotations

import msgspec

from bench.bench import Bench, output_of, python
from bench.figures import Finding, PollerCycle, peer_row
from bench.fleet import SimulatedFleet

START_AND_STOP_S = 30.0


async def measure_aiohttp(bench: Bench, fleet: SimulatedFleet) -> list[Finding]:
    """Measure a poller on aiohttp's client, well written."""
    bench.say(f"aiohttp's client: {bench.n_cycles} cycles after the first")
    cycles = await _cycles_of(bench, fleet, "bench.aiohttp_poller")
    return [peer_row("aiohttp's client, prometheus-client", cycles)]


async def measure_article(bench: Bench, fleet: SimulatedFleet) -> list[Finding]:
    """Measure the article's exporter."""
    bench.say(f"the article's exporter: {bench.n_cycles} cycles")
    cycles = await _cycles_of(bench, fleet, "bench.article_poller")
    return [peer_row("the article's exporter", cycles)]


async def _cycles_of(bench: Bench, fleet: SimulatedFleet, module: str) -> list[PollerCycle]:
    command = python(
        module,
        f"--inventory={fleet.inventory}",
        f"--interval={bench.interval_s}",
        f"--cycles={bench.n_cycles}",
    )
    # An overloaded peer may take longer than its interval for a cycle.
    within_s = 3 * bench.interval_s * (bench.n_cycles + 1) + START_AND_STOP_S
    output = await output_of(command, within_s=within_s)
    return [msgspec.json.decode(line, type=PollerCycle) for line in output.splitlines()]
