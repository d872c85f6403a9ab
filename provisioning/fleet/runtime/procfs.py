"""Who a process is, for certain, and how to signal it and nobody else.

In:   /proc. Out: Identities: a process id with the start time that belongs to it.
A process id is used again and again; an Identity never is, as long as `boot()` is the same. Signals
go through pidfds, which stand for one process and not for its number. No function fails where a
process has ended meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec

PROC = Path("/proc")
STATE, SESSION, START_TICKS = 0, 3, 19
"""Places in /proc/PID/stat after the program's name; see proc(5)."""
ENDED_STATES = frozenset("ZXx")


class Identity(msgspec.Struct, frozen=True):
    """One process among all of this boot."""

    pid: int
    start_ticks: int
    """Clock ticks from the machine's boot to its start."""


class Stat(msgspec.Struct, frozen=True):
    """What /proc/PID/stat says."""

    pid: int
    state: str
    session: int
    start_ticks: int

    @property
    def has_ended(self) -> bool:
        """Say whether only its exit status is left of it."""
        return self.state in ENDED_STATES


def boot() -> str:
    """Return what is the same as long as process ids mean the same: this boot, this namespace."""
    boot_id = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id} {os.readlink(PROC / 'self/ns/pid')}"


def parse_stat(text: str) -> Stat:
    """Read a line of /proc/PID/stat; the program's name in it may hold spaces and brackets."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    pid = int(head.partition(" ")[0])
    return Stat(pid, fields[STATE], int(fields[SESSION]), int(fields[START_TICKS]))


def read_stat(pid: int) -> Stat | None:
    """Return what is known of a process id now; None: there is no such process."""
    try:
        return parse_stat((PROC / str(pid) / "stat").read_text(errors="replace"))
    except OSError:
        return None


def find(identity: Identity) -> Stat | None:
    """Return what is known of this very process; None: it has ended and is forgotten."""
    stat = read_stat(identity.pid)
    return stat if stat and stat.start_ticks == identity.start_ticks else None


def is_alive(identity: Identity) -> bool:
    """Say whether the process still runs."""
    stat = find(identity)
    return stat is not None and not stat.has_ended


def open_process(identity: Identity) -> int | None:
    """Return a pidfd of this very process, to be closed by the caller; None: it is gone."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return None
    # Asked after opening: should the number be another's by now, so is the start time.
    if find(identity):
        return descriptor
    os.close(descriptor)
    return None


def send_signal(identity: Identity, number: signal.Signals) -> None:
    """Signal this very process; do nothing where it has ended."""
    descriptor = open_process(identity)
    if descriptor is None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def reap(identity: Identity) -> int | None:
    """Return the exit status of an ended child, negative for a signal; None: nobody's to know."""
    stat = find(identity)
    if stat is None or not stat.has_ended:
        return None
    try:
        # It is ended and unreaped: as long as it is our child, its number is nobody else's.
        result = os.waitid(os.P_PID, identity.pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def session_members(leader: Identity, mark: bytes) -> Iterator[Identity]:
    """Yield the living processes of a session, its leader included, dead or alive.

    Where the leader is gone, its number may lead a stranger's session: a member counts only with
    `mark` in the environment that it was started with.
    """
    for pid in (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()):
        stat = read_stat(pid)
        if stat and stat.session == leader.pid and not stat.has_ended and _has_mark(pid, mark):
            yield Identity(pid, stat.start_ticks)


def identities(pids: Iterator[int]) -> Iterator[Identity]:
    """Yield who these living processes are now."""
    for stat in map(read_stat, pids):
        if stat and not stat.has_ended:
            yield Identity(stat.pid, stat.start_ticks)


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        return mark in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
