"""Measure the provisioner: how fast it makes a fleet, and what it costs while all is well.

In:   a Bench. Out: sentences, one for each store.

The fleet is simulated: starts take a second or two and some tries fail, but no CPU. So what is
measured is deciding, writing, and keeping watch; real containers cost their node's CPU on top.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from provisioning.stack.errors import ProgramError
from tests.bench.bench import Bench, output_of, python
from tests.bench.figures import Finding
from tests.bench.nginx import find
from tests.bench.provisioning import CALM_S, FAILURE_RATIO, OPERATIONS, Provisioned
from tests.etcd import etcd_cluster

LIMIT_S = 60.0
PASS_LIMIT_S = 0.3
FAILED_LIMIT_RATIO = 0.0001
LONGEST_S = 300.0


async def measure_provisioner(bench: Bench) -> list[Finding]:
    """Provision into memory, and into a real etcd where there is one."""
    findings: list[Finding] = [sentence("memory", await provisioned(bench, "memory:"))]
    try:
        async with running_etcd(bench) as url:
            findings.append(sentence("etcd", await provisioned(bench, url)))
    except ProgramError as error:
        findings.append(f"provisioner with etcd: left out: {error}")
    return findings


async def provisioned(bench: Bench, store_url: str) -> Provisioned:
    """Provision the fleet in a process of its own."""
    bench.say(f"provisioner: {bench.n_instances:,} instances, store {store_url}")
    command = python(
        "tests.bench.provisioning",
        f"--store={store_url}",
        f"--instances={bench.n_instances}",
    )
    output = await output_of(command, within_s=LONGEST_S + CALM_S)
    return msgspec.json.decode(output, type=Provisioned)


@asynccontextmanager
async def running_etcd(bench: Bench) -> AsyncIterator[str]:
    """Run an etcd of one member until the block ends; give its URL.

    Raises:
        ProgramError: There is none.
    """
    binary = await asyncio.to_thread(find, "etcd", bench.say)
    folder = bench.run_dir / "etcd"
    folder.mkdir()
    with etcd_cluster(binary, folder) as cluster:
        yield cluster.url


def sentence(store: str, seen: Provisioned) -> str:
    """Say what it took, and what it is held against."""
    failed_ratio = seen.n_failed / seen.n_instances
    return (
        f"provisioner with {store}: {seen.n_instances:,} simulated instances from nothing to "
        f"healthy in {seen.wall_s:.1f} s ({within(seen.wall_s, LIMIT_S)} {LIMIT_S:.0f} s), "
        f"{OPERATIONS:,} at once, {seen.cpu_s:.1f} CPU-s, {seen.n_passes} passes, "
        f"{seen.resident_bytes / 2**20:.0f} MiB; {FAILURE_RATIO:.0%} of tries fail: "
        f"{seen.n_tries:,} tries, {failed_ratio:.4%} of provisions failed "
        f"({within(failed_ratio, FAILED_LIMIT_RATIO)} {FAILED_LIMIT_RATIO:.2%}); once healthy, "
        f"deciding takes {seen.calm_pass_s * 1000:.0f} ms of CPU "
        f"({within(seen.calm_pass_s, PASS_LIMIT_S)} {PASS_LIMIT_S * 1000:.0f} ms), and all that "
        f"goes on {seen.calm_cpu_s:.1%} of a core"
    )


def within(value: float, limit: float) -> str:
    """Say how a figure is to its limit."""
    return "at most" if value <= limit else "NOT at most"
