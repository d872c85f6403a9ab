"""`ollama-fleet alerts check` on a real Prometheus that watches a real exporter."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from alerts.cli import alerts
from provisioning.simulator.app import running_fleet
from provisioning.simulator.spec import FleetSpec, Mode
from tests.e2e.watching import Polled, watched, watched_fleet
from tests.waiting import eventually

SPEC = FleetSpec(n_instances=60, n_nodes=4, request_histogram=True)
STOCK = FleetSpec(n_instances=20, n_nodes=4, mode=Mode.OLLAMA)
LOW, LATENCY = "OllamaFleetHealthyInstancesLow", "OllamaFleetLatencyP99High"
LIMIT = "fleet:ollama_request_latency_seconds:threshold"
SETTINGS = tuple(
    f"--set=prometheus.{key}=1s"
    for key in ("scrape_interval", "scrape_timeout", "evaluation_interval")
)


async def check(url: str, *options: str) -> Result:
    arguments = ["check", "--prometheus.url", url, *SETTINGS, *options]
    return await asyncio.to_thread(CliRunner().invoke, alerts, arguments)


async def rules(url: str, *options: str) -> dict[str, dict[str, Any]]:
    """Return what the check says of each rule, by its title."""
    checked = await check(url, "--json", *options)
    return {rule["title"]: rule for rule in json.loads(checked.stdout)["rules"]}


async def test_a_check_tells_which_alerts_fire_now_and_which_differ_from_what_is_loaded(
    tmp_path: Path, prometheus_binary: Path
) -> None:
    async with watched_fleet(tmp_path, prometheus_binary, SPEC) as (fleet, url):
        await eventually(lambda: _is_fine(url))
        changed = await rules(url, "--set=thresholds.request_latency_p99=3s")
        fleet.inject("kill", count=5)
        await eventually(lambda: _fires_once(url))
        broken = await rules(url)
        shown = await check(url)

    assert [[LOW, "critical", "1", "result"]] == [
        line.split() for line in shown.stdout.splitlines() if line.strip().startswith(f"{LOW} ")
    ]
    assert "fires, as it should" == broken["Watchdog (ollama-fleet)"]["answer"]
    assert 0 < sum(rule["evaluation_s"] for rule in broken.values())
    leaders = broken["OllamaProvisionerManyLeaders"]
    assert ("can never fire", ["ollama_provisioner_leader"]) == (
        leaders["answer"],
        leaders["missing"],
    )
    differences = {title: rule["difference"] for title, rule in changed.items()}
    same_limit = {"OllamaFleetLatencyHighLowTraffic", "OllamaModelLatencyP99High"}
    assert {LATENCY, LIMIT} | same_limit == {title for title, text in differences.items() if text}
    assert ">3… by the settings" in differences[LATENCY]
    assert ">0.15… is loaded" in differences[LATENCY]


@pytest.mark.nightly
async def test_a_check_of_two_stock_fleets_tells_what_they_lack(
    tmp_path: Path, prometheus_binary: Path
) -> None:
    """Servers without figures, canaries off; a label that no rule knows tells the fleets apart."""
    async with running_fleet(STOCK) as fleet:
        some, others = fleet.inventory[:12], fleet.inventory[12:]
        fleets = {"a": Polled(some), "b": Polled(others)}
        async with watched(tmp_path, prometheus_binary, fleets) as url:
            await eventually(lambda: _can_fire(url, "OllamaModelOnCpu"))
            apart = json.loads((await check(url, "--json")).stdout)
            mixed_up = await check(url, "--set=prometheus.cluster_label=fleet")

    by_title = {rule["title"]: rule for rule in apart["rules"]}
    reasons = {title: " ".join(rule["because"]) for title, rule in by_title.items()}
    assert [] == apart["label_missing"]
    assert "can fire" == by_title[LOW]["answer"]
    for title in (LATENCY, "OllamaFleetTokenThroughputLow", "OllamaFleetCanariesStalled"):
        assert "can never fire" == by_title[title]["answer"]
        assert "(--canary.period)" in reasons[title]
    assert "`started` in the inventory" in reasons["OllamaFleetRotationOverdue"]
    assert 1 == mixed_up.exit_code
    assert "give each fleet a label `fleet` of its own" in mixed_up.stdout


async def _is_fine(url: str) -> bool:
    """Say whether all is loaded and nothing fires: one late poll shows in a check."""
    seen = await check(url, "--fail-on-firing")
    return 0 == seen.exit_code and await _can_fire(url, LOW)


async def _can_fire(url: str, title: str) -> bool:
    return bool("can fire" == (await rules(url))[title]["answer"])


async def _fires_once(url: str) -> bool:
    low = (await rules(url))[LOW]
    return ("fires now", 1) == (low["answer"], low["n_results"])
