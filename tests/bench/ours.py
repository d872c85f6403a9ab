"""Measure our exporter, as the process that a person starts.

In:   a Bench and a SimulatedFleet.
Out:  rows: its cycles and its page; a fleet that is half dead; how long its event loop is blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from exporter import catalogue
from exporter.model import Status
from provisioning.stack.processes import Children, ChildSpec
from tests.bench import procfs
from tests.bench.bench import Bench, BenchError, cpu_by_cycle, output_of, python
from tests.bench.figures import Durations, Finding, Row, Target, durations_of, median_cpu
from tests.bench.fleet import Body, SimulatedFleet
from tests.bench.page import READY_PATH, count_samples, fetch, value_of

T = TypeVar("T")

N_FETCHES = 10
SCRAPE_INTERVAL_S = 5.0
DEAD_SHARE = 0.5
LOOK_INTERVAL_S = 0.25
HEALTHY_SERIES = f'{catalogue.FLEET_INSTANCES.name}{{status="{Status.HEALTHY}"}}'
NOT_WELL = (Status.UNREACHABLE, Status.UNHEALTHY, Status.LOADING, Status.UNKNOWN)


@dataclass(frozen=True, slots=True)
class RunningExporter:
    """An exporter that has seen the whole fleet once."""

    pid: int
    port: int
    children: Children

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, if the exporter lives as long.

        Raises:
            ChildError: It has ended by itself.
        """
        return await self.children.guard(work)

    @property
    def address(self) -> str:
        """Return `host:port`."""
        return f"127.0.0.1:{self.port}"


class ProbeReport(msgspec.Struct, frozen=True):
    """What tests.bench.probe says."""

    answers: Durations
    own_lateness: Durations
    """Of the probe itself, which the machine and not the exporter is to blame for."""
    n: int


class TickingReport(msgspec.Struct, frozen=True):
    """What tests.bench.ticking says, in seconds."""

    blocked: Durations
    """How much later than due each tick came."""
    busy: Durations
    """CPU time of the loop's thread between two ticks: blocking that the machine cannot fake."""
    n: int


@asynccontextmanager
async def running_exporter(bench: Bench, fleet: SimulatedFleet) -> AsyncIterator[RunningExporter]:
    """Run the exporter until the block ends; begins once it has seen the whole fleet."""
    port = bench.port("the exporter")
    bench.say("exporter: first cycle")
    command = python(
        "ollama_fleet",
        "exporter",
        f"--inventory={fleet.inventory}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--poll.interval={bench.interval_s}s",
    )
    ready = f"http://127.0.0.1:{port}{READY_PATH}"
    async with Children(bench.run_dir) as children:
        await children.start(ChildSpec("exporter", command, ready, bench.warm_s))
        yield RunningExporter(children.pids["exporter"], port, children)


async def measure_cycles(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter, *, body: Body
) -> list[Finding]:
    """Measure whole cycles that nobody disturbs, then the page."""
    bench.say(f"exporter, {body}: {bench.n_cycles} cycles")
    cycles = await cpu_by_cycle(ours.pid, n_cycles=bench.n_cycles, interval_s=bench.interval_s)
    cpu = median_cpu(cycles)
    plain = [await asyncio.to_thread(fetch, ours.port) for _ in range(N_FETCHES)]
    gzipped = [await asyncio.to_thread(fetch, ours.port, is_gzip=True) for _ in range(N_FETCHES)]
    page = plain[-1].body
    is_article = body is Body.ARTICLE
    targets = {Target.CPU, Target.MEMORY, *([Target.PAGE] if is_article else [])}
    row = Row(
        what=f"ours, {body}",
        healthy=int(value_of(page, HEALTHY_SERIES)),
        user_s=cpu.user_s,
        system_s=cpu.system_s,
        resident_bytes=procfs.resident_bytes(ours.pid),
        samples=count_samples(page),
        page_bytes=len(page),
        gzip_bytes=len(gzipped[-1].body),
        render_s=value_of(page, catalogue.EXPORTER_PAGE_DURATION.name),
        fetch_s=durations_of([fetched.duration_s for fetched in plain]),
        gzip_fetch_s=durations_of([fetched.duration_s for fetched in gzipped]),
        targets=frozenset(targets),
        is_baseline=is_article,
    )
    return [row]


