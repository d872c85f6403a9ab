"""Measure for how long our exporter's event loop does not turn, from outside and from inside."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from bench.bench import Bench, output_of, python
from bench.figures import Durations, Finding, Row, Target
from bench.fleet import Body, SimulatedFleet, simulated_fleet
from bench.ours import RunningExporter
from bench.page import fetch
from tests.waiting import eventually

SCRAPE_INTERVAL_S = 5.0
N_LARGE = 100_000
LARGE_INTERVAL_S = 60
"""In which one processor polls so many over connections that are not kept."""
CHANGE_INTERVAL_S = 15.0


class ProbeReport(msgspec.Struct, frozen=True):
    """What bench.probe says."""

    answers: Durations
    own_lateness: Durations
    """Of the probe itself, which the machine and not the exporter is to blame for."""
    n: int


class TickingReport(msgspec.Struct, frozen=True):
    """What bench.ticking says, in seconds."""

    late: Durations
    """How much later than due each tick came."""
    blocked: Durations
    """The same without the time in which the loop's thread waited for a processor."""
    n: int


async def measure_blocking(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter
) -> list[Finding]:
    """Selectors for a tiny page every 5 ms from outside, while a scraper takes the whole one."""
    seconds = bench.n_short_cycles * bench.interval_s
    bench.say(f"event loop, from outside: {seconds} s")
    command = python("bench.probe", f"--port={ours.port}", f"--seconds={seconds}")
    async with _scraped(ours.port):
        output = await output_of(command, within_s=seconds + 30.0)
    report = msgspec.json.decode(output, type=ProbeReport)
    row = Row(
        what="ours, asked every 5 ms",
        blocked_s=report.answers.worst,
        targets=frozenset({Target.BLOCKING}),
    )
    return [row, _probe_words(report)]


def _probe_words(report: ProbeReport) -> str:
    answers, own = report.answers, report.own_lateness
    return (
        f"event loop from outside: {report.n:,} answers, median {answers.median * 1e3:.1f} ms, "
        f"p99 {answers.p99 * 1e3:.1f} ms, worst {answers.worst * 1e3:.1f} ms; the probe itself "
        f"woke up to {own.worst * 1e3:.1f} ms late (p99 {own.p99 * 1e3:.1f} ms), which is the "
        "machine's share"
    )


async def measure_ticking(bench: Bench, fleet: SimulatedFleet) -> list[Finding]:
    """Run the exporter with a ticker on its event loop, while a scraper takes the page."""
    return await _ticking(bench, fleet.inventory)


async def measure_large_ticking(bench: Bench) -> list[Finding]:
    """Do the same with 100,000 instances, while the inventory changes again and again."""
    large = replace(bench, n_instances=N_LARGE, interval_s=LARGE_INTERVAL_S, n_cycles=1)
    async with simulated_fleet(large, Body.ARTICLE) as fleet:
        inventory = bench.run_dir / "changing.json"
        changing = asyncio.create_task(_change_for_ever(fleet.inventory, inventory))
        try:
            await eventually(inventory.exists)
            return await _ticking(large, inventory)
        finally:
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)


async def _change_for_ever(whole: Path, inventory: Path) -> None:
    """Write the inventory, and another one, in turn."""
    entries = json.loads(whole.read_bytes())
    lists = itertools.cycle((entries, changed(entries)))
    while True:
        text = await asyncio.to_thread(json.dumps, next(lists))
        unfinished = inventory.with_suffix(".new")
        unfinished.write_text(text)
        unfinished.rename(inventory)
        await asyncio.sleep(CHANGE_INTERVAL_S)


def changed(entries: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return a list in which a twentieth is gone, has come, and says something else."""
    n = len(entries) // 20
    come = [{**entry, "id": f"{entry['id']}-new"} for entry in entries[:n]]
    other = [{**entry, "developer": "other"} for entry in entries[n : 2 * n]]
    return [*entries[2 * n :], *other, *come]


async def _ticking(bench: Bench, inventory: Path) -> list[Finding]:
    bench.say(f"event loop, from inside: {bench.n_short_cycles} cycles")
    port = bench.port("the exporter")
    command = python(
        "bench.ticking",
        f"--inventory={inventory}",
        f"--port={port}",
        f"--interval={bench.interval_s}",
        f"--cycles={bench.n_short_cycles}",
    )
    within_s = bench.warm_s + bench.n_short_cycles * bench.interval_s + 10.0
    async with _scraped(port):
        output = await output_of(command, within_s=within_s)
    report = msgspec.json.decode(output, type=TickingReport)
    row = Row(
        what=f"ours, ticking every 5 ms, {bench.n_instances:,}",
        blocked_s=report.blocked.worst,
        targets=frozenset({Target.BLOCKING}),
    )
    return [row, _ticking_words(bench, report)]


def _ticking_words(bench: Bench, report: TickingReport) -> str:
    late, blocked = report.late, report.blocked
    return (
        f"event loop from inside, {bench.n_instances:,} instances: {report.n:,} ticks of 5 ms, "
        f"late by p99 {late.p99 * 1e3:.1f} ms, worst {late.worst * 1e3:.1f} ms; without waiting "
        f"for a processor p99 {blocked.p99 * 1e3:.1f} ms, worst {blocked.worst * 1e3:.1f} ms"
    )


@asynccontextmanager
async def _scraped(port: int) -> AsyncIterator[None]:
    scraping = asyncio.create_task(_scrape_for_ever(port))
    try:
        yield
    finally:
        scraping.cancel()
        await asyncio.gather(scraping, return_exceptions=True)


async def _scrape_for_ever(port: int) -> None:
    """Take the page every few seconds, with gzip as Prometheus does; not there yet is no matter."""
    while True:
        await asyncio.sleep(SCRAPE_INTERVAL_S)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(fetch, port, is_gzip=True)
