"""Provision a simulated fleet from nothing, watch it while it is healthy, and print what it took.

`python -m bench.provisioning --store memory: --instances 10000`: a process of its own, so
that CPU time and memory are the provisioner's and its world's alone. One line of JSON on stdout.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
import msgspec

from bench import procfs
from ollama_fleet.clock import SystemClock
from provisioning.cache import Cache
from provisioning.controller import SHORTEST_GAP_S, Controller, ReconcileLoop
from provisioning.lifecycle import Kind, Result
from provisioning.model import Fleet, Limits, Node, Pool, RuntimeKind, Workload
from provisioning.report import Report
from provisioning.store.base import PutSpec
from provisioning.store.factory import Opened, open_store
from tests.provisioning.counters import Counters
from tests.provisioning.world import Behaviour, SimulatedProber, SimulatedRuntime, World

NAME = "bench"
N_NODES = 12
FAILURE_RATIO = 0.04
CALM_S = 10.0
N_RECONCILES = 9
BEHAVIOUR = Behaviour(start_s=1.1, healthy_after_s=0.5, failure_ratio=FAILURE_RATIO)


class Provisioned(msgspec.Struct, frozen=True):
    """What it took."""

    n_instances: int
    n_at_once: int
    """Operations going on at the same time at most."""
    wall_s: float
    """From an empty store to the last instance healthy."""
    cpu_s: float
    n_reconciles: int
    n_tries: int
    n_failed: int
    """Provisions that failed after all their tries; they were tried again later."""
    calm_reconcile_s: float
    """CPU-seconds of one reconcile of the healthy fleet, and of what else went on meanwhile."""
    calm_cpu_s: float
    """CPU-seconds per second of all that goes on while nothing happens: health checks, reports."""
    resident_bytes: int


class PassCounters(Counters):
    """Counts, and knows when the fleet is whole and when a reconcile has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = asyncio.Event()
        self.passed = asyncio.Event()

    def reconcile_ended(self, report: Report) -> None:
        """Count a reconcile."""
        super().reconcile_ended(report)
        self.passed.set()
        if report.n_ready == report.n_wanted:
            self.whole.set()


def fleet(n_instances: int, *, n_at_once: int) -> Fleet:
    """Return a fleet like the article's: twelve nodes, one model."""
    workload = Workload(model="llama3.1:8b", engine="fleet", cpus=1.0, memory_bytes=2**30)
    room = n_instances / N_NODES * 1.2 + 10
    nodes = tuple(
        Node(
            name=f"node-{number:02}",
            runtime=RuntimeKind.SIMULATED,
            address=f"127.0.1.{number}",
            cpus=room,
            memory_bytes=int(room) * 2**30,
        )
        for number in range(1, N_NODES + 1)
    )
    limits = Limits(operations=n_at_once, backoff_base_s=0.2, retry_failed_s=5.0)
    return Fleet(
        name=NAME,
        nodes=nodes,
        pools=(Pool(name="chat", count=n_instances, workload=workload),),
        limits=limits,
    )


@asynccontextmanager
async def provisioner(
    opened: Opened, wanted: Fleet, counters: Counters, *, seed: int
) -> AsyncIterator[Controller]:
    """Run a provisioner over a simulated world."""
    store, leadership = opened
    clock = SystemClock()
    world = World(clock, behaviour=BEHAVIOUR, seed=seed)
    cache = Cache(store, clock)
    loop = ReconcileLoop(
        store=store,
        cache=cache,
        open_runtime=lambda node: SimulatedRuntime(world, node.name, NAME),
        prober_of=lambda _: SimulatedProber(world),
        clock=clock,
        read_spec=lambda _: wanted,
        jitter=random.Random(seed).random,  # noqa: S311
        listener=counters,
    )
    controller = Controller(leadership, loop, clock)
    async with leadership.lead() as leading:
        await store.commit([PutSpec("bench", 0)], term=leading.term)
    tasks = [asyncio.create_task(cache.follow()), asyncio.create_task(controller.run())]
    try:
        yield controller
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()


async def measure(
    store_url: str, n_instances: int, *, n_at_once: int, seed: int = 0, calm_s: float = CALM_S
) -> Provisioned:
    """Provision, then watch."""
    counters = PassCounters()
    opened = open_store(store_url, NAME, clock=SystemClock(), holder="bench")
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    wanted = fleet(n_instances, n_at_once=n_at_once)
    async with provisioner(opened, wanted, counters, seed=seed) as controller:
        await counters.whole.wait()
        wall_s, used_s = time.perf_counter() - begun_s, time.process_time() - cpu_s
        n_reconciles, calm_begun_s = counters.n_reconciles, time.process_time()
        await asyncio.sleep(calm_s)
        calm_cpu_s = (time.process_time() - calm_begun_s) / calm_s
        return Provisioned(
            n_instances=n_instances,
            n_at_once=n_at_once,
            wall_s=wall_s,
            cpu_s=used_s,
            n_reconciles=n_reconciles,
            n_tries=counters.n_tries,
            n_failed=counters.results[Kind.START, Result.FAILED],
            calm_reconcile_s=await cpu_of_a_reconcile(controller, counters),
            calm_cpu_s=calm_cpu_s,
            resident_bytes=procfs.resident_bytes(os.getpid()),
        )


async def cpu_of_a_reconcile(controller: Controller, counters: PassCounters) -> float:
    """Return the CPU-seconds of a reconcile that finds nothing to do; the median of some."""
    seen_s = []
    for _ in range(N_RECONCILES):
        await asyncio.sleep(2 * SHORTEST_GAP_S)
        counters.passed.clear()
        begun_s = time.process_time()
        controller.loop.wake()
        await counters.passed.wait()
        seen_s.append(time.process_time() - begun_s)
    return statistics.median(seen_s)


@click.command()
@click.option("--store", default="memory:", help="URL of the store.")
@click.option("--instances", type=int, default=10_000, help="How many.")
@click.option("--at-once", type=int, default=1_000, help="Operations at the same time.")
@click.option("--seed", type=int, default=0, help="Of chance.")
def main(store: str, instances: int, at_once: int, seed: int) -> None:
    """Provision a simulated fleet and print what it took as JSON."""
    seen = asyncio.run(measure(store, instances, n_at_once=at_once, seed=seed))
    click.echo(msgspec.json.encode(seen).decode())


if __name__ == "__main__":
    main()
