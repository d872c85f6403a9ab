"""Make a unit's process, in a session of its own, with nothing of ours but a few variables.

In:   a command, its environment, a locked process file, a log; see launch.py.
Out:  a child, and a descriptor that tells whether the command runs.
Fails with LastingError (the command can never run), NoRoomError (too many processes), or
TransientError. No message tells the environment, which may hold secrets.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from provisioning.errors import LastingError, NoRoomError, TransientError, UnitError
from provisioning.runtime import launch
from provisioning.runtime.endings import until_readable

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
    """Return what a unit takes over from the provisioner's environment, tokens not among it."""
    return {
        name: value
        for name, value in environ.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIX)
    }


def check(order: Order) -> None:
    """Refuse what no system can run.

    Raises:
        LastingError: It says what to mend.
    """
    if not order.command or not order.command[0]:
        raise LastingError("a process needs a command, and there is none; set `command`")
    if any("\0" in argument for argument in order.command):
        raise LastingError(f"an argument of {order.command[0]} holds a NUL character; remove it")
    for name, value in order.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise LastingError(
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
        UnitError: It could not be made; nothing is left of it.
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
        UnitError: It cannot; the process has ended, or is about to.
    """
    await until_readable(pipe)
    kind, _, number = os.read(pipe, NOTICE_BYTES).decode().partition(" ")
    if kind:
        raise failure(order.command[0], int(number), is_command=kind == "command")


def silent_end(order: Order) -> UnitError:
    """Return what it means that the process has ended and never said who it is."""
    return TransientError(
        f"the launcher of {order.command[0]} ended before it ran it; see its log, {order.log}"
    )


def failure(program: str, number: int, *, is_command: bool) -> UnitError:
    """Return what it means that a process could not be made, by its errno."""
    seen = os.strerror(number)
    if number in {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EMFILE, errno.ENFILE}:
        return NoRoomError(f"cannot start {program}: {seen}; free some, or raise the limit")
    if is_command or number == errno.E2BIG:
        return LastingError(
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
