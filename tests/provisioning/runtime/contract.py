"""What every runtime promises: one suite that all implementations pass.

In:   a fixture `lab`, which makes runtimes of one node and units that behave as a test asks.
Out:  a test per promise of provisioning/runtime/base.py. A test module inherits the suite:

    class TestProcessRuntime(RuntimeContract):
        "The process runtime keeps the promises of every runtime."

What not every runtime can know, such as the memory that a unit used, is a Feature of the lab; the
tests of a feature that it lacks are skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

import msgspec
import pytest

from provisioning.errors import LastingError, NoRoomError
from provisioning.model import FoundUnit, Unit, UnitState
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
    """What a unit of a test does once it is started."""

    SERVES = "serves"
    """Runs until SIGTERM, then ends at once."""
    IGNORES_SIGTERM = "ignores_sigterm"
    ENDS = "ends"
    """Ends at once, with EXIT_STATUS."""
    EATS_MEMORY = "eats_memory"
    """Takes more and more memory, beyond the unit's limit."""
    ITS_CHILD_EATS_MEMORY = "its_child_eats_memory"
    """Likewise, in a child of its first process, which goes on without it."""
    CANNOT_START = "cannot_start"
    """Its command, or image, does not exist."""


class Feature(StrEnum):
    """What a runtime may or may not know."""

    PORTS = "ports"
    """It sees that a stranger has the unit's port."""
    MEMORY = "memory"
    """It limits memory and says when the limit was hit."""
    CHILDREN = "children"
    """Its units have children, whose ends for want of memory it sees."""
    ENVIRONMENT = "environment"
    """Its units are real enough to have an environment."""
    EXIT_STATUS = "exit_status"
    """It tells the exit status of a unit that it started."""


class Lab(Protocol):
    """One node for one test; whatever the test leaves on it, the fixture removes."""

    @property
    def features(self) -> frozenset[Feature]:
        """Return what the runtime can."""
        ...

    def open(self, *, fleet: str = FLEET) -> Runtime:
        """Return another runtime object for the same node, as after a provisioner's restart."""
        ...

    def unit(
        self, behaviour: Behaviour = Behaviour.SERVES, *, number: int = 1, fleet: str = FLEET
    ) -> Unit:
        """Return a unit with a free port; equal numbers give equal names."""
        ...

    async def kill(self, unit: Unit) -> None:
        """End a running unit from outside, by force."""
        ...

    async def take_port(self, unit: Unit) -> None:
        """Let a stranger listen where the unit would."""
        ...

    async def environment(self, unit: Unit) -> Mapping[str, str]:
        """Return the environment that a running unit sees."""
        ...


