"""Measure whether our exporter's memory stays flat while every instance is ill in some way."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from bench import procfs
from bench.bench import FIRST_PORT, Bench, cpu_by_cycle, python
from bench.faulty import HANDLERS
from bench.figures import Finding, Row, Target, median_cpu
from bench.fleet import Body, SimulatedFleet, simulated_fleet
from bench.page import READY_PATH, fetch, value_of
from exporter import catalogue
from provisioning.demo.ports import Wanted
from provisioning.demo.processes import Children, ChildSpec

INTERVAL_S = 1
N_READINGS = 10
WARM_S = 30.0
"""In which buffers and caches reach their size."""
READY_WITHIN_S = 120.0

SIMULATED: Sequence[Mapping[str, object]] = (
    {"kind": "kill"},
    {"kind": "hang"},
    {"kind": "slow"},
    {"kind": "errors", "ratio": 0.5},
    {"kind": "oom_restart"},
    {"kind": "loading"},
    {"kind": "garbage"},
    {"kind": "malformed"},
    {"kind": "close"},
    {"kind": "delay"},
    {"kind": "no_metrics", "how": "broken"},
)
NOBODY_LISTENS = "refuses"
N_KINDS = len(SIMULATED) + len(HANDLERS) + 1
FAILURE = re.compile(
    rf'^{catalogue.EXPORTER_POLL_ERRORS.name}{{.*outcome="(\w+)".*}} (\S+)$', re.MULTILINE
)


async def measure_memory(bench: Bench) -> list[Finding]:
    """Poll ill instances only; read the exporter's memory from time to time."""
    simulation = replace(bench, n_instances=len(SIMULATED) * bench.n_ill)
    async with simulated_fleet(simulation, Body.FULL) as fleet, _running(bench, fleet) as running:
        for fault in SIMULATED:
            await fleet.inject({**fault, "count": bench.n_ill})
        children, port = running
        return await children.guard(_measure(bench, children.pids["exporter"], port))


async def _measure(bench: Bench, pid: int, port: int) -> list[Finding]:
    bench.say(f"memory: {N_KINDS} kinds of faults for {bench.soak_s:g} s")
    await asyncio.sleep(min(WARM_S, bench.soak_s))
    resident = [procfs.resident_bytes(pid)]
    cycles = []
    for _ in range(N_READINGS):
        cycles += await cpu_by_cycle(pid, n_cycles=1, interval_s=bench.soak_s / N_READINGS)
        resident.append(procfs.resident_bytes(pid))
    cpu = median_cpu(cycles)
    n_intervals = bench.soak_s / N_READINGS / INTERVAL_S
    page = (await asyncio.to_thread(fetch, port)).body
    row = Row(
        what=f"ours, {N_KINDS * bench.n_ill:,} ill instances each second",
        user_s=cpu.user_s / n_intervals,
        system_s=cpu.system_s / n_intervals,
        resident_bytes=resident[-1],
        grown_bytes=max(resident) - resident[0],
        targets=frozenset({Target.MEMORY, Target.FLAT}),
    )
    return [row, *_words(bench, resident, page)]


def _words(bench: Bench, resident: Sequence[int], page: bytes) -> Iterator[str]:
    megabytes = ", ".join(f"{one / 1e6:.1f}" for one in resident)
    yield (
        f"memory: {megabytes} MB, one reading each {bench.soak_s / N_READINGS:g} s, while "
        f"{bench.n_ill} instances of each of {N_KINDS} kinds of faults were polled each second"
    )
    outcomes: Counter[str] = Counter()
    for reason, count in FAILURE.findall(page.decode()):
        outcomes[reason] += int(float(count))
    failed = ", ".join(f"{reason} {count:,}" for reason, count in outcomes.most_common() if count)
    n_polls = int(value_of(page, catalogue.EXPORTER_POLLS.name))
    yield f"memory: {n_polls:,} polls, of them failed: {failed}"


@asynccontextmanager
async def _running(bench: Bench, fleet: SimulatedFleet) -> AsyncIterator[tuple[Children, int]]:
    """Run the bad servers and an exporter on all instances; give its port."""
    ports = bench.ports.take_range(Wanted("the bad servers", FIRST_PORT), len(HANDLERS))
    inventory = bench.run_dir / "ill.json"
    entries = json.loads(fleet.inventory.read_bytes())
    entries += _entries(dict(zip(HANDLERS, ports, strict=True)), bench)
    inventory.write_text(json.dumps(entries))
    port = bench.port("the exporter")
    ready_url = f"http://127.0.0.1:{port}{READY_PATH}"
    async with Children(bench.run_dir) as children:
        servers = python("bench.faulty", str(ports[0]))
        health = f"http://127.0.0.1:{ports[0]}/health"
        await children.start(ChildSpec("servers", servers, health, READY_WITHIN_S))
        command = _exporter(inventory, port)
        await children.start(ChildSpec("exporter", command, ready_url, READY_WITHIN_S))
        yield children, port


def _entries(ports: Mapping[str, int], bench: Bench) -> Iterator[dict[str, object]]:
    """Yield the instances that are not simulated."""
    for kind, port in {**ports, NOBODY_LISTENS: bench.port(NOBODY_LISTENS)}.items():
        for n in range(bench.n_ill):
            yield {"id": f"{kind} {n}", "url": f"http://127.0.0.1:{port}", "engine": "fleet"}


def _exporter(inventory: Path, port: int) -> tuple[str, ...]:
    return python(
        "ollama_fleet",
        "exporter",
        f"--inventory={inventory}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--poll.interval={INTERVAL_S}s",
        "--poll.health-timeout=400ms",
        "--poll.metrics-timeout=800ms",
    )
