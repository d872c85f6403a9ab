"""Logs stay within bounds on a full disk too, and never hide the containers that write them.

The disk is a file system of its own of 64 KiB, which needs root.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PosixPath

import msgspec
import pytest

from provisioning.errors import TransientError
from provisioning.model import ContainerSpec, ContainerState
from provisioning.runtime import logs
from provisioning.runtime.containerd.runtime import ContainerdRuntime
from provisioning.runtime.logs import LogBound
from provisioning.runtime.process import ProcessRuntime
from tests.containerd import running_containerd
from tests.provisioning.runtime.containers import ContainerdLab
from tests.provisioning.runtime.contract import FLEET
from tests.provisioning.runtime.processes import NODE, ProcessLab
from tests.waiting import eventually

DISK_BYTES = 65_536
LIMIT = 8192
CHATTY = ("sh", "-c", "n=0; while [ $n -lt 2000 ]; do echo a line; n=$((n+1)); done; sleep 1000")
N_WRITTEN = 14_000
"""What it writes, in bytes: more than the limit."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs to mount a tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder))
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        yield folder
    finally:
        # Lazily: a container that is ending may still have its log open.
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607 - a system's own


def fill(disk: Path) -> Path:
    """Leave no room on the disk; return what takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            return ballast


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.name != "ballast"}


def written(folder: Path, size: int, name: str = "pool-1.log") -> Path:
    """Return a log of so many bytes, of which the last ones differ from all others."""
    log = folder / name
    log.write_bytes(bytes(size - 3) + b"end")
    return log


def test_a_log_is_moved_on_a_full_disk_and_loses_nothing_of_its_newest_part(disk: Path) -> None:
    log = written(disk, 20_000)
    fill(disk)

    logs.bound(log, LIMIT)

    assert {"pool-1.log": 0, "pool-1.log.1": LIMIT} == sizes(disk)
    newest = logs.predecessor(log).read_bytes()
    assert bytes(LIMIT - 3) + b"end" == newest
    assert 0o600 == logs.predecessor(log).stat().st_mode & 0o777


def test_a_log_at_its_limit_is_left_as_it_is(tmp_path: Path) -> None:
    log = written(tmp_path, LIMIT)

    logs.bound(log, LIMIT)

    assert {"pool-1.log": LIMIT} == sizes(tmp_path)


class Shrinking(PosixPath):
    """A log that somebody else cuts off as soon as its size is known."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        seen = super().stat(follow_symlinks=follow_symlinks)
        os.truncate(self, 3)
        return seen


def test_a_log_that_becomes_shorter_meanwhile_is_moved_as_it_is(tmp_path: Path) -> None:
    log = written(tmp_path, LIMIT + 1)

    assert logs.bound(Shrinking(log), LIMIT)

    assert {"pool-1.log": 0, "pool-1.log.1": 3} == sizes(tmp_path)


def test_a_log_that_cannot_be_moved_is_left_whole_and_the_others_are_bound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder is where the predecessor would be; the warning comes once, until all is well."""
    first, second = (written(tmp_path, LIMIT + 1, f"pool-{number}.log") for number in (1, 2))
    obstacle = tmp_path / "pool-1.log.1"
    obstacle.mkdir()
    kept = LogBound(LIMIT)

    kept.keep([first, tmp_path / "missing.log", second])
    assert (LIMIT + 1, 0) == (first.stat().st_size, second.stat().st_size)
    assert LIMIT == logs.predecessor(second).stat().st_size
    assert not list(tmp_path.glob("*.draft"))
    kept.keep([first, second])
    assert 1 == caplog.text.count(f"cannot keep 1 logs within {LIMIT} bytes")
    assert "pool-1.log.1" in caplog.text

    obstacle.rmdir()
    kept.keep([first, second])
    assert (0, LIMIT) == (first.stat().st_size, obstacle.stat().st_size)
    assert 1 == len(caplog.records)
    obstacle.unlink()
    obstacle.mkdir()
    written(tmp_path, LIMIT + 1)
    kept.keep([first])
    assert [logging.WARNING] * 2 == [one.levelno for one in caplog.records]


def test_two_threads_never_move_logs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that is asked for its containers may meet the look that comes by itself."""
    meeting = threading.Barrier(2)
    met = []

    def bound(log: Path, max_bytes: int) -> bool:
        try:
            met.append(meeting.wait(timeout=0.2))
        except threading.BrokenBarrierError:
            return False
        return True

    monkeypatch.setattr(logs, "bound", bound)
    kept = LogBound(LIMIT)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(kept.keep, [[Path("a.log")], [Path("a.log")]]))

    assert [] == met


