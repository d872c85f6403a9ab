"""The provisioner dies in the middle of a start: nothing is left, or something that is found."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import msgspec
import pytest

from provisioning.model import ContainerSpec, ContainerState
from tests.provisioning.runtime.contract import Behaviour
from tests.provisioning.runtime.killed_starter import AFTER_SPAWN
from tests.provisioning.runtime.processes import ProcessLab
from tests.waiting import eventually

MANY_STEPS = 200
STARTER = "tests.provisioning.runtime.killed_starter"


def start_and_die(lab: ProcessLab, container: ContainerSpec, *, step: int) -> bool:
    """Return whether the starter came to its end alive."""
    command = [sys.executable, "-m", STARTER, str(lab.state_dir), str(step)]
    run = subprocess.run(
        [*command, msgspec.json.encode(container).decode()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in {0, -9}, run.stderr
    return run.stdout == "done"


@pytest.mark.timeout(600)
async def test_a_start_that_was_killed_at_any_step_leaves_nothing_that_is_not_found_and_removed(
    process_lab: ProcessLab,
) -> None:
    states = set()
    for step in (AFTER_SPAWN, *range(1, MANY_STEPS)):
        container = process_lab.container(number=abs(step))
        came_to_end = start_and_die(process_lab, container, step=step)
        runtime = process_lab.open()

        found = await runtime.containers()
        assert [container.name][: len(found)] == [one.name for one in found], step
        states |= {one.state for one in found}
        await runtime.remove(container.name, grace_s=0.1)

        assert () == await runtime.containers(), step
        assert [] == process_lab.processes(container), step
        assert not process_lab.group(container).exists(), step
        if came_to_end:
            break
    assert came_to_end
    assert {ContainerState.CREATED, ContainerState.RUNNING} <= states


@pytest.mark.timeout(600)
async def test_a_start_that_was_killed_at_any_third_step_is_completed_by_the_next_one(
    process_lab: ProcessLab,
) -> None:
    for step in range(1, MANY_STEPS, 3):
        container = process_lab.container(number=step)
        came_to_end = start_and_die(process_lab, container, step=step)
        runtime = process_lab.open()

        await runtime.start(container)

        assert ContainerState.RUNNING in {one.state for one in await runtime.containers()}
        await eventually(partial(is_one_process, process_lab, container))
        await runtime.remove(container.name, grace_s=1.0)
        if came_to_end:
            break
    assert came_to_end


def is_one_process(lab: ProcessLab, container: ContainerSpec) -> bool:
    return 1 == len(lab.processes(container))


async def test_a_container_of_a_dead_provisioner_is_adopted_its_end_told_and_its_status_unknown(
    process_lab: ProcessLab,
) -> None:
    container = process_lab.container()
    assert start_and_die(process_lab, container, step=0)
    runtime = process_lab.open()
    (found,) = await runtime.containers()
    assert ContainerState.RUNNING == found.state

    await process_lab.kill(container)

    await eventually(lambda: not os.path.exists(f"/proc/{process_lab.identity(container).pid}"))
    (found,) = await runtime.containers()
    assert (ContainerState.EXITED, None) == (found.state, found.exit_status)


async def test_a_hungry_container_of_a_dead_provisioner_is_known_to_have_been_out_of_memory(
    process_lab: ProcessLab,
) -> None:
    if process_lab.groups is None:
        pytest.skip("no memory cgroup can be made here")
    assert start_and_die(process_lab, process_lab.container(Behaviour.EATS_MEMORY), step=0)
    runtime = process_lab.open()

    async def is_told() -> bool:
        return [True] == [found.is_out_of_memory for found in await runtime.containers()]

    await eventually(is_told)
