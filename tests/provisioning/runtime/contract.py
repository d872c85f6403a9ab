"""What every runtime promises: one suite that all implementations pass.

A test module inherits the suite, and has a fixture `lab`:

    class TestProcessRuntime(RuntimeContract):
        "The process runtime keeps the promises of every runtime."

What not every runtime can know, such as the memory that a container used, is a Feature of the lab;
the tests of a feature that it lacks are skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

import msgspec
import pytest

from provisioning.errors import PermanentError, ResourceExhaustedError
from provisioning.model import ContainerSpec, ContainerState, ObservedContainer
from provisioning.runtime.base import Runtime
from tests.waiting import eventually

FLEET = "contract"
OTHER_FLEET = "contract-other"
GRACE_S = 5.0
SHORT_GRACE_S = 0.3
EXIT_STATUS = 3
N_AT_ONCE = 20
HOSTILE = (
    ("EMPTY", ""),
    ("LINES", "one\ntwo\r\n\tthree"),
    ("QUOTES", "'\"`$(exit 9)${HOME}\\"),
    ("UNICODE", "größe \u2028 \U0001f999"),
    ("WITH.DOT-AND-DASH", "a=b=c"),
)
"""Environment that a careless runtime would drop, split, expand or run."""


class Behaviour(StrEnum):
    """What a container of a test does once it is started."""

    SERVES = "serves"
    """Runs until SIGTERM, then ends at once."""
    IGNORES_SIGTERM = "ignores_sigterm"
    ENDS = "ends"
    """Ends at once, with EXIT_STATUS."""
    EATS_MEMORY = "eats_memory"
    """Takes more and more memory, beyond the container's limit."""
    ITS_CHILD_EATS_MEMORY = "its_child_eats_memory"
    """Likewise, in a child of its first process, which goes on without it."""
    CANNOT_START = "cannot_start"
    """Its command, or image, does not exist."""


class Feature(StrEnum):
    """What a runtime may or may not know."""

    PORTS = "ports"
    """It sees that a stranger has the container's port."""
    MEMORY = "memory"
    """It limits memory and says when the limit was hit."""
    CHILDREN = "children"
    """Its containers have children, whose ends for want of memory it sees."""
    ENVIRONMENT = "environment"
    """Its containers are real enough to have an environment."""
    EXIT_STATUS = "exit_status"
    """It tells the exit status of a container that it started."""


class Lab(Protocol):
    """One node for one test; whatever the test leaves on it, the fixture removes."""

    @property
    def features(self) -> frozenset[Feature]:
        """Return what the runtime can."""
        ...

    def open(self, *, fleet: str = FLEET) -> Runtime:
        """Return another runtime object for the same node, as after a provisioner's restart."""
        ...

    def container(
        self, behaviour: Behaviour = Behaviour.SERVES, *, number: int = 1, fleet: str = FLEET
    ) -> ContainerSpec:
        """Return a container with a free port; equal numbers give equal names."""
        ...

    async def kill(self, container: ContainerSpec) -> None:
        """End a running container from outside, by force."""
        ...

    async def take_port(self, container: ContainerSpec) -> None:
        """Let a stranger listen where the container would."""
        ...

    async def environment(self, container: ContainerSpec) -> Mapping[str, str]:
        """Return the environment that a running container sees."""
        ...


