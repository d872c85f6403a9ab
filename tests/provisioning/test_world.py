"""The simulated runtime keeps every runtime's promises, and does what it is told to simulate."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from ollama_fleet.clock import SystemClock
from provisioning.errors import (
    NodeUnreachableError,
    TransientError,
)
from provisioning.model import ContainerSpec, Probe
from tests.provisioning.runtime.contract import (
    EXIT_STATUS,
    FLEET,
    Feature,
    RuntimeContract,
)
from tests.provisioning.runtime.contract import Behaviour as Wanted
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.provisioning.world import Behaviour, SimulatedProber, SimulatedRuntime, World

NODE = "n1"
BEHAVIOURS = {
    Wanted.SERVES: Behaviour(start_s=0.02),
    Wanted.IGNORES_SIGTERM: Behaviour(ignores_sigterm=True),
    Wanted.ENDS: Behaviour(ends_after_s=0.0, exit_status=EXIT_STATUS),
    Wanted.EATS_MEMORY: Behaviour(out_of_memory_after_s=0.05),
    Wanted.CANNOT_START: Behaviour(cannot_start=True),
}


class SimulatedLab:
    """One node of a world; see `contract.Lab`."""

    features = frozenset({Feature.PORTS, Feature.MEMORY, Feature.EXIT_STATUS})

    def __init__(self) -> None:
        self.world = World(
            SystemClock(), by_image={f"{wanted}": one for wanted, one in BEHAVIOURS.items()}
        )

    def open(self, *, fleet: str = FLEET) -> SimulatedRuntime:
        return SimulatedRuntime(self.world, NODE, fleet)

    def container(
        self, behaviour: Wanted = Wanted.SERVES, *, number: int = 1, fleet: str = FLEET
    ) -> ContainerSpec:
        return container(number, image=f"{behaviour}", fleet=fleet)

    async def kill(self, container: ContainerSpec) -> None:
        self.world.kill(container.name)

    async def take_port(self, container: ContainerSpec) -> None:
        self.world.take_port(container.host, container.port)

    async def environment(self, container: ContainerSpec) -> Mapping[str, str]:
        raise NotImplementedError


def container(number: int = 1, **fields: object) -> ContainerSpec:
    made = ContainerSpec(
        name=f"chat-{number:05}.1",
        fleet=FLEET,
        instance_id=f"chat-{number:05}",
        generation=1,
        pool="chat",
        host="127.0.0.1",
        port=20_000 + number,
        image="",
        command=(),
        environment=(),
        mounts=(),
        cpus=1.0,
        memory_bytes=1,
    )
    return msgspec.structs.replace(made, **fields)


@pytest.fixture
def lab() -> SimulatedLab:
    return SimulatedLab()


class TestSimulatedRuntime(RuntimeContract):
    """The simulated runtime keeps the promises of every runtime."""


def world_of(behaviour: Behaviour, *, seed: int = 0) -> tuple[World, SimulatedRuntime]:
    world = World(VirtualClock(), seed=seed, behaviour=behaviour)
    return world, SimulatedRuntime(world, NODE, FLEET)


def test_so_many_tries_fail_as_told_and_equal_seeds_fail_alike() -> None:
    async def scene(seed: int) -> list[int]:
        _, runtime = world_of(Behaviour(failure_ratio=0.3), seed=seed)
        failed = []
        for number in range(1000):
            try:
                await runtime.start(container(number))
            except TransientError:
                failed.append(number)
        return failed

    failed = virtual_run(scene(1))

    assert len(failed) == pytest.approx(300, abs=60)
    assert failed == virtual_run(scene(1))
    assert failed != virtual_run(scene(2))


def test_a_silent_node_answers_nothing_and_its_containers_go_on() -> None:
    async def scene() -> None:
        world, runtime = world_of(Behaviour())
        await runtime.start(container())
        world.silence(NODE)

        with pytest.raises(NodeUnreachableError, match=NODE):
            await runtime.containers()
        with pytest.raises(NodeUnreachableError, match=NODE):
            await runtime.start(container(2))
        with pytest.raises(NodeUnreachableError, match=NODE):
            await runtime.remove(container().name, grace_s=1.0)
        assert "refused" in await SimulatedProber(world).probe("127.0.0.1", 20_001, Probe())

        world.restore(NODE)
        assert [container().name] == [one.name for one in await runtime.containers()]
        assert "" == await SimulatedProber(world).probe("127.0.0.1", 20_001, Probe())

    virtual_run(scene())