class RuntimeContract:
    """The promises of provisioning/runtime/base.py."""

    async def test_a_started_unit_runs_and_is_told_with_its_ids(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit(number=7)

        await runtime.start(unit)

        assert (running(unit),) == await runtime.units()

    async def test_a_node_without_units_has_none(self, lab: Lab) -> None:
        assert () == await lab.open().units()

    async def test_starting_a_running_unit_again_does_nothing(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit()
        await runtime.start(unit)
        names = runtime.changes()
        next_name = asyncio.ensure_future(anext(names))

        await runtime.start(unit)
        await lab.open().start(unit)

        assert (running(unit),) == await runtime.units()
        assert not next_name.done()
        await ended(next_name)

    async def test_two_starts_at_once_make_one_unit(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit()

        await asyncio.gather(runtime.start(unit), runtime.start(unit))

        assert (running(unit),) == await runtime.units()

    async def test_units_outlive_the_runtime_object_and_are_found_by_the_next(
        self, lab: Lab
    ) -> None:
        first, unit = lab.open(), lab.unit()
        await first.start(unit)
        await first.close()

        second = lab.open()

        assert (running(unit),) == await second.units()
        await second.remove(unit.name, grace_s=GRACE_S)
        assert () == await second.units()

    async def test_a_unit_that_ends_when_asked_is_removed_long_before_the_grace_is_over(
        self, lab: Lab
    ) -> None:
        runtime, unit = lab.open(), lab.unit()
        await runtime.start(unit)

        async with asyncio.timeout(GRACE_S * 6):
            await runtime.remove(unit.name, grace_s=GRACE_S * 12)

        assert () == await runtime.units()

    async def test_a_unit_that_ignores_sigterm_is_killed_after_the_grace(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit(Behaviour.IGNORES_SIGTERM)
        await runtime.start(unit)

        await runtime.remove(unit.name, grace_s=SHORT_GRACE_S)

        assert () == await runtime.units()

    async def test_removing_what_does_not_exist_does_nothing(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit()

        await runtime.remove(unit.name, grace_s=GRACE_S)
        await runtime.start(unit)
        await runtime.remove(unit.name, grace_s=GRACE_S)
        await runtime.remove(unit.name, grace_s=GRACE_S)

        assert () == await runtime.units()

    async def test_two_removals_at_once_remove_once(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit()
        await runtime.start(unit)

        await asyncio.gather(*(runtime.remove(unit.name, grace_s=GRACE_S) for _ in range(2)))

        assert () == await runtime.units()

    async def test_a_removed_unit_can_be_started_again(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit()
        await runtime.start(unit)
        await runtime.remove(unit.name, grace_s=GRACE_S)

        await runtime.start(unit)

        assert (running(unit),) == await runtime.units()

    async def test_a_unit_that_ended_is_told_as_exited(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit(Behaviour.ENDS)

        await runtime.start(unit)

        await eventually(lambda: has_exited(runtime, unit))
        (found,) = await runtime.units()
        assert not found.is_out_of_memory
        if Feature.EXIT_STATUS in lab.features:
            assert EXIT_STATUS == found.exit_status

    async def test_an_exited_unit_is_removed_whole(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit(Behaviour.ENDS)
        await runtime.start(unit)
        await eventually(lambda: has_exited(runtime, unit))

        await runtime.remove(unit.name, grace_s=GRACE_S)

        assert () == await runtime.units()

    async def test_an_exited_unit_is_started_again(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit()
        await runtime.start(unit)
        await lab.kill(unit)
        await eventually(lambda: has_exited(runtime, unit))

        await runtime.start(unit)

        assert (running(unit),) == await runtime.units()

    async def test_a_killed_unit_is_told_soon_by_changes(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit()
        await runtime.start(unit)

        assert unit.name == await told_of_a_kill(lab, runtime, unit)

        await eventually(lambda: has_exited(runtime, unit))

    async def test_changes_tells_of_units_that_another_runtime_object_started(
        self, lab: Lab
    ) -> None:
        first, unit = lab.open(), lab.unit()
        await first.start(unit)
        await first.close()
        second = lab.open()
        await second.units()

        assert unit.name == await told_of_a_kill(lab, second, unit)

    async def test_what_cannot_ever_start_is_a_lasting_error_and_leaves_nothing(
        self, lab: Lab
    ) -> None:
        runtime, unit = lab.open(), lab.unit(Behaviour.CANNOT_START)

        with pytest.raises(LastingError):
            await runtime.start(unit)

        assert () == await runtime.units()

    async def test_a_port_that_a_stranger_has_is_no_room(self, lab: Lab) -> None:
        needs(lab, Feature.PORTS)
        runtime, unit = lab.open(), lab.unit()
        await lab.take_port(unit)

        with pytest.raises(NoRoomError, match=str(unit.port)):
            await runtime.start(unit)

        assert () == await runtime.units()

    @pytest.mark.parametrize("after_s", [0.0, 0.002, 0.01, 0.03, 0.1])
    async def test_what_a_cancelled_start_leaves_is_found_and_removed(
        self, lab: Lab, after_s: float
    ) -> None:
        runtime, unit = lab.open(), lab.unit()
        starting = asyncio.create_task(runtime.start(unit))
        await asyncio.sleep(after_s)
        starting.cancel()
        await asyncio.wait([starting])

        assert {found.name for found in await runtime.units()} <= {unit.name}
        await runtime.remove(unit.name, grace_s=GRACE_S)

        assert () == await lab.open().units()

    async def test_a_cancelled_start_can_be_made_again(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit()
        starting = asyncio.create_task(runtime.start(unit))
        await asyncio.sleep(0.005)
        starting.cancel()
        await asyncio.wait([starting])

        await runtime.start(unit)

        assert (running(unit),) == await runtime.units()

    async def test_a_cancelled_removal_can_be_made_again(self, lab: Lab) -> None:
        runtime, unit = lab.open(), lab.unit(Behaviour.IGNORES_SIGTERM)
        await runtime.start(unit)
        removing = asyncio.create_task(runtime.remove(unit.name, grace_s=60.0))
        await asyncio.sleep(0.05)
        removing.cancel()
        await asyncio.wait([removing])

        await runtime.remove(unit.name, grace_s=SHORT_GRACE_S)

        assert () == await runtime.units()

    async def test_many_units_are_started_and_removed_at_once(self, lab: Lab) -> None:
        runtime = lab.open()
        units = [lab.unit(number=number) for number in range(N_AT_ONCE)]

        await asyncio.gather(*(runtime.start(unit) for unit in units))
        found = await runtime.units()

        assert sorted(running(unit).name for unit in units) == [one.name for one in found]
        assert {UnitState.RUNNING} == {one.state for one in found}

        await asyncio.gather(*(runtime.remove(unit.name, grace_s=GRACE_S) for unit in units))
        assert () == await runtime.units()

    async def test_units_of_another_fleet_are_neither_listed_nor_removed(self, lab: Lab) -> None:
        ours, theirs = lab.open(), lab.open(fleet=OTHER_FLEET)
        unit = lab.unit(fleet=OTHER_FLEET)
        await theirs.start(unit)

        assert () == await ours.units()
        await ours.remove(unit.name, grace_s=SHORT_GRACE_S)

        assert (running(unit),) == await theirs.units()

    async def test_units_of_equal_names_in_two_fleets_do_not_meet(self, lab: Lab) -> None:
        ours, theirs = lab.open(), lab.open(fleet=OTHER_FLEET)
        unit, port = lab.unit(), lab.unit(number=2).port
        namesake = msgspec.structs.replace(lab.unit(fleet=OTHER_FLEET), port=port)
        await asyncio.gather(ours.start(unit), theirs.start(namesake))

        await ours.remove(unit.name, grace_s=SHORT_GRACE_S)

        assert () == await ours.units()
        assert (running(namesake),) == await theirs.units()
        await theirs.remove(namesake.name, grace_s=SHORT_GRACE_S)
        assert () == await theirs.units()

    async def test_hostile_values_in_the_environment_arrive_unchanged(self, lab: Lab) -> None:
        needs(lab, Feature.ENVIRONMENT)
        runtime = lab.open()
        unit = msgspec.structs.replace(lab.unit(), environment=HOSTILE)

        await runtime.start(unit)

        seen = await lab.environment(unit)
        assert dict(HOSTILE) == {name: seen.get(name) for name, _ in HOSTILE}

    async def test_a_unit_above_its_memory_limit_is_killed_and_told_as_out_of_memory(
        self, lab: Lab
    ) -> None:
        needs(lab, Feature.MEMORY)
        runtime, hungry = lab.open(), lab.unit(Behaviour.EATS_MEMORY)
        neighbour = lab.unit(number=2)
        await runtime.start(neighbour)

        await runtime.start(hungry)

        await eventually(lambda: has_exited(runtime, hungry))
        await eventually(lambda: is_out_of_memory(runtime, hungry))
        assert running(neighbour) in await runtime.units()

    async def test_a_unit_that_goes_on_without_a_child_is_told_as_out_of_memory(
        self, lab: Lab
    ) -> None:
        needs(lab, Feature.CHILDREN)
        runtime, server = lab.open(), lab.unit(Behaviour.ITS_CHILD_EATS_MEMORY)
        neighbour = lab.unit(number=2)
        await runtime.start(neighbour)

        await runtime.start(server)

        await eventually(lambda: is_out_of_memory(runtime, server))
        told = msgspec.structs.replace(running(server), is_out_of_memory=True)
        assert (told, running(neighbour)) == await runtime.units()
        # What it had lost before is no news to another provisioner.
        assert (running(server), running(neighbour)) == await lab.open().units()

        await runtime.remove(server.name, grace_s=0.0)
        await runtime.start(lab.unit())
        assert (running(server), running(neighbour)) == await runtime.units()


def running(unit: Unit) -> FoundUnit:
    """Return what a runtime says about a unit that runs."""
    return FoundUnit(unit.name, unit.instance_id, unit.generation, UnitState.RUNNING)


async def has_exited(runtime: Runtime, unit: Unit) -> bool:
    """Say whether the runtime has the unit, and it has exited."""
    return any(
        found.name == unit.name and found.state is UnitState.EXITED
        for found in await runtime.units()
    )


async def told_of_a_kill(lab: Lab, runtime: Runtime, unit: Unit) -> str:
    """Kill a running unit until its end is told: a stream takes a moment to be set up."""
    told = asyncio.ensure_future(anext(runtime.changes()))
    for _ in range(10):
        await lab.kill(unit)
        if (await asyncio.wait({told}, timeout=3.0))[0]:
            return told.result()
        await runtime.remove(unit.name, grace_s=0.1)
        await runtime.start(unit)
    raise AssertionError("no end was told")


async def is_out_of_memory(runtime: Runtime, unit: Unit) -> bool:
    """Say whether the runtime knows that the unit ran out of memory."""
    return any(
        found.name == unit.name and found.is_out_of_memory for found in await runtime.units()
    )


def needs(lab: Lab, feature: Feature) -> None:
    """Skip the test where the runtime lacks the feature."""
    if feature not in lab.features:
        pytest.skip(f"this runtime cannot know: {feature}")


async def ended(task: asyncio.Future[str]) -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])
