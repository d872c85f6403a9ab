"""Measure our exporter, as the process that a person starts: its cycles and its page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench import procfs
from bench.bench import Bench, cpu_by_cycle, python
from bench.figures import Finding, Row, Target, durations_of, median_cpu
from bench.fleet import Body, SimulatedFleet
from bench.page import READY_PATH, count_samples, fetch, value_of
from exporter import catalogue
from exporter.model import Status
from provisioning.demo.processes import Children, ChildSpec

T = TypeVar("T")

N_FETCHES = 10
REFRESH_INTERVAL_S = 10
HEALTHY_SERIES = f'{catalogue.FLEET_INSTANCES.name}{{shard="0",status="{Status.HEALTHY}"}}'


@dataclass(frozen=True, slots=True)
class RunningExporter:
    """An exporter that has seen the whole fleet once."""

    pid: int
    port: int
    inventory: Path
    """Its own copy, which may be changed."""
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


@asynccontextmanager
async def running_exporter(
    bench: Bench, fleet: SimulatedFleet, *options: str
) -> AsyncIterator[RunningExporter]:
    """Run the exporter until the block ends; begins once it has seen the whole fleet."""
    port = bench.port("the exporter")
    bench.say("exporter: first cycle")
    inventory = bench.run_dir / "exporter.json"
    inventory.write_bytes(fleet.inventory.read_bytes())
    command = python(
        "ollama_fleet",
        "exporter",
        f"--inventory={inventory}",
        f"--inventory.refresh-interval={REFRESH_INTERVAL_S}s",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--poll.interval={bench.interval_s}s",
        *options,
    )
    ready = f"http://127.0.0.1:{port}{READY_PATH}"
    async with Children(bench.run_dir) as children:
        await children.start(ChildSpec("exporter", command, ready, bench.warm_s))
        yield RunningExporter(children.pids["exporter"], port, inventory, children)


async def measure_cycles(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter, *, body: Body
) -> list[Finding]:
    """Measure whole cycles that nobody disturbs, then the page."""
    is_article = body is Body.ARTICLE
    n_cycles = bench.n_cycles if is_article else bench.n_short_cycles
    bench.say(f"exporter, {body}: {n_cycles} cycles")
    cycles = await cpu_by_cycle(ours.pid, n_cycles=n_cycles, interval_s=bench.interval_s)
    cpu = median_cpu(cycles)
    plain = [await asyncio.to_thread(fetch, ours.port) for _ in range(N_FETCHES)]
    gzipped = [await asyncio.to_thread(fetch, ours.port, is_gzip=True) for _ in range(N_FETCHES)]
    page = plain[-1].body
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
        render_s=value_of(page, catalogue.EXPORTER_EXPOSITION_DURATION.name),
        fetch_s=durations_of([fetched.duration_s for fetched in plain]),
        gzip_fetch_s=durations_of([fetched.duration_s for fetched in gzipped]),
        targets=frozenset(targets),
        is_baseline=is_article,
    )
    return [row]
