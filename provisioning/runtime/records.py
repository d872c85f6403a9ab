"""What is written of each container that runs as a process, so that any later provisioner finds it.

    STATE_DIR/FLEET/NODE/            for its owner alone (0700)
        units/NAME/record.json       written before the process is made
        units/NAME/process           written by the process itself, locked while it is being made
        units/NAME/status            written by whoever saw it end, if its parent did
        logs/INSTANCE.log            of the instance's latest container

In:   the folder, and `procfs.boot()`. Out: Records, and what is known of their processes.
A container without a record does not exist, whatever else lies in its folder. The environment is
not written: it may hold secrets. Fails with OSError.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from provisioning.runtime import logs, procfs
from provisioning.runtime.procfs import Identity

RECORD, PROCESS, STATUS = "record.json", "process", "status"
MARK_VARIABLE = "OLLAMA_FLEET_UNIT"


class Record(msgspec.Struct, frozen=True):
    """A container that was ordered."""

    name: str
    instance_id: str
    generation: int
    boot: str
    """When it was ordered: processes of another boot are gone."""
    mark: str
    """The value of MARK_VARIABLE in its environment: no other start's."""
    cgroup: str = ""
    """The folder of its cgroup; empty: it has none."""

    @property
    def environment_line(self) -> bytes:
        """Return what tells its processes from a stranger's."""
        return f"{MARK_VARIABLE}={self.mark}".encode()


def folder_of(state_dir: Path, fleet: str, node: str) -> Path:
    """Return where the records of one fleet's containers on one node are."""
    return state_dir / fleet / node


class Records:
    """The records of one fleet on one node."""

    def __init__(self, folder: Path, boot: str) -> None:
        """Keep them in `folder`, which is made by the first container."""
        self._folder = folder
        self.boot = boot

    def names(self) -> list[str]:
        """Return the names of all containers, sorted."""
        with contextlib.suppress(FileNotFoundError):
            # No glob: from Python 3.13 on it finds nothing where the folder cannot be read.
            names = os.listdir(self._containers)
            return sorted(name for name in names if (self._containers / name / RECORD).exists())
        return []

    def read(self, name: str) -> Record | None:
        """Return the container's record; None: there is no such container."""
        try:
            return msgspec.json.decode((self._containers / name / RECORD).read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            # The machine lost its power before the disk had it; then the process is gone too.
            return None

    def write(self, record: Record) -> None:
        """Write the record, whole or not at all; what was known of an earlier process is gone."""
        container = self._containers / record.name
        (container / STATUS).unlink(missing_ok=True)
        os.truncate(container / PROCESS, 0)
        draft = container / f"{RECORD}.draft"
        draft.write_bytes(msgspec.json.encode(record))
        draft.rename(container / RECORD)

    def delete(self, name: str) -> None:
        """Delete the record first: what a killed provisioner leaves of the rest is no container."""
        container = self._containers / name
        (container / RECORD).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(container)

    def was_launched(self, record: Record) -> bool:
        """Say whether there has ever been a process of the container."""
        return bool(self._process_line(record.name))

    def identity(self, record: Record) -> Identity | None:
        """Return the container's process.

        None: it was never made, or it was before the last boot.
        """
        line = self._process_line(record.name)
        if not line or record.boot != self.boot:
            return None
        try:
            stat = procfs.parse_stat(line)
        except (ValueError, IndexError):
            return None  # the disk was full; then the process did not run its command
        return Identity(stat.pid, stat.start_ticks)

    def status(self, name: str) -> int | None:
        """Return the exit status, negative for a signal; None: nobody saw it."""
        try:
            return int((self._containers / name / STATUS).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def write_status(self, name: str, status: int) -> None:
        """Write how the container ended; do nothing where it is removed already."""
        with contextlib.suppress(FileNotFoundError):
            (self._containers / name / STATUS).write_text(str(status))

    @contextlib.contextmanager
    def launching(self, name: str) -> Iterator[int]:
        """Give the process file, locked; a process that inherits it keeps it locked.

        Raises:
            BlockingIOError: Someone has it locked.
        """
        self._make(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._containers / name / PROCESS, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield descriptor
        finally:
            os.close(descriptor)

    def is_launching(self, name: str) -> bool:
        """Say whether a process of the container is being made right now, by whomever."""
        try:
            descriptor = os.open(self._containers / name / PROCESS, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def log(self, instance_id: str) -> Path:
        """Return where the output of an instance's containers is; it need not exist."""
        return logs.of_process(self._folder, instance_id)

    def _make(self, name: str) -> None:
        for folder in (
            self._folder,
            self._containers,
            self._folder / "logs",
            self._containers / name,
        ):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def _containers(self) -> Path:
        return self._folder / "units"

    def _process_line(self, name: str) -> str:
        """Return what the container's process wrote of itself; empty: nothing yet."""
        with contextlib.suppress(FileNotFoundError):
            return (self._containers / name / PROCESS).read_text(errors="replace")
        return ""