@pytest.fixture
async def processes(disk: Path) -> AsyncIterator[tuple[ProcessLab, ProcessRuntime]]:
    """This machine as a node whose records and logs are on the small disk."""
    lab = ProcessLab(disk)
    runtime = ProcessRuntime(
        FLEET, NODE, state_dir=disk, environ=os.environ, groups=None, max_log_bytes=LIMIT
    )
    yield lab, runtime
    await runtime.close()
    await lab.close()


def chatty(container: ContainerSpec) -> ContainerSpec:
    return msgspec.structs.replace(container, command=CHATTY)


async def test_a_full_disk_hides_no_process_and_refuses_the_next_one(
    processes: tuple[ProcessLab, ProcessRuntime], disk: Path
) -> None:
    lab, runtime = processes
    first, second = chatty(lab.container()), lab.container(number=2)
    log = lab.records().log(first.instance_id)
    await runtime.start(first)
    await eventually(lambda: log.stat().st_size == N_WRITTEN)
    ballast = fill(disk)

    (found,) = await runtime.containers()
    assert (first.name, ContainerState.RUNNING) == (found.name, found.state)
    fill(disk)
    with pytest.raises(TransientError, match="No space left on device; see that their folder"):
        await runtime.start(second)
    assert [first.name] == [one.name for one in await runtime.containers()]

    ballast.unlink()
    await runtime.start(second)
    assert {first.name, second.name} == {one.name for one in await runtime.containers()}


async def test_a_log_that_cannot_be_bound_hides_no_process(
    processes: tuple[ProcessLab, ProcessRuntime],
) -> None:
    lab, runtime = processes
    container = chatty(lab.container())
    log = lab.records().log(container.instance_id)
    await runtime.start(container)
    await eventually(lambda: log.stat().st_size == N_WRITTEN)
    logs.predecessor(log).mkdir()

    (found,) = await runtime.containers()

    assert ContainerState.RUNNING == found.state
    assert N_WRITTEN == log.stat().st_size
    logs.predecessor(log).rmdir()


@pytest.fixture
async def containers(
    tmp_path: Path, busybox: Path, disk: Path
) -> AsyncIterator[tuple[ContainerdLab, ContainerdRuntime]]:
    """A containerd whose logs are on the small disk."""
    with running_containerd(tmp_path / "containerd") as daemon:
        lab = ContainerdLab(daemon, busybox)
        await lab.prepare(FLEET)
        settings = msgspec.structs.replace(daemon.settings, log_dir=str(disk), max_log_bytes=LIMIT)
        yield lab, lab.open(settings=settings)
        await lab.close()


async def test_a_full_disk_of_logs_hides_no_container_and_refuses_none(
    containers: tuple[ContainerdLab, ContainerdRuntime], disk: Path
) -> None:
    lab, runtime = containers
    first, second = chatty(lab.container()), lab.container(number=2)
    log = disk / FLEET / f"{first.instance_id}.log"
    await runtime.start(first)
    await eventually(lambda: log.exists() and log.stat().st_size == N_WRITTEN)
    fill(disk)

    assert [first.name] == [one.name for one in await runtime.containers()]
    assert {"pool-1.log": 0, "pool-1.log.1": LIMIT} == sizes(disk / FLEET)
    fill(disk)
    await runtime.start(second)

    assert {first.name: ContainerState.RUNNING, second.name: ContainerState.RUNNING} == {
        one.name: one.state for one in await runtime.containers()
    }
