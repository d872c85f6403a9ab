"""`ollama-fleet alerts check` on a real Prometheus that watches a real exporter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from alerts.cli import alerts
from provisioning.simulator.spec import FleetSpec
from tests.e2e.watching import watched_fleet
from tests.waiting import eventually

SPEC = FleetSpec(n_instances=60, n_nodes=4, request_histogram=True)
LOW = "OllamaFleetHealthyInstancesLow"
SETTINGS = ("--set", "prometheus.scrape_interval=1s", "--set", "prometheus.scrape_timeout=1s")


async def check(url: str, *options: str) -> Result:
    arguments = ["check", "--prometheus", url, *SETTINGS, *options]
    return await asyncio.to_thread(CliRunner().invoke, alerts, arguments)


async def rules(url: str) -> dict[str, dict[str, Any]]:
    """Return what the check says of each rule, by its name."""
    checked = await check(url, "--json")
    return {rule["name"]: rule for rule in json.loads(checked.stdout)["rules"]}


async def test_a_check_tells_which_alerts_would_fire_now(
    tmp_path: Path, prometheus_binary: Path
) -> None:
    async with watched_fleet(tmp_path, prometheus_binary, SPEC) as (fleet, url):
        fine = await check_until(url, _is_fine)
        fleet.inject("kill", count=5)
        shown = await check_until(url, lambda seen: "fires" in line_of(LOW, seen.stdout))
        await eventually(lambda: _is(url, LOW, "fires", n_results=1))
        broken = await rules(url)

    assert "refused" not in fine.stdout
    assert "not loaded" not in fine.stdout
    assert ["critical", "fires"] == line_of(LOW, shown.stdout)[1:3]
    assert "quiet" == broken["Watchdog"]["state"]
    assert 0 < sum(rule["evaluation_s"] for rule in broken.values())
    leaders = broken["OllamaProvisionerManyLeaders"]
    assert ("no data", ["ollama_provisioner_leader"]) == (leaders["state"], leaders["missing"])


async def check_until(url: str, is_right: Callable[[Result], bool]) -> Result:
    """Return the first check that is right: on a busy machine one late poll shows in a check."""
    seen: list[Result] = []

    async def looks_right() -> bool:
        seen.append(await check(url))
        return is_right(seen[-1])

    try:
        await eventually(looks_right)
    except AssertionError as error:
        raise AssertionError(seen[-1].output) from error
    return seen[-1]


def _is_fine(seen: Result) -> bool:
    is_judged = "quiet" in line_of(LOW, seen.stdout)
    return seen.exit_code == 0 and is_judged and "fires" not in seen.stdout


def line_of(name: str, text: str) -> list[str]:
    """Return the words of the line about a rule; none where the check has broken off."""
    lines = [line.split() for line in text.splitlines() if line.startswith(f"{name} ")]
    return lines[0] if lines else []


async def _is(url: str, name: str, state: str, **others: object) -> bool:
    rule = (await rules(url))[name]
    return {"state": state, **others}.items() <= rule.items()
