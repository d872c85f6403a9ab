"""Measure what evaluating all alert rules costs Prometheus at the fleet's size.

In:   a Bench and a RunningExporter over servers that give every figure. Out: sentences.
The figures are Prometheus' own: how long the last evaluation of each group took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp

from alerts import build, config
from bench.bench import Bench
from bench.figures import Finding
from bench.fleet import SimulatedFleet
from bench.nginx import find
from bench.ours import RunningExporter
from bench.scraping import running_prometheus, settings_for
from provisioning.demo.errors import ProgramError

LIMIT_S = 0.5
N_LOOKS = 5


async def measure_rules(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter
) -> list[Finding]:
    """Let Prometheus scrape our page and evaluate all rules; tell how long that takes."""
    try:
        binary = await asyncio.to_thread(find, "prometheus", bench.say)
    except ProgramError as error:
        return [f"alert rules: left out: {error}"]
    bench.say(f"Prometheus evaluates all alert rules: {N_LOOKS + 3} cycles")
    folder = bench.run_dir / "alerts"
    changes = [f"prometheus.scrape_interval={bench.interval_s}s"]
    build.write(config.load(changes=changes), folder)
    settings = settings_for(bench, ours.address, rule_files=(f"{folder}/rules/*.yml",))
    async with running_prometheus(bench, binary, settings) as prometheus:
        # Three scrapes: then rates have something to compute from.
        await asyncio.sleep(3 * bench.interval_s)
        looks = [await _look(bench, prometheus.url) for _ in range(N_LOOKS)]
    return [words(looks[-1], [sum(look.values()) for look in looks])]


async def _look(bench: Bench, url: str) -> dict[str, float]:
    """Return how long each group's last evaluation took, in seconds, a cycle later than before."""
    await asyncio.sleep(bench.interval_s)
    async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v1/rules") as answer:
        body: dict[str, Any] = await answer.json()
    return {group["name"]: float(group["evaluationTime"]) for group in body["data"]["groups"]}


def words(last: Mapping[str, float], totals_s: list[float]) -> str:
    """Return the sentence of the findings."""
    median_s = sorted(totals_s)[len(totals_s) // 2]
    slowest = max(last, key=lambda name: last[name])
    verdict = "met" if median_s <= LIMIT_S else "missed"
    return (
        f"alert rules: all {len(last)} groups together take Prometheus {median_s:.3f} s per "
        f"evaluation (median of {len(totals_s)}; worst {max(totals_s):.3f} s); the slowest is "
        f"{slowest} with {last[slowest]:.3f} s. Target of at most {LIMIT_S} s: {verdict}"
    )
