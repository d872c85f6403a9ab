"""`ollama-fleet alerts check` on a real Prometheus that watches a real exporter."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from alerts.cli import alerts
from provisioning.sim.spec import FleetSpec
from tests.e2e.watching import watched_fleet
from tests.waiting import eventually

SPEC = FleetSpec(n_instances=60, n_nodes=4, request_histogram=True)
SETTINGS = ("--set", "prometheus.scrape_interval=1s", "--set", "prometheus.scrape_timeout=1s")


async def check(url: str, *options: str) -> Result:
    arguments = ["check", "--prometheus", url, *SETTINGS, *options]
    return await asyncio.to_thread(CliRunner().invoke, alerts, arguments)


async def rules(url: str) -> dict[str, dict[str, Any]]:
    """Return what the check says of each rule, by its name."""
    checked = await check(url, "--json")
    return {rule["name"]: rule for rule in json.loads(checked.stdout)["rules"]}


async def state_of(url: str, name: str) -> str:
    return str((await rules(url))[name]["state"])


async def test_a_check_tells_which_alerts_would_fire_now(
    tmp_path: Path, prometheus_binary: Path
) -> None:
    async with watched_fleet(tmp_path, prometheus_binary, SPEC) as (fleet, url):
        await eventually(lambda: _is(url, "OllamaFleetHealthyInstancesLow", "quiet"))
        fine = await check(url)
        fleet.inject("kill", count=5)
        await eventually(lambda: _is(url, "OllamaFleetHealthyInstancesLow", "fires"))
        broken = await rules(url)
        shown = await check(url)

    assert 0 == fine.exit_code, fine.output
    assert "fires" not in fine.stdout
    assert "refused" not in fine.stdout
    assert "not loaded" not in fine.stdout
    assert 1 == broken["OllamaFleetHealthyInstancesLow"]["n_results"]
    assert "quiet" == broken["Watchdog"]["state"]
    assert 0 < sum(rule["evaluation_s"] for rule in broken.values()) < 30
    (line,) = [
        line for line in shown.stdout.splitlines()
        if line.startswith("OllamaFleetHealthyInstancesLow")
    ]  # fmt: skip
    assert ["critical", "fires"] == line.split()[1:3]


async def _is(url: str, name: str, state: str) -> bool:
    return await state_of(url, name) == state


async def test_a_check_tells_what_is_missing_where_the_rules_are_not_loaded(
    tmp_path: Path, prometheus_binary: Path
) -> None:
    async with watched_fleet(tmp_path, prometheus_binary, SPEC, has_rules=False) as (_, url):
        await eventually(lambda: _is(url, "OllamaFleetExporterDown", "quiet"))
        shown = await check(url)
        judged = await rules(url)

    leaders, low = judged["OllamaProvisionerManyLeaders"], judged["OllamaFleetHealthyInstancesLow"]
    assert ("no data", ["ollama_provisioner_leader"]) == (leaders["state"], leaders["missing"])
    assert "no data" == low["state"]
    assert ["fleet:ollama_instances:sum", "fleet:ollama_instances_expected:sum"] == low["missing"]
    assert (
        "of the names are not loaded in this Prometheus: add the built rules/*.yml" in shown.stdout
    )
