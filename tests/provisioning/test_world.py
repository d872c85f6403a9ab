"""The simulated runtime keeps every runtime's promises, and does what it is told to simulate."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from ollama_fleet.clock import SystemClock
from provisioning.errors import (
    NodeUnreachableError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.model import ContainerSpec, ContainerState, Probe, WarmUp
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


def test_a_start_takes_about_as_long_as_told() -> None:
    async def scene() -> list[float]:
        world, runtime = world_of(Behaviour(start_s=2.0))
        durations = []
        for number in range(200):
            begun_s = world.clock.monotonic_s()
            await runtime.start(container(number))
            durations.append(world.clock.monotonic_s() - begun_s)
        return durations

    durations = virtual_run(scene())

    assert 1.0 <= min(durations) < max(durations) <= 3.0
    assert sum(durations) / len(durations) == pytest.approx(2.0, abs=0.2)


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


def test_a_container_is_healthy_only_once_it_had_its_time() -> None:
    async def scene() -> tuple[str, str]:
        world, runtime = world_of(Behaviour(healthy_after_s=5.0))
        prober = SimulatedProber(world)
        await runtime.start(container())
        at_first = await prober.ask("127.0.0.1", 20_001, Probe())
        await world.clock.sleep(100.0)
        return at_first, await prober.ask("127.0.0.1", 20_001, Probe())

    at_first, at_last = virtual_run(scene())

    assert "status 503" in at_first
    assert "" == at_last


def test_a_container_that_hangs_never_gets_healthy() -> None:
    async def scene() -> str:
        world, runtime = world_of(Behaviour(hang_ratio=1.0))
        await runtime.start(container())
        await world.clock.sleep(1e6)
        return await SimulatedProber(world).ask("127.0.0.1", 20_001, Probe())

    assert "status 503" in virtual_run(scene())


def test_a_sick_container_runs_but_does_not_answer() -> None:
    async def scene() -> tuple[str, ContainerState]:
        world, runtime = world_of(Behaviour())
        await runtime.start(container())
        world.sicken(container().name)
        (found,) = await runtime.containers()
        return await SimulatedProber(world).ask("127.0.0.1", 20_001, Probe()), found.state

    answer, state = virtual_run(scene())

    assert "status 503" in answer
    assert ContainerState.RUNNING is state


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
        assert "refused" in await SimulatedProber(world).ask("127.0.0.1", 20_001, Probe())

        world.restore(NODE)
        assert [container().name] == [one.name for one in await runtime.containers()]
        assert "" == await SimulatedProber(world).ask("127.0.0.1", 20_001, Probe())

    virtual_run(scene())


def test_two_containers_cannot_share_a_port_of_one_address() -> None:
    async def scene() -> None:
        world, runtime = world_of(Behaviour())
        await runtime.start(container(1))

        with pytest.raises(ResourceExhaustedError, match="20001"):
            await runtime.start(container(2, port=20_001))
        with pytest.raises(ResourceExhaustedError, match="20001"):
            await SimulatedRuntime(world, "n2", FLEET).start(container(3, port=20_001))

    virtual_run(scene())


def test_an_image_behaves_as_told_for_it() -> None:
    async def scene() -> None:
        world, runtime = world_of(Behaviour())
        world.behave(Behaviour(cannot_start=True), image="missing")
        await runtime.start(container(1))

        with pytest.raises(PermanentError, match="missing"):
            await runtime.start(container(2, image="missing"))

    virtual_run(scene())


def test_a_warm_up_takes_its_time_and_fails_where_nobody_listens() -> None:
    async def scene() -> float:
        world, runtime = world_of(Behaviour(warm_up_s=3.0))
        prober = SimulatedProber(world)
        with pytest.raises(TransientError, match="/load"):
            await prober.warm_up("127.0.0.1", 20_001, [WarmUp("/load")])
        await runtime.start(container())
        begun_s = world.clock.monotonic_s()
        await prober.warm_up("127.0.0.1", 20_001, [WarmUp("/a"), WarmUp("/b")])
        return world.clock.monotonic_s() - begun_s

    assert 6.0 == virtual_run(scene())