class RuntimeContract:
    """The promises of provisioning/runtime/base.py."""

    async def test_a_started_container_runs_and_is_told_with_its_ids(self, lab: Lab) -> None:
        runtime, container = lab.open(), lab.container(number=7)

        await runtime.start(container)

        assert (running(container),) == await runtime.containers()

    async def test_starting_a_running_container_again_does_nothing(self, lab: Lab) -> None:
        runtime, container = lab.open(), lab.container()
        await runtime.start(container)
        names = runtime.changes()
        next_name = asyncio.ensure_future(anext(names))

        await runtime.start(container)
        await lab.open().start(container)

        assert (running(container),) == await runtime.containers()
        assert not next_name.done()
        await ended(next_name)

    async def test_two_starts_at_once_make_one_container(self, lab: Lab) -> None:
        runtime, container = lab.open(), lab.container()

        await asyncio.gather(runtime.start(container), runtime.start(container))

        assert (running(container),) == await runtime.containers()

    async def test_containers_outlive_the_runtime_object_and_are_found_by_the_next(
        self, lab: Lab
    ) -> None:
        first, container = lab.open(), lab.container()
        await first.start(container)
        await first.close()

        second = lab.open()

        assert (running(container),) == await second.containers()
        await second.remove(container.name, grace_s=GRACE_S)
        assert () == await second.containers()

    async def test_a_container_that_ends_when_asked_is_removed_long_before_the_grace_is_over(
        self, lab: Lab
    ) -> None:
        runtime, container = lab.open(), lab.container()
        await runtime.start(container)

        async with asyncio.timeout(100):
            await runtime.remove(container.name, grace_s=3600)

        assert () == await runtime.containers()

    async def test_a_container_that_ignores_sigterm_is_killed_after_the_grace(
        self, lab: Lab
    ) -> None:
        runtime, container = lab.open(), lab.container(Behaviour.IGNORES_SIGTERM)
        await runtime.start(container)

        await runtime.remove(container.name, grace_s=SHORT_GRACE_S)

        assert () == await runtime.containers()

    async def test_removing_what_does_not_exist_does_nothing(self, lab: Lab) -> None:
        runtime, container = lab.open(), lab.container()

        await runtime.remove(container.name, grace_s=GRACE_S)
        await runtime.start(container)
        await asyncio.gather(*(runtime.remove(container.name, grace_s=GRACE_S) for _ in range(2)))
        await runtime.remove(container.name, grace_s=GRACE_S)

        assert () == await runtime.containers()

    async def test_a_container_that_ended_is_told_as_exited(self, lab: Lab) -> None:
        runtime, container = lab.open(), lab.container(Behaviour.ENDS)

        await runtime.start(container)

        await eventually(lambda: has_exited(runtime, container))
        (found,) = await runtime.containers()
        assert not found.is_out_of_memory
        if Feature.EXIT_STATUS in lab.features:
            assert EXIT_STATUS == found.exit_status

    async def test_an_exited_container_is_removed_whole(self, lab: Lab) -> None:
        runtime, container = lab.open(), lab.container(Behaviour.ENDS)
        await runtime.start(container)
        await eventually(lambda: has_exited(runtime, container))

        await runtime.remove(container.name, grace_s=GRACE_S)

        assert () == await runtime.containers()

    async def test_an_exited_container_is_started_again(self, lab: Lab) -> None:
        runtime, container = lab.open(), lab.container()
        await runtime.start(container)
        await lab.kill(container)
        await eventually(lambda: has_exited(runtime, container))

        await runtime.start(container)

        assert (running(container),) == await runtime.containers()

    async def test_a_killed_container_is_told_soon_by_changes(self, lab: Lab) -> None:
        runtime, container = lab.open(), lab.container()
        await runtime.start(container)

        assert container.name == await told_of_a_kill(lab, runtime, container)

        await eventually(lambda: has_exited(runtime, container))

    async def test_changes_tells_of_containers_that_another_runtime_object_started(
        self, lab: Lab
    ) -> None:
        first, container = lab.open(), lab.container()
        await first.start(container)
        await first.close()
        second = lab.open()
        await second.containers()

        assert container.name == await told_of_a_kill(lab, second, container)

    async def test_what_cannot_ever_start_is_a_lasting_error_and_leaves_nothing(
        self, lab: Lab
    ) -> None:
        runtime, container = lab.open(), lab.container(Behaviour.CANNOT_START)

        with pytest.raises(PermanentError):
            await runtime.start(container)

        assert () == await runtime.containers()

    async def test_a_port_that_a_stranger_has_is_no_room(self, lab: Lab) -> None:
        needs(lab, Feature.PORTS)
        runtime, container = lab.open(), lab.container()
        await lab.take_port(container)

        with pytest.raises(ResourceExhaustedError, match=str(container.port)):
            await runtime.start(container)

        assert () == await runtime.containers()

    @pytest.mark.parametrize("after_s", [0.0, 0.005, 0.03, 0.1])
    async def test_what_a_cancelled_start_leaves_is_removed_and_it_can_be_made_again(
        self, lab: Lab, after_s: float
    ) -> None:
        runtime, container = lab.open(), lab.container()
        starting = asyncio.create_task(runtime.start(container))
        await asyncio.sleep(after_s)
        starting.cancel()
        await asyncio.wait([starting])

        assert {found.name for found in await runtime.containers()} <= {container.name}
        await runtime.remove(container.name, grace_s=GRACE_S)

        assert () == await lab.open().containers()
        await runtime.start(container)
        assert (running(container),) == await runtime.containers()

    async def test_a_cancelled_removal_can_be_made_again(self, lab: Lab) -> None:
        runtime, container = lab.open(), lab.container(Behaviour.IGNORES_SIGTERM)
        await runtime.start(container)
        removing = asyncio.create_task(runtime.remove(container.name, grace_s=60.0))
        await asyncio.sleep(0.05)
        removing.cancel()
        await asyncio.wait([removing])

        await runtime.remove(container.name, grace_s=SHORT_GRACE_S)

        assert () == await runtime.containers()

    async def test_many_containers_are_started_and_removed_at_once(self, lab: Lab) -> None:
        runtime = lab.open()
        containers = [lab.container(number=number) for number in range(N_AT_ONCE)]

        await asyncio.gather(*(runtime.start(container) for container in containers))
        found = await runtime.containers()

        assert sorted(running(container).name for container in containers) == [
            one.name for one in found
        ]
        assert {ContainerState.RUNNING} == {one.state for one in found}

        await asyncio.gather(
            *(runtime.remove(container.name, grace_s=GRACE_S) for container in containers)
        )
        assert () == await runtime.containers()

    async def test_containers_of_another_fleet_are_neither_listed_nor_removed(
        self, lab: Lab
    ) -> None:
        ours, theirs = lab.open(), lab.open(fleet=OTHER_FLEET)
        container = lab.container(fleet=OTHER_FLEET)
        await theirs.start(container)

        assert () == await ours.containers()
        await ours.remove(container.name, grace_s=SHORT_GRACE_S)

        assert (running(container),) == await theirs.containers()

    async def test_containers_of_equal_names_in_two_fleets_do_not_meet(self, lab: Lab) -> None:
        ours, theirs = lab.open(), lab.open(fleet=OTHER_FLEET)
        container, port = lab.container(), lab.container(number=2).port
        namesake = msgspec.structs.replace(lab.container(fleet=OTHER_FLEET), port=port)
        await asyncio.gather(ours.start(container), theirs.start(namesake))

        await ours.remove(container.name, grace_s=SHORT_GRACE_S)

        assert () == await ours.containers()
        assert (running(namesake),) == await theirs.containers()
        await theirs.remove(namesake.name, grace_s=SHORT_GRACE_S)
        assert () == await theirs.containers()

    async def test_hostile_values_in_the_environment_arrive_unchanged(self, lab: Lab) -> None:
        needs(lab, Feature.ENVIRONMENT)
        runtime = lab.open()
        container = msgspec.structs.replace(lab.container(), environment=HOSTILE)

        await runtime.start(container)

        seen = await lab.environment(container)
        assert dict(HOSTILE) == {name: seen.get(name) for name, _ in HOSTILE}

    async def test_a_container_above_its_memory_limit_is_killed_and_told_as_out_of_memory(
        self, lab: Lab
    ) -> None:
        needs(lab, Feature.MEMORY)
        runtime, hungry = lab.open(), lab.container(Behaviour.EATS_MEMORY)
        neighbour = lab.container(number=2)
        await runtime.start(neighbour)

        await runtime.start(hungry)

        await eventually(lambda: has_exited(runtime, hungry))
        await eventually(lambda: is_out_of_memory(runtime, hungry))
        assert running(neighbour) in await runtime.containers()

    async def test_a_container_that_goes_on_without_a_child_is_told_as_out_of_memory(
        self, lab: Lab
    ) -> None:
        needs(lab, Feature.CHILDREN)
        runtime, server = lab.open(), lab.container(Behaviour.ITS_CHILD_EATS_MEMORY)
        neighbour = lab.container(number=2)
        await runtime.start(neighbour)

        await runtime.start(server)

        await eventually(lambda: is_out_of_memory(runtime, server))
        told = msgspec.structs.replace(running(server), is_out_of_memory=True)
        assert (told, running(neighbour)) == await runtime.containers()
        assert (told, running(neighbour)) == await lab.open().containers()

        await runtime.remove(server.name, grace_s=0.0)
        await runtime.start(lab.container())
        assert (running(server), running(neighbour)) == await runtime.containers()


