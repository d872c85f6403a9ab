"""Measure what canaries cost: the exporter's CPU time, and the work of a fleet of stock Ollama."""

from __future__ import annotations

import asyncio

from bench import procfs
from bench.bench import Bench, cpu_by_cycle
from bench.figures import Finding, Row, median_cpu
from bench.fleet import Body, SimulatedFleet, simulated_fleet
from bench.ours import HEALTHY_SERIES, running_exporter
from bench.page import count_samples, fetch, value_of
from exporter import catalogue
from ollama_fleet.durations import duration_text

PERIOD_S = 300
SHARD = '{shard="0"}'
RENDERED_AT = catalogue.EXPORTER_EXPOSITION_TIMESTAMP.name
COSTS = (catalogue.FLEET_CANARY_REQUESTS, catalogue.FLEET_CANARY_TOKENS,
         catalogue.FLEET_CANARY_SECONDS)  # fmt: skip


async def measure_canaries(bench: Bench) -> list[Finding]:
    """Poll the fleet without canaries, then with them."""
    period = duration_text(PERIOD_S)
    async with simulated_fleet(bench, Body.OLLAMA) as fleet:
        without, _ = await fleet.guard(_cycles(bench, fleet, f"ours, {Body.OLLAMA}"))
        what = f"{without.what}, canaries each {period}"
        row, costs = await fleet.guard(_cycles(bench, fleet, what, f"--canary.period={period}"))
    canary_s = (row.cpu_s or 0.0) - (without.cpu_s or 0.0)
    return [without, row, _words(bench, costs, canary_s)]


async def _cycles(
    bench: Bench, fleet: SimulatedFleet, what: str, *options: str
) -> tuple[Row, list[float]]:
    """Return a row, and what canaries have cost in its cycles."""
    async with running_exporter(bench, fleet, *options) as ours:
        before = await asyncio.to_thread(fetch, ours.port)
        bench.say(f"{what}: {bench.n_cycles} cycles")
        cycles = await ours.guard(
            cpu_by_cycle(ours.pid, n_cycles=bench.n_cycles, interval_s=bench.interval_s)
        )
        page = (await asyncio.to_thread(fetch, ours.port)).body
        cpu = median_cpu(cycles)
        row = Row(
            what=what,
            healthy=int(value_of(page, HEALTHY_SERIES)),
            user_s=cpu.user_s,
            system_s=cpu.system_s,
            resident_bytes=procfs.resident_bytes(ours.pid),
            samples=count_samples(page),
            page_bytes=len(page),
            render_s=value_of(page, catalogue.EXPORTER_EXPOSITION_DURATION.name),
        )
        return row, _costs(page, before.body) if options else []


def _costs(page: bytes, before: bytes) -> list[float]:
    """Return the seconds between two pages, and what canaries have cost in between."""
    names = [RENDERED_AT, *[f"{series.name}{SHARD}" for series in COSTS]]
    return [value_of(page, name) - value_of(before, name) for name in names]


def _words(bench: Bench, costs: list[float], cpu_s: float) -> str:
    span_s, n, tokens, seconds = costs
    return (
        f"canaries: {n / span_s:.1f} each second; each takes an instance "
        f"{seconds / max(n, 1):.2f} s for {tokens / max(n, 1):.0f} tokens, "
        f"{seconds / span_s / bench.n_instances:.3%} of its time, and the exporter "
        f"{cpu_s / bench.interval_s / max(n / span_s, 0.001) * 1e3:.1f} ms of CPU"
    )
