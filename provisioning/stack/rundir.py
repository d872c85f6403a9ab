"""The folder of one run: logs, specification, configuration, what the programs keep.

In:   the folder that was asked for, or none. Out: an existing folder that is this run's alone until
the block ends, without the data of the run before it.
Fails with RunDirError, also where the folder holds what no run has made: nothing is touched then.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TextIO

from provisioning.stack.errors import RunDirError

DEFAULT = Path(".demo")
LOCK = ".lock"
MARK = "A folder of `ollama-fleet up`: each run replaces what the run before has left here.\n"
"""What the lock file holds: by it a later run knows that what is beside it is no person's own."""
WRITTEN_BEFORE_THE_MARK = (
    LOCK,
    "*.log",
    "alertmanager",
    "alerts",
    "audit.jsonl",
    "control.token",
    "fleet.yml",
    "prometheus",
    "prometheus.yml",
    "provisioner",
    "provisioner.token",
    "real.yml",
    "simulated.json",
)
"""All that runs have left in their folder when its lock file was still empty."""
N_TOLD = 3


@dataclass(frozen=True, slots=True)
class RunDir:
    """Where each thing of a run is."""

    path: Path

    @property
    def spec(self) -> Path:
        """Return the specification of the demonstration's fleet."""
        return self.path / "fleet.yml"

    @property
    def provisioner_state(self) -> Path:
        """Return the folder of the fleet as the provisioner knows it, and of its processes."""
        return self.path / "provisioner"

    @property
    def provisioner_store(self) -> Path:
        """Return the database in there."""
        return self.provisioner_state / "fleet.db"

    @property
    def provisioner_units(self) -> Path:
        """Return the records and logs of processes in there."""
        return self.provisioner_state / "units"

    @property
    def provisioner_token(self) -> Path:
        """Return the file with the token for changes of the fleet."""
        return self.path / "provisioner.token"

    @property
    def provisioner_audit(self) -> Path:
        """Return the file that tells who has changed the fleet, and how."""
        return self.path / "audit.jsonl"

    @property
    def token(self) -> Path:
        """Return the file with the token for the simulated fleet's control API."""
        return self.path / "control.token"

    @property
    def prometheus_config(self) -> Path:
        """Return Prometheus' configuration."""
        return self.path / "prometheus.yml"

    @property
    def prometheus_data(self) -> Path:
        """Return the folder of Prometheus' time series."""
        return self.path / "prometheus"

    @property
    def alerts(self) -> Path:
        """Return the folder that `ollama-fleet alerts build` fills."""
        return self.path / "alerts"

    @property
    def rule_files(self) -> str:
        """Return the rule files in there, as a pattern for Prometheus."""
        return f"{glob.escape(str(self.alerts))}/rules/*.yml"

    @property
    def alertmanager_config(self) -> Path:
        """Return Alertmanager's configuration, which lies in there too."""
        return self.alerts / "alertmanager.yml"

    @property
    def alertmanager_data(self) -> Path:
        """Return the folder of Alertmanager's silences and of what it has sent."""
        return self.path / "alertmanager"


@contextmanager
def claimed(wanted: Path | None) -> Iterator[RunDir]:
    """Hold a run folder: `wanted`, else `.demo` here, else a temporary one.

    Raises:
        RunDirError: The folder cannot be made, another run holds it, or it is a person's own.
    """
    try:
        run_dir = RunDir((wanted or _default()).resolve())
        run_dir.path.mkdir(parents=True, exist_ok=True)
        _check_ours(run_dir.path)
        lock = (run_dir.path / LOCK).open("a")
    except OSError as error:
        raise _unusable(wanted or DEFAULT, error) from error
    with lock:
        _lock(lock.fileno(), run_dir.path)
        _mark(lock)
        # Prometheus would show the end of the run before as the fleet's present state, Alertmanager
        # would keep its silences, and rules that are no longer built would be loaded.
        for folder in (run_dir.prometheus_data, run_dir.alertmanager_data, run_dir.alerts):
            shutil.rmtree(folder, ignore_errors=True)
        yield run_dir


def is_ours(names: Collection[str], lock: bytes | None) -> bool:
    """Say whether a folder is new, or was left by a run, so that nothing in it is a person's own.

    Args:
        names: Of what is in it.
        lock: What its lock file holds; None where there is none.
    """
    if not names or lock == MARK.encode():
        return True
    if lock is None or lock:
        return False
    # Other programs keep empty lock files too, and refused runs of then left one where they were.
    is_of_a_run = any(fnmatchcase(name, "*.log") for name in names) or [*names] == [LOCK]
    return is_of_a_run and not _foreign(names)


def write(path: Path, text: str) -> None:
    """Write one of the run's files.

    Raises:
        RunDirError: It cannot be written.
    """
    try:
        path.write_text(text)
    except OSError as error:
        raise _unusable(path.parent, error) from error


def _default() -> Path:
    return DEFAULT if os.access(Path.cwd(), os.W_OK) else Path(tempfile.mkdtemp())


def _unusable(path: Path, error: OSError) -> RunDirError:
    where = f" ({error.filename})" if error.filename else ""
    return RunDirError(
        f"cannot use the run folder {path}: {error.strerror}{where}; choose another with --run-dir"
    )


def _check_ours(path: Path) -> None:
    """Refuse a folder in which a run would replace or remove what none has made.

    Raises:
        OSError: It cannot be read.
        RunDirError: There is such a thing.
    """
    names = sorted(entry.name for entry in path.iterdir())
    lock = (path / LOCK).read_bytes() if LOCK in names else None
    if is_ours(names, lock):
        return
    told = _foreign(names) or names
    more = f" and {len(told) - N_TOLD:,} more" if len(told) > N_TOLD else ""
    raise RunDirError(
        f"cannot use the run folder {path}: it holds {', '.join(told[:N_TOLD])}{more}, and no run "
        "of `ollama-fleet up` is known to have made it; as a run replaces what it finds, give an "
        "empty folder, or a new one, with --run-dir"
    )


def _foreign(names: Iterable[str]) -> list[str]:
    """Return the names of what no run has ever made."""
    return [
        name
        for name in names
        if not any(fnmatchcase(name, ours) for ours in WRITTEN_BEFORE_THE_MARK)
    ]


def _mark(lock: TextIO) -> None:
    """Write the mark, unless it is there: a run that comes meanwhile never finds it half written.

    Raises:
        RunDirError: It cannot be written.
    """
    try:
        if not lock.tell():
            lock.write(MARK)
            lock.flush()
    except OSError as error:
        raise _unusable(Path(lock.name).parent, error) from error


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunDirError(
            f"another `ollama-fleet up` uses the run folder {path}; stop it, or choose another "
            "folder with --run-dir"
        ) from error
