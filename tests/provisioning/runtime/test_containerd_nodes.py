"""Nodes whose containerd is restarted, killed or gone, and two nodes at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from provisioning.errors import NodeUnreachableError, TransientError
from provisioning.model import ContainerSpec, ContainerState
from provisioning.runtime.containerd.runtime import ContainerdRuntime
from tests.containerd import Containerd, running_containerd
from tests.provisioning.runtime.containers import ContainerdLab, is_removed
from tests.provisioning.runtime.contract import FLEET, has_exited, running
from tests.waiting import eventually


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Containerd]:
    with running_containerd(tmp_path / "first") as daemon:
        yield daemon


@pytest.fixture
async def lab(containerd: Containerd, busybox: Path) -> AsyncIterator[ContainerdLab]:
    lab = ContainerdLab(containerd, busybox)
    await lab.prepare(FLEET)
    yield lab
    await lab.close()


@pytest.fixture
async def second_lab(tmp_path: Path, busybox: Path) -> AsyncIterator[ContainerdLab]:
    """Another node of the same fleet."""
    with running_containerd(tmp_path / "second") as daemon:
        lab = ContainerdLab(daemon, busybox, node="node-2")
        await lab.prepare(FLEET)
        yield lab
        await lab.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_containers_outlive_a_restart_of_the_daemon_and_are_ours_again(
    lab: ContainerdLab, number: signal.Signals
) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    pid = await lab.pid(container)

    lab.containerd.restart(number)

    await eventually(lambda: answers(runtime))
    assert (running(container),) == await runtime.containers()
    assert pid == await lab.pid(container)
    await runtime.start(container)
    await runtime.remove(container.name, grace_s=0.1)
    assert () == await runtime.containers()


async def test_events_are_heard_again_after_a_restart_of_the_daemon(lab: ContainerdLab) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    told = asyncio.ensure_future(anext(runtime.changes()))
    lab.containerd.restart(signal.SIGKILL)
    await eventually(lambda: answers(runtime))

    await lab.kill(container)

    assert container.name == await asyncio.wait_for(told, 60.0)


async def test_what_ended_while_the_daemon_was_down_is_told_and_has_exited_somehow(
    lab: ContainerdLab,
) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    pid = await lab.pid(container)
    told = asyncio.ensure_future(anext(runtime.changes()))
    lab.containerd.stop()

    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not Path(f"/proc/{pid}").exists())
    lab.containerd.start()

    assert container.name == await asyncio.wait_for(told, 60.0)
    await eventually(lambda: has_exited(runtime, container))
    (found,) = await runtime.containers()
    assert (ContainerState.EXITED, None) == (found.state, found.exit_status)
    await runtime.start(container)
    assert (running(container),) == await runtime.containers()


async def test_a_daemon_that_is_down_is_an_unreachable_node_at_once(lab: ContainerdLab) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    said = r"containerd\.sock: UNAVAILABLE: .*can be reached"
    lab.containerd.stop()

    async with asyncio.timeout(60.0):
        for asking in (
            runtime.containers(),
            runtime.start(container),
            runtime.remove(container.name, grace_s=0.1),
        ):
            with pytest.raises(NodeUnreachableError, match=said):
                await asking

    lab.containerd.start()
    await eventually(lambda: answers(runtime))
    assert (running(container),) == await runtime.containers()


async def test_a_daemon_that_hangs_is_an_unreachable_node_after_the_deadline(
    lab: ContainerdLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = lab.open()
    await runtime.containers()
    assert lab.containerd.process is not None
    pid = lab.containerd.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        await eventually(lambda: has_stopped(pid))
        monkeypatch.setattr(runtime._daemon, "deadline_s", 0.3)

        with pytest.raises(NodeUnreachableError, match="DEADLINE_EXCEEDED"):
            await runtime.containers()
    finally:
        os.kill(pid, signal.SIGCONT)

    monkeypatch.undo()
    await eventually(lambda: answers(runtime))


def has_stopped(pid: int) -> bool:
    """Say whether a child of ours has stopped: its threads go on for a moment after the signal."""
    return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None


async def test_a_shim_that_is_killed_takes_its_container_along(lab: ContainerdLab) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    (shim,) = lab.containerd.shims()

    os.kill(shim, signal.SIGKILL)

    await eventually(lambda: is_removed(runtime, container.name))
    await eventually(lambda: runs_again(runtime, container))


async def runs_again(runtime: ContainerdRuntime, container: ContainerSpec) -> bool:
    """Start a container.

    As often as it takes: containerd cleans up after a lost shim for a moment.
    """
    try:
        await runtime.start(container)
    except TransientError:
        return False
    return (running(container),) == await runtime.containers()


async def test_two_nodes_on_one_machine_have_nothing_in_common(
    lab: ContainerdLab, second_lab: ContainerdLab
) -> None:
    """Both run a container of the same name."""
    first, second = lab.open(), second_lab.open()
    container = lab.container()

    await asyncio.gather(first.start(container), second.start(container))
    assert await lab.pid(container) != await second_lab.pid(container)
    await first.remove(container.name, grace_s=0.1)

    assert () == await first.containers()
    assert (running(container),) == await second.containers()
    lab.containerd.stop(signal.SIGKILL)
    assert (running(container),) == await second.containers()
    lab.containerd.start()


async def answers(runtime: ContainerdRuntime) -> bool:
    """Say whether the runtime's own connection works."""
    try:
        await runtime.containers()
    except NodeUnreachableError:
        return False
    return True
