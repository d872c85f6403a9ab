"""What a provisioner orders, a simulation hosts, and an exporter polls, as three processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
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
N_NODES = 2
N_PER_NODE = 20
Kill = Callable[[ContainerSpec], Awaitable[None]]


@asynccontextmanager
async def rack(run_dir: Path, ports: range) -> AsyncIterator[tuple[list[SimulatorRuntime], Kill]]:
    """Run `simulate` as a process; give a runtime for each of its nodes, and what kills there."""
    control_port = free_port()
    url, token_path = f"http://127.0.0.1:{control_port}", run_dir / "simulate.token"
    command = (
        *(sys.executable, "-P", "-m", "ollama_fleet", "simulate"),
        f"--host-containers={ports[0]}-{ports[-1]}",
        "--load-time=500ms",
        f"--control.listen-address=127.0.0.1:{control_port}",
        f"--control.token-file={token_path}",
    )
    runtimes = [
        SimulatorRuntime(FLEET, f"n{number}", endpoint=url, token_path=token_path)
        for number in range(1, N_NODES + 1)
    ]
    async with Children(run_dir) as children, AsyncExitStack() as stack:
        for runtime in runtimes:
            stack.push_async_callback(runtime.close)
        await children.start(ChildSpec("simulate", command, f"{url}/-/healthy"))

        async def kill(victim: ContainerSpec) -> None:
            headers = {"Authorization": f"Bearer {token_path.read_text().strip()}"}
            fault = {"kind": "kill", "ids": [victim.instance_id]}
            async with aiohttp.ClientSession(headers=headers) as session:
                async with session.post(f"{url}/faults", json=fault) as answer:
                    assert 201 == answer.status

        yield runtimes, kill


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
        engine="ollama" if port % 2 else "fleet",
    )


def entry(node: int, one: ContainerSpec) -> dict[str, str]:
    """Return what the inventory says about a container."""
    url, state = f"http://{one.host}:{one.port}", "running"
    where = {"id": one.instance_id, "url": url, "node": f"n{node}"}
    return {**where, "model": one.model, "engine": one.engine, "state": state}


def fields_of(struct: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(struct)}


def test_the_control_api_and_its_client_share_their_fields() -> None:
    assert {*map(str, hosting.ContainerState)} <= {*map(str, model.ContainerState)}
    assert fields_of(ObservedContainer) <= fields_of(hosting.ContainerStatus)
    assert fields_of(StartOrder) <= fields_of(ContainerSpec)


async def test_containers_are_ordered_polled_killed_told_and_healed(tmp_path: Path) -> None:
    ports = free_range(N_PER_NODE)
    containers = [[container(node, port) for port in ports] for node in range(1, N_NODES + 1)]
    entries = [entry(node, one) for node, its in enumerate(containers, start=1) for one in its]
    inventory = tmp_path / "fleet.json"
    inventory.write_text(json.dumps(entries))
    n, victim = len(entries), containers[1][7]

    async with rack(tmp_path, ports) as (runtimes, kill), running(tmp_path, inventory) as stack:
        pairs = zip(runtimes, containers, strict=True)
        await asyncio.gather(*(runtime.start(one) for runtime, its in pairs for one in its))
        await eventually(lambda: counts(stack, healthy=n))

        changes = runtimes[1].changes()
        next_name = asyncio.ensure_future(anext(changes))
        await kill(victim)
        assert victim.name == await asyncio.wait_for(next_name, 100.0)
        await changes.aclose()
        assert [victim.name] == [
            found.name
            for found in await runtimes[1].containers()
            if found.state is model.ContainerState.EXITED
        ]
        await eventually(lambda: counts(stack, healthy=n - 1, unreachable=1))

        await runtimes[1].start(victim)
        await eventually(lambda: counts(stack, healthy=n))
        assert [N_PER_NODE] * N_NODES == [len(await one.containers()) for one in runtimes]


async def counts(stack: Running, **wanted: int) -> bool:
    """Say whether the exporter sees so many instances in each status, at one look."""
    return wanted == Counter(one["status"] for one in await stack.instances())
