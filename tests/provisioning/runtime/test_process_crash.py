"""The provisioner dies in the middle of a start: nothing is left, or something that is found."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import msgspec
import pytest

from provisioning.model import Unit, UnitState
from tests.provisioning.runtime.contract import Behaviour
from tests.provisioning.runtime.killed_starter import AFTER_SPAWN
from tests.provisioning.runtime.processes import ProcessLab
from tests.waiting import eventually

MANY_STEPS = 200
STARTER = "tests.provisioning.runtime.killed_starter"


def start_and_die(lab: ProcessLab, unit: Unit, *, step: int) -> bool:
    """Return whether the starter came to its end alive."""
    command = [sys.executable, "-m", STARTER, str(lab.state_dir), str(step)]
    run = subprocess.run(
        [*command, msgspec.json.encode(unit).decode()], capture_output=True, text=True, check=False
    )
    assert run.returncode in {0, -9}, run.stderr
    return run.stdout == "done"


@pytest.mark.timeout(600)
async def test_a_start_that_was_killed_at_any_step_leaves_nothing_that_is_not_found_and_removed(
    process_lab: ProcessLab,
) -> None:
    states = set()
    for step in (AFTER_SPAWN, *range(1, MANY_STEPS)):
        unit = process_lab.unit(number=abs(step))
        came_to_end = start_and_die(process_lab, unit, step=step)
        runtime = process_lab.open()

        found = await runtime.units()
        assert [unit.name][: len(found)] == [one.name for one in found], step
        states |= {one.state for one in found}
        await runtime.remove(unit.name, grace_s=0.1)

        assert () == await runtime.units(), step
        assert [] == process_lab.processes(unit), step
        assert not process_lab.group(unit).exists(), step
        if came_to_end:
            break
    assert came_to_end
    assert {UnitState.CREATED, UnitState.RUNNING} <= states


@pytest.mark.timeout(600)
async def test_a_start_that_was_killed_at_any_third_step_is_completed_by_the_next_one(
    process_lab: ProcessLab,
) -> None:
    for step in range(1, MANY_STEPS, 3):
        unit = process_lab.unit(number=step)
        came_to_end = start_and_die(process_lab, unit, step=step)
        runtime = process_lab.open()

        await runtime.start(unit)

        assert UnitState.RUNNING in {one.state for one in await runtime.units()}
        await eventually(partial(is_one_process, process_lab, unit))
        await runtime.remove(unit.name, grace_s=1.0)
        if came_to_end:
            break
    assert came_to_end


def is_one_process(lab: ProcessLab, unit: Unit) -> bool:
    return 1 == len(lab.processes(unit))


async def test_a_unit_of_a_dead_provisioner_is_adopted_its_end_told_and_its_status_unknown(
    process_lab: ProcessLab,
) -> None:
    unit = process_lab.unit()
    assert start_and_die(process_lab, unit, step=0)
    runtime = process_lab.open()
    (found,) = await runtime.units()
    assert UnitState.RUNNING == found.state

    await process_lab.kill(unit)

    await eventually(lambda: not os.path.exists(f"/proc/{process_lab.identity(unit).pid}"))
    (found,) = await runtime.units()
    assert (UnitState.EXITED, None) == (found.state, found.exit_status)


async def test_a_hungry_unit_of_a_dead_provisioner_is_known_to_have_been_out_of_memory(
    process_lab: ProcessLab,
) -> None:
    if process_lab.groups is None:
        pytest.skip("no memory cgroup can be made here")
    assert start_and_die(process_lab, process_lab.unit(Behaviour.EATS_MEMORY), step=0)
    runtime = process_lab.open()

    async def is_told() -> bool:
        return [True] == [found.is_out_of_memory for found in await runtime.units()]

    await eventually(is_told)
