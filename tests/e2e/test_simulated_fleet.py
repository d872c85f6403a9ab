"""The real exporter over a simulated fleet with faults, scraped by a real Prometheus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from provisioning.simulator.app import running_fleet
from provisioning.simulator.spec import FleetSpec
from tests.e2e.running import Running, running
from tests.waiting import eventually

N = 200
UNHURRIED = ("--poll.interval=5s", "--poll.health-timeout=4s", "--poll.metrics-timeout=4500ms")
"""For servers in this process, which the tests keep busy."""


def write_inventory(path: Path, entries: object) -> Path:
    path.write_text(json.dumps(entries))
    return path


async def test_every_simulated_instance_of_a_mixed_fleet_is_recognised_and_healthy(
    tmp_path: Path,
) -> None:
    async with running_fleet(FleetSpec(n_instances=N, ollama_share=0.5)) as fleet:
        entries = [{**entry, "engine": "auto"} for entry in fleet.inventory]
        expected = {str(one["id"]): ("healthy", one["engine"], "ok") for one in fleet.inventory}
        assert {"fleet", "ollama"} == {engine for _, engine, _ in expected.values()}
        inventory = write_inventory(tmp_path / "fleet.json", entries)
        async with running(tmp_path, inventory, None, *UNHURRIED) as stack:
            await eventually(lambda: _sees(stack, expected))


async def _sees(stack: Running, expected: Mapping[str, object]) -> bool:
    """Say whether all instances are so, at one look."""
    return expected == {
        one["id"]: (one["status"], one["engine"], one["metrics_outcome"])
        for one in await stack.instances()
    }


@pytest.mark.nightly
async def test_prometheus_sees_faults_healing_and_who_leaves_the_inventory(
    tmp_path: Path, prometheus_binary: Path
) -> None:
    async with running_fleet(FleetSpec(n_instances=N, n_nodes=4)) as fleet:
        entries = list(fleet.inventory)
        inventory = write_inventory(tmp_path / "fleet.json", entries)
        async with running(tmp_path, inventory, prometheus_binary) as stack:
            await eventually(lambda: _counts(stack, healthy=N))
            fleet.inject("node_gone", node="node-002")
            fleet.inject("hang", node="node-003", count=5)
            await eventually(lambda: _counts(stack, healthy=145, unreachable=50, unhealthy=5))
            by_node = enumerate((50, 0, 45, 50), 1)
            nodes = {f"node=node-00{i},shard=0,status=healthy": float(n) for i, n in by_node}
            healthy = 'ollama_node_instances{status="healthy"}'
            await eventually(lambda: _answers(stack, healthy, nodes))

            fleet.heal()
            up = "count(ollama_instance_up == 1)"
            await eventually(lambda: _answers(stack, up, {"": float(N)}))

            write_inventory(inventory, entries[:50])
            await eventually(lambda: _answers(stack, up, {"": 50.0}))
            write_inventory(inventory, "garbage")
            stale = "ollama_exporter_inventory_last_reload_successful == 0"
            await eventually(lambda: stack.query(stale))
            await eventually(lambda: _answers(stack, up, {"": 50.0}))


async def _counts(stack: Running, **expected: int) -> bool:
    by_status = {f"shard=0,status={status}": float(n) for status, n in expected.items()}
    return await _answers(stack, "ollama_fleet_instances > 0", by_status)


async def _answers(stack: Running, expression: str, expected: Mapping[str, float]) -> bool:
    return expected == await stack.query(expression)
