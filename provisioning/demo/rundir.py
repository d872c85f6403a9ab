"""The folder of one run: logs, specification, configuration, what the programs keep.

In:   the folder that was asked for, or none. Out: an existing folder that is this run's alone until
the block ends, that no other user can enter, without the data of the run before it.
Fails with RunDirError, also where the folder holds what no run has made, or what another user may
have prepared: nothing is touched then.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from provisioning.demo.errors import RunDirError

DEFAULT = Path(".demo")
LOCK = ".lock"
MARK = "A folder of `ollama-fleet up`: each run replaces what the run before has left here.\n"
"""What the lock file holds: by it a later run knows that what is beside it is no person's own."""
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
N_SHOWN = 3


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
    def provisioner_containers(self) -> Path:
        """Return the records and logs of processes in there."""
        return self.provisioner_state / "processes"

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
        run_dir = RunDir(_absolute(wanted or _default()))
        run_dir.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _take(run_dir.path)
        lock = opened(run_dir.path / LOCK, "a")
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
    # A run that is killed between the two leaves a lock file without its mark.
    return not names or lock == MARK.encode() or (lock == b"" and [*names] == [LOCK])


def opened(path: Path, mode: str) -> IO[Any]:
    """Open a file of the run, never through a symbolic link; a new one is its owner's only.

    Raises:
        OSError: As `open` does.
    """
    return open(path, mode, opener=_no_follow)


def _no_follow(path: str, flags: int, *, extra: int = 0) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | extra, 0o600)


def write(path: Path, text: str) -> None:
    """Write one of the run's files.

    Raises:
        RunDirError: It cannot be written.
    """
    try:
        with opened(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise _unusable(path.parent, error) from error


def _default() -> Path:
    return DEFAULT if os.access(Path.cwd(), os.W_OK) else Path(tempfile.mkdtemp())


def _unusable(path: Path, error: OSError) -> RunDirError:
    where = f" ({error.filename})" if error.filename else ""
    return RunDirError(
        f"cannot use the run folder {path}: {error.strerror}{where}; choose another with --run-dir"
    )


def _absolute(path: Path) -> Path:
    """Return the path without symbolic links, but for its last part, which must not be one."""
    return path.parent.resolve() / path.name if path.name else path.resolve()


def _take(path: Path) -> None:
    """Make the folder its owner's alone, unless there is a reason to refuse it.

    Raises:
        OSError: It cannot be read or changed.
        RunDirError: It is a person's own, or another user may have prepared what is in it.
    """
    is_open = bool(path.lstat().st_mode & WRITABLE_BY_OTHERS)
    _check_owner(path)
    names = sorted(entry.name for entry in path.iterdir())
    if is_open and names:
        raise _prepared(path, f"others can write in it (chmod 700 {path} once you trust it)")
    _check_ours(path, names)
    path.chmod(0o700)
    if is_open and any(path.iterdir()):
        raise _prepared(path, "somebody has just written in it")
    for entry in path.iterdir():
        _check_owner(entry)
        if entry.lstat().st_mode & stat.S_IWOTH:
            raise _prepared(entry, "everybody can write it")


def _check_owner(path: Path) -> None:
    """Refuse what is another user's, what others can replace, and links, which may lead anywhere.

    Raises:
        RunDirError: It is one of these.
    """
    state, parent = path.lstat(), path.parent.stat()
    if stat.S_ISLNK(state.st_mode):
        raise _prepared(path, "it is a symbolic link")
    if state.st_uid != os.geteuid():
        raise _prepared(path, f"it belongs to the user {state.st_uid}, not to {os.geteuid()}")
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        raise _prepared(path, "it is neither a file nor a folder")
    if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
        raise _prepared(path, f"everybody can replace it ({path.parent} is not sticky)")


def _prepared(path: Path, seen: str) -> RunDirError:
    return RunDirError(
        f"cannot use {path} for a run: {seen}, so another user may have prepared what would be run "
        "from there; choose a new folder with --run-dir"
    )


def _check_ours(path: Path, names: list[str]) -> None:
    """Refuse a folder in which a run would replace or remove what none has made.

    Raises:
        OSError: Its lock file cannot be read.
        RunDirError: There is such a thing.
    """
    if is_ours(names, _mark_of(path / LOCK) if LOCK in names else None):
        return
    shown = [name for name in names if name != LOCK] or names
    more = f" and {len(shown) - N_SHOWN:,} more" if len(shown) > N_SHOWN else ""
    raise RunDirError(
        f"cannot use the run folder {path}: it holds {', '.join(shown[:N_SHOWN])}{more}, and no "
        "run of `ollama-fleet up` is known to have made it; as a run replaces what it finds, give "
        "an empty folder, or a new one, with --run-dir"
    )


def _mark_of(lock: Path) -> bytes:
    """Return the beginning of a lock file; a FIFO is not waited for."""
    with open(lock, "rb", opener=partial(_no_follow, extra=os.O_NONBLOCK)) as file:
        return file.read(len(MARK) + 1)


def _mark(lock: IO[Any]) -> None:
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
