"""`ollama-fleet alerts check` on a real Prometheus that watches a real exporter."""

from __future__ import annotations

import asyncio
import json
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
        await eventually(lambda: _is_fine(url))
        fleet.inject("kill", count=5)
        await eventually(lambda: _fires_once(url))
        broken = await rules(url)
        shown = await check(url)

    assert [[LOW, "critical", "fires"]] == [
        line.split()[:3] for line in shown.stdout.splitlines() if line.startswith(f"{LOW} ")
    ]
    assert "quiet" == broken["Watchdog"]["state"]
    assert 0 < sum(rule["evaluation_s"] for rule in broken.values())
    leaders = broken["OllamaProvisionerManyLeaders"]
    assert ("no data", ["ollama_provisioner_leader"]) == (leaders["state"], leaders["missing"])


async def _is_fine(url: str) -> bool:
    """Say whether nothing is refused, missing or fires: one late poll shows in a check."""
    seen = await check(url)
    faults = ("refused", "not loaded", "fires")
    is_judged = "quiet" == (await rules(url))[LOW]["state"]
    return is_judged and 0 == seen.exit_code and not any(text in seen.stdout for text in faults)


async def _fires_once(url: str) -> bool:
    low = (await rules(url))[LOW]
    return ("fires", 1) == (low["state"], low["n_results"])
