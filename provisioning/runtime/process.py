"""Run instances as processes of this machine: for a laboratory; larger fleets run containers.

    STATE_DIR/FLEET/NODE/            for its owner alone (0700)
        NAME.json                    a Record, written before the command runs
        logs/INSTANCE.log            of the instance's latest process

A process leads a session and, where the machine lets us, has a cgroup: these are what ends with
it. Records let the next provisioner take it over. The environment is not written: it may hold
secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import re
import signal
import socket
import sys
import time
import weakref
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from provisioning.errors import (
    ContainerError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.model import ContainerSpec, ContainerState, ObservedContainer
from provisioning.runtime import cgroups, launch, logs, procfs
from provisioning.runtime.base import Broadcast
from provisioning.runtime.cgroups import Cgroups
from provisioning.runtime.procfs import ExitWatcher, Process

INHERITED = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH")
INHERITED_PREFIX = "XDG_"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
POLL_S = 0.01
KILL_LIMIT_S = 10.0
"""How long killed processes may take to end."""
GROUP_LIMIT_S = 2.0
LAUNCH_LIMIT_S = 10.0
"""How long a process may take to run its command; milliseconds as a rule."""
SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EMFILE, errno.ENFILE})

log = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True):
    """A process that was made for an instance."""

    name: str
    instance_id: str
    generation: int
    boot: str
    """Process ids of another boot mean nothing."""
    process: Process


class ProcessRuntime:
    """The processes of one fleet on this machine, or on the part of it that `node` names."""

    def __init__(
        self,
        fleet: str,
        node: str,
        *,
        state_dir: Path,
        environ: Mapping[str, str],
        groups: Cgroups | None,
        passed: Collection[str] = (),
    ) -> None:
        """Keep records in `state_dir`; limit memory by `groups`, as of `cgroups.find()`.

        Of `environ` a process gets what every program needs, and the variables in `passed`.
        """
        for name in (fleet, node):
            _check_name(name)
        self._folder = folder_of(state_dir, fleet, node)
        self._group_prefix = label_of(fleet, node, state_dir)
        self._groups = groups
        self._inherited = inherited(environ, passed)
        self._boot = procfs.boot()
        self._ended = Broadcast()
        self._exits = ExitWatcher(self._ended.send)
        self._statuses: dict[str, int] = {}
        """How our children have ended, by name: the kernel says it once."""
        self._locks = weakref.WeakValueDictionary[str, asyncio.Lock]()

    async def start(self, container: ContainerSpec) -> None:
        """Make the process; return when its command runs."""
        _check(container)
        async with self._lock(container.name), _os_errors_translated():
            if record := self._read(container.name):
                if self._is_running(record):
                    return
                await self._clear(record)
            _refuse_taken_port(container.host, container.port)
            await self._launch(container)

    async def remove(self, name: str, *, grace_s: float) -> None:
        """End the process and all of its group and cgroup, then delete the record."""
        _check_name(name)
        async with self._lock(name), _os_errors_translated():
            if record := self._read(name):
                if self._is_running(record):
                    await self._signal(record, signal.SIGTERM)
                    await procfs.until_exit(record.process, grace_s)
                await self._clear(record)
            else:
                await self._remove_group(name)  # a start that was killed may have left it

    async def containers(self) -> tuple[ObservedContainer, ...]:
        """Return all processes that have a record, and keep their logs within bounds."""
        async with _os_errors_translated():
            seen = await asyncio.to_thread(self._look)
            for record, is_running in seen:
                if is_running:
                    self._exits.watch(record.name, record.process)
        return tuple(self._observed(record, is_running) for record, is_running in seen)

    async def changes(self) -> AsyncIterator[str]:
        """Yield the name of each process that ends, adopted ones included."""
        with self._ended.listening() as names:
            await self.containers()  # which watches all that run
            while (name := await names.get()) is not None:
                yield name

    def log_of(self, instance_id: str) -> str:
        """Return the path of an instance's log."""
        return str(logs.of_process(self._folder, instance_id))

    async def close(self) -> None:
        """Watch no process any more; they go on."""
        self._exits.close()
        self._ended.close()

    async def _launch(self, container: ContainerSpec) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._new_log(container.instance_id) as log_file:
                pid = self._spawn(container, theirs.fileno(), log_file.fileno())
            # It waits for a byte from us, and ends without it.
            try:
                record = self._admit(container, pid)
                await _until_command_runs(ours, container.command[0])
            except BaseException:
                ours.close()
                await self._abandon(container.name, pid)
                raise
        self._exits.watch(record.name, record.process)

    def _new_log(self, instance_id: str) -> BinaryIO:
        for folder in (self._folder, self._folder / "logs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = logs.of_process(self._folder, instance_id)
        logs.forget(path)
        return open(path, "ab", opener=logs.private)

    def _spawn(self, container: ContainerSpec, notice: int, log: int) -> int:
        """Spawn rather than fork: this process may have threads, of gRPC for example."""
        environment = {**self._inherited, **dict(container.environment)}
        try:
            return os.posix_spawn(
                sys.executable,
                [*_launcher(), *map(_encoded, container.command)],
                {os.fsencode(name): _encoded(value) for name, value in environment.items()},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, notice, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        except OSError as error:
            raise _failure(container.command[0], error.errno or 0) from error

    def _admit(self, container: ContainerSpec, pid: int) -> Record:
        """Put a new process into its cgroup, and write its record."""
        if self._groups and container.memory_bytes > 0:
            name = f"{self._group_prefix}.{container.name}"
            cgroups.join(self._groups.make(name, container.memory_bytes), pid)
        record = Record(
            name=container.name,
            instance_id=container.instance_id,
            generation=container.generation,
            boot=self._boot,
            process=procfs.identify(pid),
        )
        path = self._path(container.name)
        draft = path.with_suffix(f".{pid}.draft")
        try:
            draft.write_bytes(msgspec.json.encode(record))
            os.link(draft, path)  # fails where another provisioner was faster
        finally:
            draft.unlink(missing_ok=True)
        return record

    async def _abandon(self, name: str, pid: int) -> None:
        """Undo a start that has failed: its child is still ours to wait for."""
        child = procfs.identify(pid)
        os.killpg(pid, signal.SIGKILL)
        record = self._read(name)
        if record and record.process == child:
            await self._clear(record)
        else:
            await procfs.until_exit(child, KILL_LIMIT_S)
            procfs.reap(child)
            await self._remove_group(name)

    async def _clear(self, record: Record) -> None:
        """Kill what is left, remove the cgroup and delete the record.

        Raises:
            TransientError: A process does not end, as one that waits for a broken disk.
        """
        deadline_s = time.monotonic() + KILL_LIMIT_S
        while await self._signal(record, signal.SIGKILL):
            if time.monotonic() > deadline_s:
                raise TransientError(
                    f"processes of {record.name} were killed and do not end within "
                    f"{KILL_LIMIT_S:g} s; see what they wait for: `ps -o pid,stat,wchan`"
                )
            await asyncio.sleep(POLL_S)
        self._exits.forget(record.name)
        procfs.reap(record.process)
        self._statuses.pop(record.name, None)
        await self._remove_group(record.name)
        self._path(record.name).unlink(missing_ok=True)

    async def _signal(self, record: Record, number: signal.Signals) -> int:
        """Signal all living processes; return how many there were."""
        members = await asyncio.to_thread(self._members, record)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(members)

    def _members(self, record: Record) -> set[int]:
        """Return who lives in the group and the cgroup; a millisecond per hundred processes."""
        group = self._group(record.name)
        pids = set(cgroups.members(group)) if group else set()
        if record.boot == self._boot:
            pids |= procfs.group_members(record.process)
        return set(filter(procfs.is_living, pids))

    def _look(self) -> list[tuple[Record, bool]]:
        names = sorted(path.stem for path in _listed(self._folder) if path.suffix == ".json")
        records = [record for name in names if (record := self._read(name))]
        paths = [logs.of_process(self._folder, record.instance_id) for record in records]
        logs.rotate(paths, logs.MAX_BYTES)
        return [(record, self._is_running(record)) for record in records]

    def _observed(self, record: Record, is_running: bool) -> ObservedContainer:
        if not is_running and (status := self._reap(record)) is not None:
            self._statuses[record.name] = status
        group = self._group(record.name)
        return ObservedContainer(
            record.name,
            record.instance_id,
            record.generation,
            ContainerState.RUNNING if is_running else ContainerState.EXITED,
            exit_status=None if is_running else self._statuses.get(record.name),
            is_out_of_memory=group is not None and cgroups.n_killed(group) > 0,
        )

    def _is_running(self, record: Record) -> bool:
        return record.boot == self._boot and procfs.is_alive(record.process)

    def _reap(self, record: Record) -> int | None:
        return procfs.reap(record.process) if record.boot == self._boot else None

    async def _remove_group(self, name: str) -> None:
        """Remove the cgroup once the kernel lets us; what stays is empty and harms nobody."""
        deadline_s = time.monotonic() + GROUP_LIMIT_S
        group = self._group(name)
        while group and not cgroups.remove(group):
            if time.monotonic() > deadline_s:
                log.warning("cannot remove cgroup=%s: it is in use", group)
                return
            await asyncio.sleep(POLL_S)

    def _read(self, name: str) -> Record | None:
        """Return the record; None: there is none."""
        path = self._path(name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            # The machine lost its power before the disk had it; then the process is gone too.
            path.unlink(missing_ok=True)
            return None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _group(self, name: str) -> Path | None:
        return self._groups.parent / f"{self._group_prefix}.{name}" if self._groups else None

    def _lock(self, name: str) -> asyncio.Lock:
        """Return the lock of one process's starts and removals."""
        return self._locks.setdefault(name, asyncio.Lock())


def folder_of(state_dir: Path, fleet: str, node: str) -> Path:
    """Return where the records and logs of one fleet's processes on one node are."""
    return state_dir / fleet / node


def label_of(fleet: str, node: str, state_dir: Path) -> str:
    """Return how the names of our cgroups begin: as those of no other state folder do."""
    digest = hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:12]
    return f"ollama-fleet.{fleet}.{node}.{digest}"


def inherited(environ: Mapping[str, str], passed: Collection[str] = ()) -> dict[str, str]:
    """Return what a process takes over from our environment, tokens not among it."""
    return {
        name: value
        for name, value in environ.items()
        if name in INHERITED or name in passed or name.startswith(INHERITED_PREFIX)
    }


async def _until_command_runs(starter: socket.socket, program: str) -> None:
    """Let the launcher run the command; return when it does.

    Raises:
        ContainerError: It cannot; the process has ended, or is about to.
    """
    try:
        starter.send(b"\n")
        await procfs.until_readable(starter.fileno(), LAUNCH_LIMIT_S)
        number = starter.recv(100)
    except (BrokenPipeError, ConnectionResetError, TimeoutError) as error:
        raise TransientError(
            f"the launcher of {program} ended or hangs before it runs it; see its log"
        ) from error
    if number:
        raise _failure(program, int(number), is_command=True)


def _failure(program: str, number: int, *, is_command: bool = False) -> ContainerError:
    """Return what it means that a process could not be made, by its errno."""
    seen = os.strerror(number)
    if number in SHORTAGES:
        return ResourceExhaustedError(
            f"cannot start {program}: {seen}; free some, or raise the limit"
        )
    if is_command or number == errno.E2BIG:
        return PermanentError(
            f"cannot run {program}: {seen}; correct `command` and `environment`, or install it"
        )
    return TransientError(f"cannot start a process for {program}: {seen}")


def _check(container: ContainerSpec) -> None:
    """Refuse what no system can run."""
    for name in (container.name, container.instance_id):
        _check_name(name)
    if not container.command or not container.command[0]:
        raise PermanentError("a process needs a command, and there is none; set `command`")
    if any("\0" in argument for argument in container.command):
        raise PermanentError(
            f"an argument of {container.command[0]} holds a NUL character; remove it"
        )
    for name, value in container.environment:
        if not name or "=" in name or "\0" in name + value:
            raise PermanentError(
                f"no environment can hold the variable {name!r}: a name is not empty and has "
                "no `=`, and neither name nor value holds a NUL character"
            )


def _check_name(name: str) -> None:
    """Refuse names that are no file names."""
    if not NAME.fullmatch(name):
        raise PermanentError(
            f"{name!r} cannot name a process, fleet or node: letters, digits, `.`, `-` and `_` can"
        )


def _refuse_taken_port(host: str, port: int) -> None:
    """Refuse a port on which somebody listens; the answer may be old a moment later."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceExhaustedError(
                f"cannot listen on {host}:{port}: {error.strerror}; see who does: `ss -ltnp`"
            ) from error


@contextlib.asynccontextmanager
async def _os_errors_translated() -> AsyncIterator[None]:
    try:
        yield
    except OSError as error:
        raise TransientError(
            f"cannot keep records of processes: {error}; see that their folder and cgroups can be "
            "written and have room, and that files can be opened (`ulimit -n`)"
        ) from error


def _listed(folder: Path) -> list[Path]:
    # No glob: from Python 3.13 on it finds nothing where the folder cannot be read.
    with contextlib.suppress(FileNotFoundError):
        return list(folder.iterdir())
    return []


def _launcher() -> list[bytes]:
    return [os.fsencode(word) for word in (sys.executable, "-I", "-S", launch.__file__)]


def _encoded(text: str) -> bytes:
    """Return what the specification, a UTF-8 file, held, whatever the locale is."""
    return text.encode(errors="surrogateescape")


_DEFAULT_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
)
