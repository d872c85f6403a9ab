from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from provisioning.demo import leftovers
from provisioning.demo.errors import LeftoverError
from provisioning.demo.rundir import RunDir
from provisioning.model import ContainerSpec
from provisioning.runtime.process import ProcessRuntime
from tests.ports import free_port
from tests.provisioning.demo.standin import is_running
from tests.waiting import eventually


async def _started(run_dir: RunDir, *, fleet: str = "demo", node: str = "here") -> int:
    """Start a process of a fleet, let its runtime go, and return the process's id."""
    pid_file = run_dir.path / f"{fleet}-{node}.pid"
    container = ContainerSpec(
        name="pool-00001.1",
        fleet=fleet,
        instance_id="pool-00001",
        generation=1,
        pool="pool",
        host="127.0.0.1",
        port=free_port(),
        image="",
        command=("sh", "-c", f"echo $$ >'{pid_file}'; exec sleep 600"),
        environment=(),
        mounts=(),
        cpus=1.0,
        memory_bytes=0,
    )
    runtime = ProcessRuntime(
        fleet, node, state_dir=run_dir.provisioner_containers, environ=os.environ, groups=None
    )
    await runtime.start(container)
    await eventually(lambda: pid_file.exists() and pid_file.read_text())
    await runtime.close()
    return int(pid_file.read_text())


async def test_processes_of_the_run_end_with_it(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)

    async with leftovers.no_leftovers(run_dir, is_kept=False):
        pid = await _started(run_dir)
        assert is_running(pid)

    assert not is_running(pid)


async def test_processes_of_every_fleet_and_node_that_a_killed_run_left_end_before_the_next(
    tmp_path: Path,
) -> None:
    run_dir = RunDir(tmp_path)
    pids = [
        await _started(run_dir),
        await _started(run_dir, node="there"),
        await _started(run_dir, fleet="lab"),
    ]
    run_dir.provisioner_store.touch()

    async with leftovers.no_leftovers(run_dir, is_kept=False):
        assert [] == [pid for pid in pids if is_running(pid)]
        assert not run_dir.provisioner_store.exists()


async def test_what_is_to_be_kept_is_there_before_and_after(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    pid = await _started(run_dir)
    run_dir.provisioner_store.touch()

    async with leftovers.no_leftovers(run_dir, is_kept=True):
        assert is_running(pid)

    assert is_running(pid)
    assert run_dir.provisioner_store.exists()
    await leftovers.remove_processes(run_dir.provisioner_containers)


async def test_what_goes_on_is_counted_over_every_fleet_and_node(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    assert 0 == await leftovers.n_processes(run_dir.provisioner_containers)
    await _started(run_dir)
    ended = await _started(run_dir, node="there")
    await _started(run_dir, fleet="lab")
    assert 3 == await leftovers.n_processes(run_dir.provisioner_containers)

    os.kill(ended, signal.SIGKILL)
    await eventually(lambda: not is_running(ended))

    assert 2 == await leftovers.n_processes(run_dir.provisioner_containers)
    await leftovers.remove_processes(run_dir.provisioner_containers)
    assert 0 == await leftovers.n_processes(run_dir.provisioner_containers)


@pytest.mark.parametrize("n_further", [1, 2, 5])
async def test_further_cancellations_do_not_leave_processes_behind(
    tmp_path: Path, n_further: int
) -> None:
    run_dir = RunDir(tmp_path)
    pids: list[int] = []

    async def run() -> None:
        async with leftovers.no_leftovers(run_dir, is_kept=False):
            pids.append(await _started(run_dir))
            await asyncio.sleep(600)

    running = asyncio.create_task(run())
    await eventually(lambda: pids)
    running.cancel()
    for _ in range(n_further):
        await asyncio.sleep(0)  # it begins to remove, or goes on with it
        running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not is_running(pids[0])


async def test_what_does_not_end_is_told_though_the_run_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last time just when the removal gives up."""
    gives_up, begun = asyncio.Event(), asyncio.Event()

    async def remove_all(_: Path) -> None:
        if begun.is_set():  # that is at the end of the run
            await gives_up.wait()
            running.cancel()
            raise LeftoverError("one does not end")

    async def run() -> None:
        async with leftovers.no_leftovers(RunDir(tmp_path), is_kept=False):
            begun.set()
            await asyncio.sleep(600)

    monkeypatch.setattr(leftovers, "remove_all", remove_all)
    running = asyncio.create_task(run())
    await begun.wait()
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0)
    gives_up.set()

    with pytest.raises(LeftoverError, match="one does not end"):
        await running
