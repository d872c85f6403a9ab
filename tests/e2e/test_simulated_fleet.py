"""The real exporter over a simulated fleet with faults, scraped by a real Prometheus."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from provisioning.demo.processes import Children, ChildSpec
from provisioning.simulator.app import running_fleet
from provisioning.simulator.spec import FleetSpec, Mode
from tests.e2e.running import Running, running
from tests.ports import free_ports
from tests.waiting import eventually

N = 200


def write_inventory(path: Path, entries: object) -> Path:
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize("engine", ["as listed", "auto"])
@pytest.mark.parametrize("mode", Mode)
async def test_every_simulated_instance_is_healthy(mode: Mode, engine: str, tmp_path: Path) -> None:
    async with running_fleet(FleetSpec(n_instances=N, mode=mode)) as fleet:
        entries = [dict(entry) for entry in fleet.inventory]
        if engine == "auto":
            entries = [{**entry, "engine": "auto"} for entry in entries]
        inventory = write_inventory(tmp_path / "fleet.json", entries)
        async with running(tmp_path, inventory) as stack:
            expected = {"status": "healthy", "engine": mode.value, "metrics_outcome": "ok"}
            await eventually(lambda: _are_all(stack, expected))


async def _are_all(stack: Running, expected: Mapping[str, str]) -> bool:
    """Say whether all instances are so, at one look."""
    seen = await stack.instances()
    return N == len(seen) and all(expected.items() <= one.items() for one in seen)


async def test_faults_are_seen_by_prometheus_and_healing_too(
    tmp_path: Path, prometheus_binary: Path
) -> None:
    async with running_fleet(FleetSpec(n_instances=N, n_nodes=4)) as fleet:
        inventory = write_inventory(tmp_path / "fleet.json", list(fleet.inventory))
        async with running(tmp_path, inventory, prometheus_binary) as stack:
            await eventually(lambda: _counts(stack, healthy=N))
            fleet.inject("node_gone", node="node-002")
            fleet.inject("hang", node="node-003", count=5)
            await eventually(lambda: _counts(stack, healthy=145, unreachable=50, unhealthy=5))
            nodes = {
                "node=node-001,status=healthy": 50.0,
                "node=node-002,status=healthy": 0.0,
                "node=node-003,status=healthy": 45.0,
                "node=node-004,status=healthy": 50.0,
            }
            await eventually(
                lambda: _answers(stack, 'ollama_node_instances{status="healthy"}', nodes)
            )

            fleet.heal()
            await eventually(lambda: _counts(stack, healthy=N))
            await eventually(
                lambda: _answers(stack, "count(ollama_instance_up == 1)", {"": float(N)})
            )


async def _counts(stack: Running, **expected: int) -> bool:
    by_status = {f"status={status}": float(n) for status, n in expected.items()}
    return await _answers(stack, "ollama_fleet_instances > 0", by_status)


async def _answers(stack: Running, expression: str, expected: Mapping[str, float]) -> bool:
    return expected == await stack.query(expression)


async def test_killed_instances_of_another_process_are_all_resets(tmp_path: Path) -> None:
    """Accepted and reset: seen while connecting or at the first read, and told alike."""
    inventory = tmp_path / "fleet.json"
    port, control_port = free_ports(2)
    command = (
        *(sys.executable, "-P", "-m", "ollama_fleet", "simulate", f"--instances={N}"),
        *(f"--listen-port={port}", f"--inventory={inventory}", "--fault=kill:share=1"),
        f"--control.listen-address=127.0.0.1:{control_port}",
        f"--control.token-file={tmp_path / 'token'}",
    )
    simulator = ChildSpec("simulate", command, f"http://127.0.0.1:{control_port}/-/healthy")
    async with Children(tmp_path) as children:
        await children.start(simulator)
        async with running(tmp_path, inventory) as stack:
            await eventually(lambda: _are_all(stack, {"last_outcome": "reset"}))


async def test_a_slow_node_stands_out(tmp_path: Path, prometheus_binary: Path) -> None:
    """30 % slower than its peers, as a wrong BIOS setting once made a batch of nodes."""
    speed = 'ollama_instance_tokens_per_second{model="llama3.1:8b"}'
    is_slow = f"avg by (node) ({speed}) < 0.8 * scalar(avg({speed}))"
    async with running_fleet(FleetSpec(n_instances=N, n_nodes=4)) as fleet:
        inventory = write_inventory(tmp_path / "fleet.json", list(fleet.inventory))
        async with running(tmp_path, inventory, prometheus_binary) as stack:
            await eventually(lambda: _up(stack, N))
            await eventually(lambda: _answers(stack, is_slow, {}))

            fleet.inject("slow", node="node-003", factor=0.7)
            await eventually(lambda: _names(stack, is_slow, ["node=node-003"]))


async def _names(stack: Running, expression: str, expected: list[str]) -> bool:
    return expected == list(await stack.query(expression))


async def test_instances_that_leave_the_inventory_leave_prometheus(
    tmp_path: Path, prometheus_binary: Path
) -> None:
    async with running_fleet(FleetSpec(n_instances=N)) as fleet:
        entries = list(fleet.inventory)
        inventory = write_inventory(tmp_path / "fleet.json", entries)
        async with running(tmp_path, inventory, prometheus_binary) as stack:
            await eventually(lambda: _up(stack, N))
            write_inventory(inventory, entries[:50])
            await eventually(lambda: _up(stack, 50))

            write_inventory(inventory, "garbage")
            await eventually(lambda: _is_stale(stack))
            await eventually(lambda: _up(stack, 50))


async def _up(stack: Running, n: int) -> bool:
    return await _answers(stack, "count(ollama_instance_up)", {"": float(n)})


async def _is_stale(stack: Running) -> bool:
    good = await stack.query("ollama_exporter_inventory_last_reload_successful")
    return [0.0] == list(good.values())
