"""Measure our exporter while half of its fleet is dead, which must cost less than a whole one."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from bench import procfs
from bench.bench import Bench, BenchError, cpu_by_cycle
from bench.figures import Finding, Row, Target, median_cpu
from bench.fleet import SimulatedFleet
from bench.ours import HEALTHY_SERIES, REFRESH_INTERVAL_S, RunningExporter
from bench.page import fetch, value_of
from exporter import catalogue
from exporter.model import Status
from provisioning.demo.ports import EVERY_ADDRESS

DEAD_SHARE = 0.5
SETTLE_S = 2.0
LOOK_INTERVAL_S = 0.25
NOT_WELL = (Status.UNREACHABLE, Status.UNHEALTHY, Status.LOADING, Status.UNKNOWN)


async def measure_dead_fleet(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter
) -> list[Finding]:
    """Kill half of the fleet and measure whole cycles; heal it and wait for the last instance."""
    await fleet.kill(DEAD_SHARE)
    bench.say(f"half of the fleet killed: {bench.n_short_cycles} cycles")
    # Every instance is polled once in an interval: then all deaths are known.
    await asyncio.sleep(bench.interval_s + SETTLE_S)
    row = await _unwell_row(bench, ours, "ours, half of the fleet resets")
    return [row, await _recovery(bench, fleet, ours)]


async def measure_refusing_fleet(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter
) -> list[Finding]:
    """Let half of the inventory point to a port where nobody listens; measure whole cycles."""
    with socket.socket() as nobody:
        nobody.bind((EVERY_ADDRESS, 0))
        entries = json.loads(ours.inventory.read_bytes())
        refusing = with_port(entries, nobody.getsockname()[1], share=DEAD_SHARE)
        ours.inventory.write_text(json.dumps(refusing))
        bench.say(f"half of the fleet refuses connections: {bench.n_short_cycles} cycles")
        await asyncio.sleep(REFRESH_INTERVAL_S + bench.interval_s + SETTLE_S)
        return [await _unwell_row(bench, ours, "ours, half of the fleet refuses")]


def with_port(
    entries: Sequence[dict[str, object]], port: int, *, share: float
) -> list[dict[str, object]]:
    """Return the inventory with another port for a share of it, spread over the whole."""
    changed = []
    for index, entry in enumerate(entries):
        is_chosen = int((index + 1) * share) > int(index * share)
        host = urlsplit(str(entry["url"])).hostname
        changed.append(entry | {"url": f"http://{host}:{port}"} if is_chosen else entry)
    return changed


async def _unwell_row(bench: Bench, ours: RunningExporter, what: str) -> Row:
    cycles = await cpu_by_cycle(
        ours.pid, n_cycles=bench.n_short_cycles, interval_s=bench.interval_s
    )
    cpu = median_cpu(cycles)
    page = (await asyncio.to_thread(fetch, ours.port)).body
    return Row(
        what=what,
        healthy=int(value_of(page, HEALTHY_SERIES)),
        user_s=cpu.user_s,
        system_s=cpu.system_s,
        resident_bytes=procfs.resident_bytes(ours.pid),
        render_s=value_of(page, catalogue.EXPORTER_EXPOSITION_DURATION.name),
        targets=frozenset({Target.BELOW_OURS, Target.MEMORY}),
    )


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
