"""The provisioner over two containerd daemons, which stand for two nodes, and real crun."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd.client import Daemon
from provisioning.runtime.containerd.runtime import namespace_of
from tests.containerd import busybox_archive
from tests.e2e.containers import NODE_GRACE_S, ContainerLab, container_lab
from tests.e2e.provisioner import Provisioner
from tests.ports import UNITS
from tests.provisioning.runtime.containers import ContainerdLab
from tests.waiting import eventually

N = 6
SEED = 20_261_126
N_ROUNDS = 3
WHOLE_S = 60.0


@pytest.fixture
async def fleet_lab(tmp_path: Path) -> AsyncIterator[ContainerLab]:
    async with container_lab(tmp_path) as made:
        yield made


async def applied(made: ContainerLab) -> Provisioner:
    """Return a provisioner that leads a whole fleet."""
    one = await made.started()
    await made.done("provisioner", "apply", str(made.containers(N)))
    await whole(made, one)
    return one


async def whole(made: ContainerLab, one: Provisioner) -> list[dict[str, Any]]:
    """Return the instances once all run, a process each."""
    told: list[dict[str, Any]] = []

    async def is_whole() -> bool:
        nonlocal told
        told = await one.instances()
        return made.is_whole(told, N)

    try:
        await eventually(is_whole, within_s=WHOLE_S)
    except AssertionError as error:
        raise AssertionError(f"{made.faults(told, N)}: {one.said[-3000:]}") from error
    return told


def by_node(instances: Sequence[Mapping[str, Any]]) -> Counter[str]:
    return Counter(one["node"] for one in instances)


async def test_a_fleet_of_containers_is_spread_over_two_nodes(fleet_lab: ContainerLab) -> None:
    one = await applied(fleet_lab)

    instances = await one.instances()
    assert {3} == set(by_node(instances).values())
    assert {(1, "running")} == {(each["generation"], each["state"]) for each in instances}

    killed = fleet_lab.units()[0]
    killed.kill()
    after = await whole(fleet_lab, one)
    assert [killed.instance_id] == [each["id"] for each in after if each["generation"] == 2]


async def test_a_node_that_restarts_soon_keeps_its_instances(fleet_lab: ContainerLab) -> None:
    one = await applied(fleet_lab)
    before = set(fleet_lab.units())

    fleet_lab.nodes[0].containerd.restart(signal.SIGKILL)
    one.kill()
    one.start()
    await eventually(one.leads)
    instances = await whole(fleet_lab, one)

    assert before == set(fleet_lab.units())
    assert {1} == {each["generation"] for each in instances}


async def test_instances_that_answer_stay_where_they_are_however_long_containerd_is_away(
    fleet_lab: ContainerLab,
) -> None:
    one = await applied(fleet_lab)
    before = set(fleet_lab.units())
    away = fleet_lab.nodes[0].containerd

    away.stop(signal.SIGKILL)
    await eventually(lambda: is_unreachable(one))
    await asyncio.sleep(NODE_GRACE_S + 2.0)
    assert before == set(fleet_lab.units())
    away.start()

    instances = await whole(fleet_lab, one)
    assert before == set(fleet_lab.units())
    assert {1} == {each["generation"] for each in instances}


async def is_unreachable(one: Provisioner) -> bool:
    """Say whether a provisioner knows that a node does not answer."""
    return "\nollama_provisioner_unreachable_nodes 1.0\n" in (
        (await one.answer("/metrics")).body.decode()
    )


async def test_a_lost_nodes_instances_are_placed_elsewhere_and_swept_when_it_returns(
    fleet_lab: ContainerLab,
) -> None:
    """The node hangs as a whole; then it goes on, and does not know that it was given up."""
    lost, other = fleet_lab.nodes
    one = await applied(fleet_lab)
    moved = {each["id"] for each in await one.instances() if each["node"] == lost.name}

    lost.containerd.stop(signal.SIGKILL)
    hanging = [unit for unit in fleet_lab.units() if unit.instance_id in moved]
    for unit in hanging:
        os.kill(unit.pid, signal.SIGSTOP)

    async def is_moved() -> bool:
        told = await one.instances()
        return {other.name: N} == by_node(told) and {"running"} == {each["phase"] for each in told}

    await eventually(is_moved, within_s=WHOLE_S)
    assert dict.fromkeys(moved, 2) == fleet_lab.doubled()

    for unit in hanging:
        os.kill(unit.pid, signal.SIGCONT)
    lost.containerd.start()
    instances = await whole(fleet_lab, one)

    assert {other.name: N} == by_node(instances)
    assert moved == {each["id"] for each in instances if each["generation"] > 1}
    assert not set(hanging) & set(fleet_lab.units())


async def test_what_is_not_ours_is_left_alone(fleet_lab: ContainerLab, tmp_path: Path) -> None:
    """A container of the fleet's namespace without its label, and another fleet's."""
    node = fleet_lab.nodes[0]
    daemon = Daemon(node.containerd.endpoint, namespace_of(fleet_lab.fleet))
    stranger = messages.Container(
        id="stranger",
        runtime=messages.Runtime(name="io.containerd.runc.v2"),
        spec=api.wrapped(api.SPEC_TYPE, b"{}"),
    )
    await daemon.call(api.CREATE_CONTAINER, messages.CreateContainerRequest(container=stranger))
    neighbour = ContainerdLab(node.containerd, busybox_archive(tmp_path))
    await neighbour.prepare("neighbour")
    theirs = neighbour.container(fleet="neighbour")
    await neighbour.open(fleet="neighbour").start(theirs)
    pid = await neighbour.pid(theirs)

    one = await applied(fleet_lab)
    node.containerd.restart(signal.SIGKILL)
    await fleet_lab.done("provisioner", "apply", "--yes", str(fleet_lab.containers(0)))

    assert [] == fleet_lab.units()
    assert [] == await one.instances()
    assert pid == await neighbour.pid(theirs)
    await daemon.call(api.GET_CONTAINER, messages.ContainerId(id="stranger"))
    await daemon.close()
    await neighbour.close()


async def test_instances_keep_off_ports_on_which_strangers_answer(
    fleet_lab: ContainerLab,
) -> None:
    """As another fleet of the same nodes would, whose ports are by default the same."""
    taken = UNITS[:50]
    async with AsyncExitStack() as strangers:
        for node in fleet_lab.nodes:
            for port in taken:
                stranger = await asyncio.start_server(answer_well, node.address, port)
                await strangers.enter_async_context(stranger)

        one = await applied(fleet_lab)

        instances = await one.instances()
    assert [] == [each["id"] for each in instances if each["port"] in taken]
    assert 1 < max(each["generation"] for each in instances)
    assert {"running"} == {each["phase"] for each in instances}


async def answer_well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer whatever is asked as a healthy server does."""
    await reader.read(1)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    writer.close()


@pytest.mark.nightly
async def test_whatever_is_killed_the_fleet_is_whole_again(fleet_lab: ContainerLab) -> None:
    """Daemons, containers and the provisioner, in rounds; daemons come back within the grace."""
    dice = random.Random(SEED)  # noqa: S311 - not for secrets
    one = await applied(fleet_lab)
    for _ in range(N_ROUNDS):
        node = dice.choice(fleet_lab.nodes)
        killed = dice.sample(fleet_lab.units(), 2)
        is_before = dice.random() < 0.5
        if is_before:
            node.containerd.stop(signal.SIGKILL)
        for unit in killed:
            unit.kill()
        await asyncio.sleep(dice.uniform(0.0, 0.5))
        one.kill()
        if not is_before:
            node.containerd.stop(signal.SIGKILL)
        one.start()
        node.containerd.start()
        await eventually(one.leads)
        await whole(fleet_lab, one)
        assert {} == fleet_lab.doubled()