async def measure_dead_fleet(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter
) -> list[Finding]:
    """Kill half of the fleet and measure whole cycles; heal it and wait for the last instance."""
    await fleet.kill(DEAD_SHARE)
    bench.say(f"half of the fleet killed: {bench.n_short_cycles} cycles")
    # One interval until all deaths are seen, another until the page says so.
    await asyncio.sleep(2 * bench.interval_s)
    cycles = await cpu_by_cycle(
        ours.pid, n_cycles=bench.n_short_cycles, interval_s=bench.interval_s
    )
    cpu = median_cpu(cycles)
    page = (await asyncio.to_thread(fetch, ours.port)).body
    row = Row(
        what="ours, half of the fleet killed",
        healthy=int(value_of(page, HEALTHY_SERIES)),
        user_s=cpu.user_s,
        system_s=cpu.system_s,
        resident_bytes=procfs.resident_bytes(ours.pid),
        render_s=value_of(page, catalogue.EXPORTER_PAGE_DURATION.name),
        targets=frozenset({Target.BELOW_OURS}),
    )
    return [row, await _recovery(bench, fleet, ours)]


async def _recovery(bench: Bench, fleet: SimulatedFleet, ours: RunningExporter) -> str:
    bench.say("recovery")
    loop = asyncio.get_running_loop()
    await fleet.heal()
    started_s = loop.time()
    while not await asyncio.to_thread(_are_all_well, ours.port):
        if loop.time() > started_s + bench.warm_s:
            raise BenchError(f"not all instances are healthy {bench.warm_s:g} s after healing")
        await asyncio.sleep(LOOK_INTERVAL_S)
    took_s = loop.time() - started_s
    n_dead = round(bench.n_instances * DEAD_SHARE)
    return (
        f"recovery: {n_dead:,} instances healed, all seen healthy {took_s:.1f} s later "
        f"(interval {bench.interval_s} s)"
    )


def _are_all_well(port: int) -> bool:
    return all(
        not msgspec.json.decode(fetch(port, f"/instances?status={status}").body)
        for status in NOT_WELL
    )


async def measure_blocking(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter
) -> list[Finding]:
    """Ask for a tiny page every 5 ms from outside, while a scraper takes the whole one."""
    seconds = bench.n_short_cycles * bench.interval_s
    bench.say(f"event loop, from outside: {seconds} s")
    command = python("tests.bench.probe", f"--port={ours.port}", f"--seconds={seconds}")
    async with _scraped(ours.port):
        output = await output_of(command, within_s=seconds + 30.0)
    report = msgspec.json.decode(output, type=ProbeReport)
    row = Row(
        what="ours, asked every 5 ms from outside",
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
    bench.say(f"event loop, from inside: {bench.n_short_cycles} cycles")
    port = bench.port("the exporter")
    command = python(
        "tests.bench.ticking",
        f"--inventory={fleet.inventory}",
        f"--port={port}",
        f"--interval={bench.interval_s}",
        f"--cycles={bench.n_short_cycles}",
    )
    within_s = bench.warm_s + bench.n_short_cycles * bench.interval_s + 10.0
    async with _scraped(port):
        output = await output_of(command, within_s=within_s)
    report = msgspec.json.decode(output, type=TickingReport)
    row = Row(
        what="ours, with a 5 ms ticker inside",
        blocked_s=report.blocked.worst,
        targets=frozenset({Target.BLOCKING}),
    )
    return [row, _ticking_words(report)]


def _ticking_words(report: TickingReport) -> str:
    blocked, busy = report.blocked, report.busy
    return (
        f"event loop from inside: {report.n:,} ticks, late by p99 {blocked.p99 * 1e3:.1f} ms, "
        f"worst {blocked.worst * 1e3:.1f} ms; the loop's own CPU time between two ticks: p99 "
        f"{busy.p99 * 1e3:.1f} ms, worst {busy.worst * 1e3:.1f} ms"
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
