"""The folder of a run, and the processes of a fleet that are recorded in it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

from provisioning.demo.errors import DemoError, RunDirError
from provisioning.errors import ProvisionerError
from provisioning.model import ContainerState
from provisioning.runtime import cgroups
from provisioning.runtime.process import ProcessRuntime

DEFAULT = Path(".demo")
LOCK = ".lock"
MARK = "A folder of `ollama-fleet up`: each run replaces the files of the run before.\n"
"""Content of the lock file: it tells a folder of ours from a person's own."""
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
N_SHOWN = 3
GRACE_S = 3.0


class RunDir:
    """The paths in the folder of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "fleet.yml"
        self.provisioner_state = path / "provisioner"
        self.provisioner_store = self.provisioner_state / "fleet.db"
        self.provisioner_containers = self.provisioner_state / "processes"
        self.provisioner_token = path / "provisioner.token"
        self.provisioner_audit = path / "audit.jsonl"
        self.token = path / "control.token"
        self.prometheus_config = path / "prometheus.yml"
        self.prometheus_data = path / "prometheus"
        self.alerts = path / "alerts"
        self.rule_files = f"{glob.escape(str(self.alerts))}/rules/*.yml"
        self.alertmanager_config = self.alerts / "alertmanager.yml"
        self.alertmanager_data = path / "alertmanager"
        self.gateway = path / "gateway"
        self.page_url = path / "page.url"


@contextmanager
def claimed(wanted: Path | None) -> Iterator[RunDir]:
    """Hold a run folder until the block ends: `wanted`, else `.demo` here, else a temporary one.

    Raises:
        RunDirError: It cannot be made, another run holds it, or its content may not be a run's.
    """
    try:
        path = _absolute(wanted or _default())
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(path)
        path.chmod(0o700)
        lock = opened(path / LOCK, "a")
    except OSError as error:
        raise _unusable(wanted or DEFAULT, error) from error
    run_dir = RunDir(path)
    with lock:
        _lock(lock, path)
        # Old series, silences, rules and lists would pass for those of this run.
        for folder in (
            run_dir.prometheus_data,
            run_dir.alertmanager_data,
            run_dir.alerts,
            run_dir.gateway,
        ):
            shutil.rmtree(folder, ignore_errors=True)
        yield run_dir


def opened(path: Path, mode: str) -> IO[Any]:
    """Open a file of the run, never through a symbolic link; a new one is private to its owner.

    Raises:
        OSError: As `open` does.
    """
    return open(path, mode, opener=_no_follow)


def _no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


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


def _absolute(path: Path) -> Path:
    """Return the path without symbolic links, except for its last part."""
    return path.parent.resolve() / path.name if path.name else path.resolve()


def _check(path: Path) -> None:
    """Refuse a folder in which another user may write, or which no run has made.

    Raises:
        OSError: It cannot be read.
        RunDirError: It is such a folder.
    """
    state = path.lstat()
    names = sorted(entry.name for entry in path.iterdir())
    if stat.S_ISLNK(state.st_mode):
        raise _refused(path, "it is a symbolic link")
    if state.st_uid != os.geteuid():
        raise _refused(path, f"it belongs to the user {state.st_uid}, not to {os.geteuid()}")
    if names and state.st_mode & WRITABLE_BY_OTHERS:
        raise _refused(path, f"others can write in it (chmod 700 {path} if you trust its content)")
    if names and not _is_marked(path / LOCK):
        shown = [name for name in names if name != LOCK] or names
        more = f" and {len(shown) - N_SHOWN:,} more" if len(shown) > N_SHOWN else ""
        raise _refused(path, f"{', '.join(shown[:N_SHOWN])}{more} in it may not be a run's")


def _is_marked(lock: Path) -> bool:
    return lock.is_file() and not lock.is_symlink() and lock.read_text(errors="replace") == MARK


def _refused(path: Path, why: str) -> RunDirError:
    return RunDirError(
        f"cannot use the run folder {path}: {why}, and a run replaces and starts what it finds; "
        "choose an empty or new folder with --run-dir"
    )


def _unusable(path: Path, error: OSError) -> RunDirError:
    where = f" ({error.filename})" if error.filename else ""
    return RunDirError(
        f"cannot use the run folder {path}: {error.strerror}{where}; choose another with --run-dir"
    )


def _lock(lock: IO[Any], path: Path) -> None:
    """Lock and mark the folder."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not lock.tell():
            lock.write(MARK)
            lock.flush()
    except BlockingIOError as error:
        raise RunDirError(
            f"another `ollama-fleet up` uses the run folder {path}; stop it, or choose another "
            "folder with --run-dir"
        ) from error
    except OSError as error:
        raise _unusable(path, error) from error


# Processes outlive their provisioner, but not the run that made them.


@asynccontextmanager
async def no_leftovers(run_dir: RunDir, *, is_kept: bool) -> AsyncIterator[None]:
    """Remove the fleet of the run before, and at the end that of this run.

    With `is_kept` neither is done: the run takes over what is there, and leaves it running.

    Raises:
        DemoError: A process does not end.
    """
    if is_kept:
        yield
        return
    await remove_processes(run_dir.provisioner_containers)
    shutil.rmtree(run_dir.provisioner_state, ignore_errors=True)
    try:
        yield
    finally:
        removing = asyncio.create_task(remove_processes(run_dir.provisioner_containers))
        while not removing.done():  # a second Ctrl-C does not leave processes behind
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(removing)
        removing.result()


async def n_processes(containers_dir: Path) -> int:
    """Return how many of the processes that are recorded in the folder are running."""
    n = 0
    for folder in _node_folders(containers_dir):
        async with _runtime(containers_dir, folder) as runtime:
            containers = await runtime.containers()
        n += sum(container.state is ContainerState.RUNNING for container in containers)
    return n


async def remove_processes(containers_dir: Path) -> None:
    """End every process that is recorded in the folder, of any fleet and node.

    Raises:
        DemoError: One does not end.
    """
    try:
        for folder in _node_folders(containers_dir):
            async with _runtime(containers_dir, folder) as runtime:
                containers = await runtime.containers()
                await asyncio.gather(
                    *(runtime.remove(container.name, grace_s=GRACE_S) for container in containers)
                )
    except ProvisionerError as error:
        raise DemoError(
            f"cannot end the processes recorded in {containers_dir}: {error}"
        ) from error


def _node_folders(containers_dir: Path) -> list[Path]:
    """Return the folder of each node of each fleet."""
    return [path for path in sorted(containers_dir.glob("*/*")) if path.is_dir()]


@asynccontextmanager
async def _runtime(containers_dir: Path, folder: Path) -> AsyncIterator[ProcessRuntime]:
    """Provide the runtime of a node."""
    fleet, node = folder.parent.name, folder.name
    runtime = ProcessRuntime(
        fleet, node, state_dir=containers_dir, environ={}, groups=cgroups.find()
    )
    try:
        yield runtime
    finally:
        await runtime.close()
