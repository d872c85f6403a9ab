"""Who a process is, for certain, and how to signal it and nobody else.

In:   /proc. Out: Identities: a process id with the start time that belongs to it.
A process id is used again and again; an Identity never is, as long as `boot()` is the same. Signals
go through pidfds, which stand for one process and not for its number. No function fails where a
process has ended meanwhile. Fails with OSError where nothing can be known, as without a file
descriptor to spare: a process is never said to be gone unless the kernel says so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec

PROC = Path("/proc")
STATE, SESSION, START_TICKS = 0, 3, 19
"""Places in /proc/PID/stat after the program's name; see proc(5)."""
ENDED_STATES = frozenset("ZXx")
ABSENT = frozenset({errno.ENOENT, errno.ESRCH, errno.EINVAL, errno.EACCES, errno.EPERM})
"""What is said of a process that we have no business with: it is gone, its number is a thread's by
now (EINVAL), or it is another user's and /proc is mounted with `hidepid`."""


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
    except OSError as error:
        _raise_unless_absent(error)
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
    except OSError as error:
        _raise_unless_absent(error)
        return None
    is_it = False
    try:
        # Asked after opening: should the number be another's by now, so is the start time.
        is_it = find(identity) is not None
    finally:
        if not is_it:
            os.close(descriptor)
    return descriptor if is_it else None


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


def has_child_ended(pid: int) -> bool:
    """Say whether a child of ours has ended, and reap it then; until that its number is its own."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True


def session_members(leader: Identity, mark: bytes) -> Iterator[Identity]:
    """Yield the living processes of a session, its leader included, dead or alive.

    Where the leader is gone, its number may lead a stranger's session: a member counts only with
    `mark` in its environment. One that wrote over its environment, as for a title in `ps`, is then
    missed; a cgroup is the only certain way.
    """
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    stats = [stat for stat in map(read_stat, pids) if stat and stat.session == leader.pid]
    # Asked after the others: if it is there now, the number was no other's when they were read.
    is_led = find(leader) is not None
    for stat in stats:
        if not stat.has_ended and (is_led or _has_mark(stat.pid, mark)):
            yield Identity(stat.pid, stat.start_ticks)


def identities(pids: Iterator[int]) -> Iterator[Identity]:
    """Yield who these living processes are now."""
    for stat in map(read_stat, pids):
        if stat and not stat.has_ended:
            yield Identity(stat.pid, stat.start_ticks)


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        return mark in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError as error:
        _raise_unless_absent(error)
        return False


def _raise_unless_absent(error: OSError) -> None:
    """Raise what tells nothing of the process, as that too many files are open."""
    if error.errno not in ABSENT:
        raise error
