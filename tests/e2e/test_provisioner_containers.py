"""The provisioner over two containerd daemons, which stand for two nodes, and real crun."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.containers import NODE_GRACE_S, ContainerLab, container_lab
from tests.e2e.provisioner import Provisioner
from tests.nodeaccess import Authority, access_to, endpoint_of, running_nginx
from tests.waiting import eventually

N = 6


@pytest.fixture
def fleet_lab(tmp_path: Path) -> Iterator[ContainerLab]:
    with container_lab(tmp_path) as made:
        yield made


def by_node(instances: Sequence[Mapping[str, Any]]) -> Counter[str]:
    return Counter(one["node"] for one in instances)


@pytest.fixture
async def over_tls(fleet_lab: ContainerLab) -> AsyncIterator[list[str]]:
    """Put nginx before each node as `node-files` says; return a provisioner's options."""
    authority = Authority(fleet_lab.folder / "authority")
    async with AsyncExitStack() as stack:
        for node in fleet_lab.nodes:
            folder = fleet_lab.folder / f"access-{node.name}"
            access = access_to(node.containerd, node.name, node.address, folder)
            authority.sign_node(access)
            await stack.enter_async_context(running_nginx(access))
            node.endpoint = endpoint_of(access)
        files = authority.sign_client(access, fleet_lab.folder / "client")
        yield [
            f"--nodes.ca-file={files.authority}",
            f"--nodes.certificate-file={files.certificate}",
            f"--nodes.key-file={files.key}",
        ]


async def test_containers_on_nodes_behind_nginx_are_adopted_and_killed_ones_come_back(
    fleet_lab: ContainerLab, over_tls: list[str]
) -> None:
    """One is killed on each node: that the successor replaces it shows that it acts on both."""
    one = await fleet_lab.applied(fleet_lab.containers(N), N, *over_tls)

    instances = await one.instances()
    assert {3} == set(by_node(instances).values())
    assert {(1, "running")} == {(each["generation"], each["state"]) for each in instances}

    before = set(fleet_lab.processes())
    one.kill()
    one.start()
    await eventually(one.has_asked_nodes)
    killed = {process.host: process for process in before}.values()
    for process in killed:
        process.kill()
    after = await fleet_lab.whole(one, N)
    replaced = {each["id"]: each["generation"] for each in after if each["generation"] > 1}
    assert {process.instance_id: 2 for process in killed} == replaced
    assert before - {*killed} < set(fleet_lab.processes())


@pytest.mark.nightly
async def test_instances_that_answer_stay_where_they_are_however_long_containerd_is_away(
    fleet_lab: ContainerLab,
) -> None:
    """The provisioner that then follows adopts them."""
    one = await fleet_lab.applied(fleet_lab.containers(N), N)
    before = set(fleet_lab.processes())
    away = fleet_lab.nodes[0].containerd

    away.stop(signal.SIGKILL)
    await eventually(lambda: is_unreachable(one))
    await asyncio.sleep(NODE_GRACE_S + 2.0)
    assert before == set(fleet_lab.processes())
    one.kill()
    away.start()
    one.start()
    await eventually(one.has_asked_nodes)

    instances = await fleet_lab.whole(one, N)
    assert before == set(fleet_lab.processes())
    assert {1} == {each["generation"] for each in instances}


async def is_unreachable(one: Provisioner) -> bool:
    """Say whether a provisioner knows that a node does not answer."""
    return "\nollama_provisioner_unreachable_nodes 1.0\n" in (
        (await one.answer("/metrics")).body.decode()
    )


@pytest.mark.nightly
async def test_a_lost_nodes_instances_are_placed_elsewhere_and_swept_when_it_returns(
    fleet_lab: ContainerLab,
) -> None:
    """The node hangs as a whole; then it goes on, and does not know that it was given up."""
    lost, other = fleet_lab.nodes
    one = await fleet_lab.applied(fleet_lab.containers(N), N)
    moved = {each["id"] for each in await one.instances() if each["node"] == lost.name}

    lost.containerd.stop(signal.SIGKILL)
    hanging = [process for process in fleet_lab.processes() if process.instance_id in moved]
    for process in hanging:
        os.kill(process.pid, signal.SIGSTOP)

    async def is_moved() -> bool:
        told = await one.instances()
        return {other.name: N} == by_node(told) and {"running"} == {each["phase"] for each in told}

    await eventually(is_moved)
    assert dict.fromkeys(moved, 2) == fleet_lab.doubled()

    for process in hanging:
        os.kill(process.pid, signal.SIGCONT)
    lost.containerd.start()
    instances = await fleet_lab.whole(one, N)

    assert {other.name: N} == by_node(instances)
    assert moved == {each["id"] for each in instances if each["generation"] > 1}
    assert not set(hanging) & set(fleet_lab.processes())