def running(container: ContainerSpec) -> ObservedContainer:
    """Return what a runtime says about a container that runs."""
    return ObservedContainer(
        container.name, container.instance_id, container.generation, ContainerState.RUNNING
    )


async def has_exited(runtime: Runtime, container: ContainerSpec) -> bool:
    """Say whether the runtime has the container, and it has exited."""
    return any(
        found.name == container.name and found.state is ContainerState.EXITED
        for found in await runtime.containers()
    )


async def told_of_a_kill(lab: Lab, runtime: Runtime, container: ContainerSpec) -> str:
    """Kill a running container until its end is told: a stream takes a moment to be set up."""
    told = asyncio.ensure_future(anext(runtime.changes()))
    for _ in range(100):
        await lab.kill(container)
        if (await asyncio.wait({told}, timeout=0.3))[0]:
            return told.result()
        await runtime.remove(container.name, grace_s=0.1)
        await runtime.start(container)
    raise AssertionError("no end was told")


async def is_out_of_memory(runtime: Runtime, container: ContainerSpec) -> bool:
    """Say whether the runtime knows that the container ran out of memory."""
    return any(
        found.name == container.name and found.is_out_of_memory
        for found in await runtime.containers()
    )


def needs(lab: Lab, feature: Feature) -> None:
    """Skip the test where the runtime lacks the feature."""
    if feature not in lab.features:
        pytest.skip(f"this runtime cannot know: {feature}")


async def ended(task: asyncio.Future[str]) -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])
