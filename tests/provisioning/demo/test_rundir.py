from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from provisioning.demo import rundir
from provisioning.demo.errors import ChildError, RunDirError
from provisioning.demo.processes import Children, ChildSpec
from provisioning.demo.rundir import RunDir
from provisioning.model import ContainerSpec
from provisioning.runtime.process import ProcessRuntime
from tests.ports import free_port
from tests.provisioning.demo.standin import is_running
from tests.waiting import eventually


def test_without_a_choice_it_is_dot_demo_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with rundir.claimed(None) as run_dir:
        assert tmp_path / ".demo" == run_dir.path


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    with (
        rundir.claimed(tmp_path),
        pytest.raises(RunDirError, match=r"another `ollama-fleet up` uses .* with --run-dir"),
        rundir.claimed(tmp_path),
    ):
        pass

    with rundir.claimed(tmp_path):
        pass


def test_what_the_programs_kept_and_the_rules_of_the_run_before_are_gone(tmp_path: Path) -> None:
    with rundir.claimed(tmp_path) as run_dir:
        kept = (run_dir.prometheus_data, run_dir.alertmanager_data, run_dir.alerts)
        for folder in kept:
            folder.mkdir()
        run_dir.alertmanager_config.touch()

    with rundir.claimed(tmp_path):
        assert not any(folder.exists() for folder in kept)


@pytest.mark.parametrize("lock", [None, "", "17\n"])
def test_in_a_persons_own_folder_nothing_is_touched(tmp_path: Path, lock: str | None) -> None:
    for name in ("alerts/mine.yml", "prometheus/mine.db", "alertmanager/mine", "provisioner/mine"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("precious")
    if lock is not None:
        (tmp_path / ".lock").write_text(lock)
    before = contents(tmp_path)

    with pytest.raises(RunDirError), rundir.claimed(tmp_path):
        pass

    assert before == contents(tmp_path)


def contents(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_only_its_owner_can_enter_the_folder_and_read_what_is_written(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    empty.chmod(0o775)  # as a shell makes it where users have a group of their own

    for path in (empty, tmp_path / "new"):
        with rundir.claimed(path) as run_dir:
            rundir.write(run_dir.spec, "[]")

            modes = [each.stat().st_mode & 0o777 for each in (path, path / ".lock", run_dir.spec)]
            assert [0o700, 0o600, 0o600] == modes


async def test_no_log_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.log").symlink_to(tmp_path / "precious")

    async with Children(tmp_path) as children:
        with pytest.raises(ChildError, match="Too many levels of symbolic links"):
            await children.start(ChildSpec("a", ("true",), "http://127.0.0.1:1/"))

    assert "precious" == (tmp_path / "precious").read_text()


def test_a_folder_that_cannot_be_made_is_reported_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(RunDirError, match=r"cannot use the run folder .*/file/run.* --run-dir"),
        rundir.claimed(tmp_path / "file" / "run"),
    ):
        pass


def test_a_file_that_cannot_be_written_is_reported_with_the_option(tmp_path: Path) -> None:
    with rundir.claimed(tmp_path) as run_dir:
        run_dir.spec.mkdir()

        with pytest.raises(RunDirError, match=r"fleet\.yml\); choose another with --run-dir"):
            rundir.write(run_dir.spec, "[]")


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

    async with rundir.no_leftovers(run_dir, is_kept=False):
        assert [] == [pid for pid in pids if is_running(pid)]
        assert not run_dir.provisioner_store.exists()


async def test_what_is_to_be_kept_is_there_before_and_after(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    pid = await _started(run_dir)
    run_dir.provisioner_store.touch()

    async with rundir.no_leftovers(run_dir, is_kept=True):
        assert is_running(pid)

    assert is_running(pid)
    assert run_dir.provisioner_store.exists()
    await rundir.remove_processes(run_dir.provisioner_containers)


@pytest.mark.parametrize("n_further", [1, 2, 5])
async def test_further_cancellations_do_not_leave_processes_behind(
    tmp_path: Path, n_further: int
) -> None:
    run_dir = RunDir(tmp_path)
    pids: list[int] = []

    async def run() -> None:
        async with rundir.no_leftovers(run_dir, is_kept=False):
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


@pytest.mark.parametrize("why", ["a symbolic link", "it belongs to the user", "others can write"])
def test_a_folder_that_another_user_may_have_filled_is_refused_and_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """A run as root would start the commands of its specification."""
    path = tmp_path / "run"
    with rundir.claimed(path) as run_dir:
        rundir.write(run_dir.spec, "precious")
    match why:
        case "a symbolic link":
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
        case "it belongs to the user":
            monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
        case _:
            path.chmod(0o770)
    before = contents(tmp_path)

    with pytest.raises(RunDirError, match=f"{why}.*--run-dir"), rundir.claimed(path):
        pass

    assert before == contents(tmp_path)
