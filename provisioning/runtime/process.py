"""Run instances as processes of this machine, as a node of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
import signal
import socket
import sys
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec

from ollama_fleet.clock import SystemClock
from provisioning.errors import (
    ContainerError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.model import ContainerSpec, ObservedContainer
from provisioning.runtime import cgroups, launch, logs, procfs
from provisioning.runtime.cgroups import Cgroups
from provisioning.runtime.endings import News, until_readable
from provisioning.runtime.logs import LogKeeper
from provisioning.runtime.records import MARK_VARIABLE, Record, Records, folder_of
from provisioning.runtime.unit_processes import UnitProcesses

INHERITED = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH")
INHERITED_PREFIX = "XDG_"
LAUNCHER = Path(launch.__file__)
NOTICE_BYTES = 100


class Order(msgspec.Struct, frozen=True):
    """A process that is to be made."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    procs_file: Path | None = None
    """Of the cgroup that it is to join."""


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a container takes over from the provisioner's environment.

    Tokens not among it.
    """
    return {
        name: value
        for name, value in environ.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIX)
    }


def check(order: Order) -> None:
    """Refuse what no system can run.

    Raises:
        PermanentError: It says what to mend.
    """
    if not order.command or not order.command[0]:
        raise PermanentError("a process needs a command, and there is none; set `command`")
    if any("\0" in argument for argument in order.command):
        raise PermanentError(f"an argument of {order.command[0]} holds a NUL character; remove it")
    for name, value in order.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise PermanentError(
                f"no environment can hold the variable {name!r}: a name is not empty and has "
                "no `=`, and neither name nor value holds a NUL character"
            )


class Child(msgspec.Struct, frozen=True):
    """A process that was made and may still have to run its command."""

    pid: int
    pipe: int
    """A descriptor for the caller to close; it ends when the command runs."""


def spawn(order: Order, process_file: int) -> Child:
    """Make the process.

    Raises:
        ContainerError: It could not be made; nothing is left of it.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(writing, True)
    log = -1
    try:
        log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        pid = _spawn(order, writing, process_file, log)
    except OSError as error:
        os.close(reading)
        raise failure(order.command[0], error.errno or 0, is_command=False) from error
    finally:
        os.close(writing)
        if log >= 0:
            os.close(log)
    return Child(pid, reading)


async def until_running(order: Order, pipe: int) -> None:
    """Return when the command runs, or the process has ended without a word; see `silent_end`.

    Raises:
        ContainerError: It cannot; the process has ended, or is about to.
    """
    await until_readable(pipe)
    kind, _, number = os.read(pipe, NOTICE_BYTES).decode().partition(" ")
    if kind:
        raise failure(order.command[0], int(number), is_command=kind == "command")


def silent_end(order: Order) -> ContainerError:
    """Return what it means that the process has ended and never said who it is."""
    return TransientError(
        f"the launcher of {order.command[0]} ended before it ran it; see its log, {order.log}"
    )


def failure(program: str, number: int, *, is_command: bool) -> ContainerError:
    """Return what it means that a process could not be made, by its errno."""
    seen = os.strerror(number)
    if number in {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EMFILE, errno.ENFILE}:
        return ResourceExhaustedError(
            f"cannot start {program}: {seen}; free some, or raise the limit"
        )
    if is_command or number == errno.E2BIG:
        return PermanentError(
            f"cannot run {program}: {seen}; correct `command` and `environment`, or install it"
        )
    return TransientError(f"cannot start a process for {program}: {seen}")


def _spawn(order: Order, notice: int, process_file: int, log: int) -> int:
    """Spawn rather than fork: this process may have threads, of gRPC for example."""
    return os.posix_spawn(
        sys.executable,
        _arguments(order),
        {os.fsencode(name): _encoded(value) for name, value in order.environment.items()},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, notice, 0),
            (os.POSIX_SPAWN_DUP2, process_file, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD),
    )


def _arguments(order: Order) -> list[bytes]:
    procs_files = [os.fsencode(order.procs_file)] if order.procs_file else []
    launcher = [os.fsencode(sys.executable), b"-I", b"-S", os.fsencode(LAUNCHER)]
    return [*launcher, *procs_files, b"--", *map(_encoded, order.command)]


def _encoded(text: str) -> bytes:
    """Return what the specification, a UTF-8 file, held, whatever the locale is."""
    return text.encode(errors="surrogateescape")


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
POLL_S = 0.01
LAUNCH_LIMIT_S = 10.0
"""How long a process may take to run its command; milliseconds as a rule."""


