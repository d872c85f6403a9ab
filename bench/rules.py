"""Measure what evaluating all alert rules of each profile costs Prometheus at the fleet's size."""

from __future__ import annotations

import asyncio
import heapq
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
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

LIMIT_S = 0.2
N_LOOKS = 5
N_SLOWEST = 5
RECORDED = 'count({__name__=~".+:.+:.+"})'

Look = Mapping[tuple[str, str], float]
"""How long the last evaluation of each rule took, in seconds, by group and rule."""


async def measure_rules(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter
) -> list[Finding]:
    """Let Prometheus scrape our page and evaluate the rules of each profile in turn."""
    try:
        binary = await asyncio.to_thread(find, "prometheus", bench.say)
    except ProgramError as error:
        return [f"alert rules: left out: {error}"]
    return [
        await _measure(bench, ours, binary, profile=profile) for profile in (None, *config.PROFILES)
    ]


async def _measure(
    bench: Bench, ours: RunningExporter, binary: Path, *, profile: str | None
) -> str:
    name = profile or "default"
    bench.say(f"Prometheus evaluates the rules of the profile {name}: {N_LOOKS + 3} cycles")
    folder = bench.run_dir / "alerts" / name
    changes = [f"prometheus.scrape_interval={bench.interval_s}s"]
    build.write(config.load(changes=changes, profile=profile), folder)
    settings = settings_for(bench, ours.address, rule_files=(f"{folder}/rules/*.yml",))
    async with (
        running_prometheus(bench, binary, settings) as prometheus,
        aiohttp.ClientSession(prometheus.url) as session,
    ):
        # Three scrapes: then rates have something to compute from.
        await asyncio.sleep(3 * bench.interval_s)
        looks = [await _look(bench, session) for _ in range(N_LOOKS)]
        recorded = await _get(session, "/api/v1/query", query=RECORDED)
    return words(name, looks, int(recorded["result"][0]["value"][1]))


async def _look(bench: Bench, session: aiohttp.ClientSession) -> Look:
    """Return the times a cycle later than before."""
    await asyncio.sleep(bench.interval_s)
    told = await _get(session, "/api/v1/rules")
    rules = [(group["name"], rule) for group in told["groups"] for rule in group["rules"]]
    look: dict[tuple[str, str], float] = {}
    for group, rule in rules:
        key = (group, rule["name"])  # several may have one name
        look[key] = look.get(key, 0.0) + float(rule["evaluationTime"])
    return look


async def _get(session: aiohttp.ClientSession, path: str, **query: str) -> dict[str, Any]:
    async with session.get(path, params=query) as answer:
        body: dict[str, Any] = await answer.json()
    data: dict[str, Any] = body["data"]
    return data


def words(profile: str, looks: Sequence[Look], n_recorded: int) -> str:
    """Return the sentence of the findings."""
    totals_s = [sum(look.values()) for look in looks]
    median_s = statistics.median(totals_s)
    times_s = {key: statistics.median(look.get(key, 0.0) for look in looks) for key in looks[-1]}
    slowest = heapq.nlargest(N_SLOWEST, times_s, key=lambda key: times_s[key])
    named = ", ".join(f"{rule} {times_s[group, rule] * 1e3:.1f}" for group, rule in slowest)
    return (
        f"alert rules, profile {profile}: all of them together take Prometheus {median_s:.3f} s "
        f"per evaluation (median of {len(totals_s)}; {min(totals_s):.3f} to {max(totals_s):.3f} s) "
        f"and record {n_recorded:,} series; the slowest, in ms: {named}. Target of at most "
        f"{LIMIT_S} s: {'met' if median_s <= LIMIT_S else 'missed'}"
    )
