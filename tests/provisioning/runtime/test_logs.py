"""Logs on this machine stay within bounds, on a full disk too."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from provisioning.errors import TransientError
from provisioning.model import ContainerState
from provisioning.runtime import logs
from tests.provisioning.runtime.processes import ProcessLab
from tests.waiting import eventually

LIMIT = 8192
DISK_BYTES = 65_536
CHATTY = ("sh", "-c", "n=0; while :; do n=$((n+1)); echo line $n; done")


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


def written(folder: Path, size: int, name: str = "pool-1.log") -> Path:
    """Return a log of so many bytes, of which the last ones differ from all others."""
    log = folder / name
    log.write_bytes(bytes(size - 3) + b"end")
    return log


def test_the_newest_part_of_a_large_log_is_moved_on_a_full_disk_too(disk: Path) -> None:
    log = written(disk, 20_000)
    fill(disk)

    logs.rotate([log], LIMIT)

    older = logs.predecessor(log)
    assert bytes(LIMIT - 3) + b"end" == older.read_bytes()
    assert (0, 0o600) == (log.stat().st_size, older.stat().st_mode & 0o777)


def test_a_log_within_its_bound_or_that_cannot_be_moved_is_no_trouble(tmp_path: Path) -> None:
    small, large = written(tmp_path, LIMIT, "a.log"), written(tmp_path, LIMIT + 1, "b.log")

    logs.rotate([tmp_path / "missing.log", tmp_path, small, large], LIMIT)

    assert (LIMIT, 0) == (small.stat().st_size, large.stat().st_size)


async def test_a_chatty_processs_log_is_bounded_at_each_look_and_it_goes_on_writing(
    process_lab: ProcessLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", LIMIT)
    runtime = process_lab.open()
    container = msgspec.structs.replace(process_lab.container(), command=CHATTY)
    log = process_lab.log(container)
    await runtime.start(container)
    await eventually(lambda: log.stat().st_size > 3 * LIMIT)

    await runtime.containers()

    assert LIMIT == logs.predecessor(log).stat().st_size
    await eventually(lambda: log.stat().st_size > 0)
    await runtime.remove(container.name, grace_s=0.1)
    assert b"\0" not in log.read_bytes()  # the writer goes on at the new end


async def test_a_full_disk_hides_no_process_and_refuses_the_next_one(disk: Path) -> None:
    lab = ProcessLab(disk)
    runtime, first, second = lab.open(), lab.container(), lab.container(number=2)
    await runtime.start(first)
    ballast = fill(disk)

    with pytest.raises(TransientError, match="No space left on device; see that their folder"):
        await runtime.start(second)
    (found,) = await runtime.containers()
    assert (first.name, ContainerState.RUNNING) == (found.name, found.state)
    assert [] == lab.processes(second)

    ballast.unlink()
    await runtime.start(second)
    assert {first.name, second.name} == {one.name for one in await runtime.containers()}
    await lab.close()
