"""What a provisioner orders, a simulation hosts, and an exporter polls: three processes' worth.

The simulation's control API and its client share no types; this is where they meet. The whole
way is gone once with real processes: 200 containers over 10 nodes, one of them killed and healed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from provisioning import model
from provisioning.demo.processes import Children, ChildSpec
from provisioning.model import ContainerSpec, ObservedContainer, container_name
from provisioning.runtime.simulator import SimulatorRuntime
from provisioning.simulator import hosting
from provisioning.simulator.hosting import StartOrder
from tests.e2e.running import Running, running
from tests.ports import free_port
from tests.provisioning.simulator.hosting import free_range
from tests.waiting import eventually

FLEET = "main"
N_NODES = 10
N_PER_NODE = 20


@dataclass(frozen=True, slots=True)
class Rack:
    """A simulation that hosts, and a runtime for each of its nodes."""

    url: str
    token_path: Path
    runtimes: Sequence[SimulatorRuntime]

    async def inject(self, **fault: object) -> None:
        """Let a fault befall containers."""
        headers = {"Authorization": f"Bearer {self.token_path.read_text().strip()}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.post(f"{self.url}/faults", json=fault) as answer:
                assert 201 == answer.status

    async def start(self, containers: Sequence[Sequence[ContainerSpec]]) -> None:
        """Start each node's containers, all at once."""
        await asyncio.gather(
            *(
                runtime.start(container)
                for runtime, its_containers in zip(self.runtimes, containers, strict=True)
                for container in its_containers
            )
        )


@asynccontextmanager
async def rack(run_dir: Path, ports: range) -> AsyncIterator[Rack]:
    """Run `simulate` as a process of its own."""
    control_port = free_port()
    url, token_path = f"http://127.0.0.1:{control_port}", run_dir / "simulate.token"
    command = (
        *(sys.executable, "-P", "-m", "ollama_fleet", "simulate"),
        f"--host-units={ports[0]}-{ports[-1]}",
        "--load-seconds=0.5",
        f"--control.listen-address=127.0.0.1:{control_port}",
        f"--control.token-file={token_path}",
    )
    runtimes = [
        SimulatorRuntime(FLEET, f"n{number}", endpoint=url, token_path=token_path)
        for number in range(1, N_NODES + 1)
    ]
    async with AsyncExitStack() as stack:
        for runtime in runtimes:
            stack.push_async_callback(runtime.close)
        children = await stack.enter_async_context(Children(run_dir))
        await children.start(ChildSpec("simulate", command, f"{url}/-/healthy"))
        yield Rack(url, token_path, runtimes)


def container(node: int, port: int) -> ContainerSpec:
    """Return the order for one container of a node."""
    instance_id = f"llama-{node:02}-{port}"
    return ContainerSpec(
        name=container_name(instance_id, 1),
        fleet=FLEET,
        instance_id=instance_id,
        generation=1,
        pool="llama",
        host=f"127.1.0.{node}",
        port=port,
        image="",
        command=(),
        environment=(),
        mounts=(),
        cpus=1.0,
        memory_bytes=0,
        model="llama3.1:8b",
    )


def entry(node: int, one: ContainerSpec) -> dict[str, str]:
    """Return what the inventory says about a container."""
    return {
        "id": one.instance_id,
        "url": f"http://{one.host}:{one.port}",
        "node": f"n{node}",
        "model": one.model,
        "engine": "fleet",
        "state": "running",
    }


def test_a_state_that_is_told_is_a_state_that_is_known() -> None:
    assert {*map(str, hosting.ContainerState)} <= {*map(str, model.ContainerState)}


def test_what_is_asked_about_a_container_is_told() -> None:
    told = {field.name for field in msgspec.structs.fields(hosting.ContainerStatus)}

    assert {field.name for field in msgspec.structs.fields(ObservedContainer)} <= told


def test_an_order_has_nothing_that_a_container_lacks() -> None:
    known = {field.name for field in msgspec.structs.fields(ContainerSpec)}

    assert {field.name for field in msgspec.structs.fields(StartOrder)} <= known


async def test_containers_are_ordered_polled_killed_told_and_healed(tmp_path: Path) -> None:
    ports = free_range(N_PER_NODE)
    containers = [[container(node, port) for port in ports] for node in range(1, N_NODES + 1)]
    entries = [entry(node, one) for node, its in enumerate(containers, start=1) for one in its]
    inventory = tmp_path / "fleet.json"
    inventory.write_text(json.dumps(entries))
    victim, its_runtime = containers[3][7], 3

    async with rack(tmp_path, ports) as made, running(tmp_path, inventory) as stack:
        runtime = made.runtimes[its_runtime]
        await made.start(containers)
        await eventually(lambda: counts(stack, healthy=N_NODES * N_PER_NODE))
        await eventually(lambda: has_begun_after(stack, victim, 0.0))
        before_s = await start_time_s(stack, victim, node="n4")

        changes = runtime.changes()
        next_name = asyncio.ensure_future(anext(changes))
        await made.inject(kind="kill", ids=[victim.instance_id])
        assert victim.name == await asyncio.wait_for(next_name, 60.0)
        await changes.aclose()
        assert [victim.name] == [
            found.name
            for found in await runtime.containers()
            if found.state is model.ContainerState.EXITED
        ]
        await eventually(lambda: counts(stack, healthy=N_NODES * N_PER_NODE - 1, unreachable=1))

        await runtime.start(victim)
        await eventually(lambda: counts(stack, healthy=N_NODES * N_PER_NODE))
        await eventually(lambda: has_begun_after(stack, victim, before_s))
        n_running = [len(await runtime.containers()) for runtime in made.runtimes]

    assert [N_PER_NODE] * N_NODES == n_running


async def counts(stack: Running, **wanted: int) -> bool:
    """Say whether the exporter sees so many instances in each status, at one look."""
    return wanted == Counter(one["status"] for one in await stack.instances())


async def start_time_s(stack: Running, one: ContainerSpec, *, node: str) -> float:
    """Return when the exporter says that a container's server has started."""
    labels = {"instance_id": one.instance_id, "node": node, "model": one.model}
    return await stack.value("ollama_instance_start_time_seconds", **labels) or 0.0


async def has_begun_after(stack: Running, one: ContainerSpec, before_s: float) -> bool:
    """Say whether the exporter has seen a life that began later."""
    return await start_time_s(stack, one, node="n4") > before_s
