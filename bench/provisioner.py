"""Measure the provisioner: how fast it makes a fleet, and what it costs while all is well.

The fleet is simulated: starts take a second or two and some tries fail, but no CPU. So what is
measured is deciding, writing, and keeping watch; real containers cost their node's CPU on top.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from bench.bench import Bench, output_of, python
from bench.figures import Finding
from bench.nginx import find
from bench.provisioning import BEHAVIOUR, CALM_S, FAILURE_RATIO, Provisioned
from provisioning.demo.errors import ProgramError
from provisioning.model import Limits
from provisioning.scheduler import Priority, share_of
from tests.etcd import etcd_cluster

LIMIT_S = 60.0
RECONCILE_LIMIT_S = 0.3
FAILED_LIMIT_RATIO = 0.0001
LONGEST_S = 300.0
N_MEMBERS = 3
ETCD = f"etcd of {N_MEMBERS} members"
N_SEEDS = 3
"""Rare failures are counted over several fleets."""
AT_ONCE = 1_000
DEFAULT_AT_ONCE = Limits().operations
DEFAULT_SHARE = 0.2
"""Of the fleet that is made with the default: its time is known to grow with the number."""


async def measure_provisioner(bench: Bench) -> list[Finding]:
    """Provision into memory, and into a real etcd where there is one."""
    n = bench.n_instances
    seen = [await provisioned(bench, "memory:", n, AT_ONCE, seed=seed) for seed in range(N_SEEDS)]
    findings: list[Finding] = [sentence("memory", seen[0]), failures_sentence(seen)]
    try:
        async with running_etcd(bench) as url:
            findings.append(sentence(ETCD, await provisioned(bench, url, n, AT_ONCE, seed=0)))
        async with running_etcd(bench) as url:
            n_some = round(n * DEFAULT_SHARE)
            some = await provisioned(bench, url, n_some, DEFAULT_AT_ONCE, seed=0)
            findings.append(default_sentence(some))
    except ProgramError as error:
        findings.append(f"provisioner with etcd: left out: {error}")
    return findings


async def provisioned(
    bench: Bench, store_url: str, n_instances: int, n_at_once: int, *, seed: int
) -> Provisioned:
    """Provision a fleet in a process of its own."""
    bench.say(f"provisioner: {n_instances:,} instances, {n_at_once:,} at once, store {store_url}")
    command = python(
        "bench.provisioning",
        f"--store={store_url}",
        f"--instances={n_instances}",
        f"--at-once={n_at_once}",
        f"--seed={seed}",
    )
    output = await output_of(command, within_s=LONGEST_S + CALM_S)
    return msgspec.json.decode(output, type=Provisioned)


@asynccontextmanager
async def running_etcd(bench: Bench) -> AsyncIterator[str]:
    """Run an etcd of three members, which write to the disk, until the block ends; give its URL.

    Raises:
        ProgramError: There is none.
    """
    binary = await asyncio.to_thread(find, "etcd", bench.say)
    folder = Path(tempfile.mkdtemp(prefix="etcd-", dir=bench.run_dir))
    with etcd_cluster(binary, folder, "--unsafe-no-fsync=false", n_members=N_MEMBERS) as cluster:
        yield cluster.url


def sentence(store: str, seen: Provisioned) -> str:
    """Say what it took, and what it is held against."""
    return (
        f"provisioner with {store}: {seen.n_instances:,} simulated instances from nothing to "
        f"healthy in {seen.wall_s:.1f} s ({within(seen.wall_s, LIMIT_S)} {LIMIT_S:.0f} s), "
        f"{seen.n_at_once:,} at once, {seen.cpu_s:.1f} CPU-s, {seen.n_reconciles} reconciles, "
        f"{seen.resident_bytes / 2**20:.0f} MiB; {FAILURE_RATIO:.0%} of tries fail: "
        f"{seen.n_tries:,} tries, failed provisions: {seen.n_failed}; once healthy, "
        f"a reconcile takes {seen.calm_reconcile_s * 1000:.0f} ms of CPU "
        f"({within(seen.calm_reconcile_s, RECONCILE_LIMIT_S)} "
        f"{RECONCILE_LIMIT_S * 1000:.0f} ms), and all that "
        f"goes on {seen.calm_cpu_s:.1%} of a core"
    )


def failures_sentence(all_seen: Sequence[Provisioned]) -> str:
    """Say how many provisions failed, of several fleets together."""
    n_failed = sum(seen.n_failed for seen in all_seen)
    n_instances = sum(seen.n_instances for seen in all_seen)
    ratio = n_failed / n_instances
    return (
        f"provisions that failed, with {FAILURE_RATIO:.0%} of tries: {n_failed} of "
        f"{n_instances:,}, {ratio:.4%} ({within(ratio, FAILED_LIMIT_RATIO)} "
        f"{FAILED_LIMIT_RATIO:.2%}; all of three tries fail for {FAILURE_RATIO**3:.4%})"
    )


def default_sentence(seen: Provisioned) -> str:
    """Say how long it takes with the default of operations at once, and how long it must."""
    n_rows = share_of(Priority.NEW, seen.n_at_once)
    least_s = seen.n_tries * (BEHAVIOUR.start_s + BEHAVIOUR.healthy_after_s) / n_rows
    return (
        f"provisioner with etcd and {seen.n_at_once:,} at once, the default: "
        f"{seen.n_instances:,} instances in {seen.wall_s:.1f} s; their starts alone, one after "
        f"the other in {n_rows:,} rows, take {least_s:.1f} s"
    )


def within(value: float, limit: float) -> str:
    """Say how a figure is to its limit."""
    return "at most" if value <= limit else "NOT at most"