class ProcessRuntime:
    """The containers of one fleet on this machine, or on the part of it that `node` names."""

    def __init__(
        self,
        fleet: str,
        node: str,
        *,
        state_dir: Path,
        environ: Mapping[str, str],
        groups: Cgroups | None,
        max_log_bytes: int = logs.MAX_BYTES,
    ) -> None:
        """Keep records in `state_dir`; limit memory by `groups`, as of `cgroups.find()`."""
        for name in (fleet, node):
            _checked(name)
        self._label = label_of(fleet, node, state_dir)
        self._records = Records(folder_of(state_dir, fleet, node), procfs.boot())
        self._inherited = inherited(environ)
        self._groups = groups
        clock = SystemClock()
        self._logs = LogKeeper(max_log_bytes, clock)
        self._news = News()
        self._processes = UnitProcesses(self._records, clock, on_end=self._news.tell)
        self._locks = weakref.WeakValueDictionary[str, asyncio.Lock]()

    async def start(self, container: ContainerSpec) -> None:
        """Make the container's process; return when its command runs."""
        for name in (container.name, container.instance_id):
            _checked(name)
        async with self._lock(container.name), self._kept():
            await self._until_launched(container.name)
            if record := self._records.read(container.name):
                if self._processes.is_running(record):
                    return
                await self._clear(record)
            await self._launch(container)

    async def remove(self, name: str, *, grace_s: float) -> None:
        """End the container's session and whatever is in its cgroup, then forget it."""
        _checked(name)
        async with self._lock(name), self._kept():
            await self._until_launched(name)
            record = self._records.read(name)
            if record is None:
                self._records.delete(name)
                return
            if self._processes.is_running(record):
                await self._processes.ask_to_end(record, grace_s)
            await self._clear(record)

    async def containers(self) -> tuple[ObservedContainer, ...]:
        """Return all containers that have a record, and keep their logs within bounds."""
        async with self._kept():
            seen = await asyncio.to_thread(self._processes.look)
            await self._logs.keep(self._records.log(look.record.instance_id) for look in seen)
            return tuple(self._processes.found(look) for look in seen)

    async def changes(self) -> AsyncIterator[str]:
        """Yield the name of each container whose process ends, adopted ones included."""
        with self._news.listening() as names:
            await self.containers()  # which watches all that run
            while (name := await names.get()) is not None:
                yield name

    def log_of(self, instance_id: str) -> str:
        """Return the path of an instance's log."""
        return str(self._records.log(instance_id))

    async def close(self) -> None:
        """Watch no process any more; they go on."""
        self._processes.close()
        self._news.close()
        await self._logs.close()

    async def _launch(self, container: ContainerSpec) -> None:
        record = self._new_record(container)
        order = self._order(container, record)
        check(order)
        _check_port(container.host, container.port)
        try:
            await self._run(container, record, order)
        except (ContainerError, OSError):
            if self._records.read(container.name) == record:
                await self._clear(record)
            raise
        self._processes.watch(record)

    async def _run(self, container: ContainerSpec, record: Record, order: Order) -> None:
        """Write the record, make the process, and wait until its command runs."""
        # No moment at which to be cancelled is between the record and the process.
        with self._records.launching(container.name) as process_file:
            logs.forget(order.log)
            self._records.write(record)
            if record.cgroup and self._groups:
                self._groups.make(Path(record.cgroup).name, container.memory_bytes)
            child = spawn(order, process_file)
            self._processes.made(record, child.pid)
        try:
            await until_running(order, child.pipe)
        finally:
            os.close(child.pipe)
        if not self._records.was_launched(record):
            raise silent_end(order)

    def _new_record(self, container: ContainerSpec) -> Record:
        is_limited = self._groups is not None and container.memory_bytes > 0
        group = self._groups.parent / f"{self._label}.{container.name}" if self._groups else ""
        return Record(
            name=container.name,
            instance_id=container.instance_id,
            generation=container.generation,
            boot=self._records.boot,
            mark=f"{container.name}:{secrets.token_hex(8)}",
            cgroup=str(group) if is_limited else "",
        )

    def _order(self, container: ContainerSpec, record: Record) -> Order:
        own = {**dict(container.environment), MARK_VARIABLE: record.mark}
        return Order(
            command=container.command,
            environment={**self._inherited, **own},
            log=self._records.log(container.instance_id),
            procs_file=cgroups.procs_file(Path(record.cgroup)) if record.cgroup else None,
        )

    async def _until_launched(self, name: str) -> None:
        """Wait for a process that is being made, by a cancelled start or a dead provisioner."""
        deadline_s = time.monotonic() + LAUNCH_LIMIT_S
        while self._records.is_launching(name):
            if time.monotonic() > deadline_s:
                raise TransientError(
                    f"{name} is being started since {LAUNCH_LIMIT_S:g} s; see what its process does"
                )
            await asyncio.sleep(POLL_S)

    async def _clear(self, record: Record) -> None:
        """Kill what is left of the container, and forget it.

        Raises:
            TransientError: It does not end, as a process that waits for a broken disk.
        """
        await self._processes.kill(record)
        self._processes.forget(record)
        self._records.delete(record.name)

    @contextlib.asynccontextmanager
    async def _kept(self) -> AsyncIterator[None]:
        """Translate what the file system refuses."""
        try:
            yield
        except OSError as error:
            raise TransientError(
                f"cannot keep records of containers: {error}; see that their folder and cgroups "
                "can be "
                "written and have room, and that files can be opened (`ulimit -n`)"
            ) from error

    def _lock(self, name: str) -> asyncio.Lock:
        """Return what makes starts and removals of one container take turns."""
        return self._locks.setdefault(name, asyncio.Lock())


def label_of(fleet: str, node: str, state_dir: Path) -> str:
    """Return how the names of our cgroups begin: as those of no other state folder do.

    Or a provisioner of another fleet of that name, on this machine, would take our processes for
    those of its own.
    """
    digest = hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:12]
    return f"ollama-fleet.{fleet}.{node}.{digest}"


def _checked(name: str) -> None:
    """Refuse names that are no file names."""
    if not NAME.fullmatch(name):
        raise PermanentError(
            f"{name!r} cannot name a container, fleet or node: letters, digits, `.`, `-` and `_` "
            "can"
        )


def _check_port(host: str, port: int) -> None:
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
