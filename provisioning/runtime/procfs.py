"""Who a process is, whether it lives, and how it ended, as the kernel says it.

A process id is used again and again; with its start time it is one process of this boot. Functions
raise OSError where nothing can be known, as without a file descriptor to spare: a process is never
said to be gone unless the kernel says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

PROC = Path("/proc")
STATE, GROUP, START_TICKS = 0, 2, 19
"""Places in /proc/PID/stat after the program's name; see proc(5)."""
ENDED_STATES = frozenset("ZXx")


class Process(msgspec.Struct, frozen=True):
    """One process among all of this boot."""

    pid: int
    start_ticks: int
    """Clock ticks from the machine's boot to its start."""


class Stat(msgspec.Struct, frozen=True):
    """What /proc/PID/stat says."""

    process: Process
    group: int
    has_ended: bool
    """Only its exit status is left of it."""


def boot() -> str:
    """Return what is the same as long as process ids mean the same: this boot, this namespace."""
    boot_id = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id} {os.readlink(PROC / 'self/ns/pid')}"


def read_stat(pid: int) -> Stat | None:
    """Return what is known of a process id now; None: there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    process = Process(pid, int(fields[START_TICKS]))
    return Stat(process, int(fields[GROUP]), fields[STATE] in ENDED_STATES)


def identify(pid: int) -> Process:
    """Return who a child is that nobody has waited for."""
    if stat := read_stat(pid):
        return stat.process
    raise ProcessLookupError(pid)


def is_living(pid: int) -> bool:
    """Say whether there is such a process, and it has not ended."""
    stat = read_stat(pid)
    return stat is not None and not stat.has_ended


def is_alive(process: Process) -> bool:
    """Say whether this very process has not ended."""
    stat = read_stat(process.pid)
    return stat is not None and stat.process == process and not stat.has_ended


def group_members(leader: Process) -> set[int]:
    """Return who is in the group that a process leads or has led; none if its id is another's."""
    stats = [
        stat for pid in map(int, filter(str.isdigit, os.listdir(PROC))) if (stat := read_stat(pid))
    ]
    now = read_stat(leader.pid)
    if now is not None and now.process != leader:
        return set()
    return {stat.process.pid for stat in stats if stat.group == leader.pid}


def reap(process: Process) -> int | None:
    """Return the exit status of an ended child, negative for a signal; None: nobody's to know."""
    stat = read_stat(process.pid)
    if stat is None or stat.process != process or not stat.has_ended:
        return None
    try:
        result = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def open_process(process: Process) -> int | None:
    """Return a pidfd of this very process, to be closed by the caller; None: it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    is_it = False
    try:
        # Asked after opening: should the id be another's by now, so is the start time.
        stat = read_stat(process.pid)
        is_it = stat is not None and stat.process == process
    finally:
        if not is_it:
            os.close(descriptor)
    return descriptor if is_it else None


async def until_exit(process: Process, timeout_s: float) -> None:
    """Return when the process has ended, or after the time."""
    descriptor = open_process(process)
    if descriptor is None:
        return
    try:
        with contextlib.suppress(TimeoutError):
            await until_readable(descriptor, timeout_s)
    finally:
        os.close(descriptor)


async def until_readable(descriptor: int, timeout_s: float | None = None) -> None:
    """Return when something can be read from the descriptor, or its other end is closed.

    Raises:
        TimeoutError: Nothing could for so long.
    """
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(descriptor, _settle, readable)
    try:
        async with asyncio.timeout(timeout_s):
            await readable
    finally:
        loop.remove_reader(descriptor)


class ExitWatcher:
    """Calls back soon after a process has ended, a child or not: its pidfd becomes readable."""

    def __init__(self, on_exit: Callable[[str], None]) -> None:
        """Call `on_exit` with the name under which the process is watched."""
        self._on_exit = on_exit
        self._watched: dict[str, tuple[Process, int]] = {}
        self._is_closed = False

    def watch(self, name: str, process: Process) -> None:
        """Watch a process in place of the one that had the name before."""
        if self._is_closed or (name in self._watched and self._watched[name][0] == process):
            return
        self.forget(name)
        descriptor = open_process(process)
        if descriptor is None:
            self._on_exit(name)
            return
        self._watched[name] = process, descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._on_readable, name)

    def forget(self, name: str) -> None:
        """Watch the name's process no more."""
        if watched := self._watched.pop(name, None):
            asyncio.get_running_loop().remove_reader(watched[1])
            os.close(watched[1])

    def close(self) -> None:
        """Forget all, and watch nothing from now on."""
        self._is_closed = True
        for name in tuple(self._watched):
            self.forget(name)

    def _on_readable(self, name: str) -> None:
        self.forget(name)
        self._on_exit(name)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
