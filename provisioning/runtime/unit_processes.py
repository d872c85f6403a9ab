"""Know what runs by a container's record, end it, and learn how it ended.

In:   Records, and what the kernel tells of processes and cgroups.
Out:  FoundUnits; signals; a call when a container's first process has ended.
Fails with TransientError where killed processes do not end, and with OSError.

No process is signalled unless its id, start time and boot are those of the record, or it was seen
in that process's session or cgroup. Without a cgroup a process is missed that wrote over its
environment and whose leader ended before the container was to end; see procfs.session_members.
While the
provisioner lives it learns each container's exit status; a container that ended without it is told
as exited, with an unknown status.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ollama_fleet.clock import Clock
from provisioning.errors import TransientError
from provisioning.model import ContainerState, ObservedContainer
from provisioning.runtime import cgroups, procfs
from provisioning.runtime.endings import Endings, until_ended
from provisioning.runtime.oom_kills import OomKills
from provisioning.runtime.procfs import Identity
from provisioning.runtime.records import Record, Records

POLL_S = 0.01
KILL_LIMIT_S = 10.0
"""How long killed processes may take to end."""
GROUP_LIMIT_S = 2.0

log = logging.getLogger(__name__)


class Look(NamedTuple):
    """What was seen of a container."""

    record: Record
    state: ContainerState
    n_killed: int
    """Processes that the kernel has killed for want of memory."""


class UnitProcesses:
    """The processes of the containers of one fleet on one node."""

    def __init__(self, records: Records, clock: Clock, *, on_end: Callable[[str], None]) -> None:
        """Have `on_end` called with the name of each container whose first process has ended."""
        self._records = records
        self._tell_ended = on_end
        self._unwritten: dict[str, int] = {}
        """Exit statuses that the disk had no room for, by the containers' names."""
        self._seen: dict[str, frozenset[Identity]] = {}
        """Who was to end, by the containers' names: their leader may end first."""
        self._children: dict[str, int] = {}
        """Process ids of what we made, by the containers' names."""
        self._endings = Endings(self._on_end)
        self._oom_kills = OomKills(clock)

    def made(self, record: Record, pid: int) -> None:
        """Know of a child that is to say by itself who it is, and may end before it does."""
        self._children[record.name] = pid
        self._oom_kills.begin(record.name, _n_killed(record))

    def is_running(self, record: Record) -> bool:
        """Say whether the container's first process runs."""
        identity = self._records.identity(record)
        return identity is not None and procfs.is_alive(identity)

    def look(self) -> list[Look]:
        """Return every container that has a record; blocks while the records are read."""
        records = [record for name in self._records.names() if (record := self._records.read(name))]
        return [Look(record, self._state(record), _n_killed(record)) for record in records]

    def found(self, look: Look) -> ObservedContainer:
        """Return what is known of a container that was looked at, and watch it while it runs."""
        record, state = look.record, look.state
        if state is ContainerState.RUNNING:
            self.watch(record)
        container = ObservedContainer(
            record.name,
            record.instance_id,
            record.generation,
            state,
            exit_status=self._exit_status(record) if state is ContainerState.EXITED else None,
        )
        return self._oom_kills.judged(container, look.n_killed)

    def watch(self, record: Record) -> None:
        """Hear of it when the container's first process ends."""
        if identity := self._records.identity(record):
            self._endings.watch(record.name, identity)

    async def ask_to_end(self, record: Record, grace_s: float) -> None:
        """Have them end by themselves; return when the first one has, or the grace is over."""
        for member in await self._still_living(record):
            procfs.send_signal(member, signal.SIGTERM)
        if identity := self._records.identity(record):
            await until_ended(identity, grace_s)

    async def kill(self, record: Record) -> None:
        """Kill them all, and remove their cgroup.

        Raises:
            TransientError: They do not end, as a process that waits for a broken disk.
        """
        deadline_s = time.monotonic() + KILL_LIMIT_S
        while not await self._are_gone(record):
            if time.monotonic() > deadline_s:
                raise TransientError(
                    f"processes of {record.name} were killed and do not end within "
                    f"{KILL_LIMIT_S:g} s; see what they wait for: `ps -o pid,stat,wchan`"
                )
            await asyncio.sleep(POLL_S)
        if identity := self._records.identity(record):
            procfs.reap(identity)
        if record.cgroup:
            await _remove_group(Path(record.cgroup))

    def forget(self, record: Record) -> None:
        """Know nothing of the container any more."""
        self._endings.forget(record.name)
        self._oom_kills.forget(record.name)
        for known in (self._unwritten, self._seen, self._children):
            known.pop(record.name, None)

    def close(self) -> None:
        """Watch no process any more."""
        self._endings.close()

    async def _are_gone(self, record: Record) -> bool:
        """Kill what is left; say whether nothing was."""
        members = await self._still_living(record)
        for member in members:
            procfs.send_signal(member, signal.SIGKILL)
        return not members and self._has_silent_child_ended(record)

    def _has_silent_child_ended(self, record: Record) -> bool:
        """Reap a child that never said who it is; say whether there is none any more."""
        pid = self._children.get(record.name)
        if pid is None or self._records.identity(record):
            return True  # who said so is ended and reaped as that
        if not procfs.has_child_ended(pid):
            return False
        del self._children[record.name]
        return True

    async def _still_living(self, record: Record) -> frozenset[Identity]:
        """Return the container's living processes, and remember them until it is forgotten."""
        members = frozenset(await asyncio.to_thread(self._members, record))
        self._seen[record.name] = members
        return members

    def _members(self, record: Record) -> list[Identity]:
        """Return the container's living processes.

        Blocks for a millisecond per hundred processes.
        """
        found = set(filter(procfs.is_alive, self._seen.get(record.name, ())))
        if record.cgroup:
            found.update(procfs.identities(cgroups.members(Path(record.cgroup))))
        if identity := self._records.identity(record):
            found.update(procfs.session_members(identity, record.environment_line))
            # Its environment may be hidden from us, but who it is was written down.
            found.update({identity} if procfs.is_alive(identity) else ())
        return list(found)

    def _state(self, record: Record) -> ContainerState:
        if self.is_running(record):
            return ContainerState.RUNNING
        return (
            ContainerState.EXITED if self._records.was_launched(record) else ContainerState.CREATED
        )

    def _exit_status(self, record: Record) -> int | None:
        """Return how it ended; asks the kernel, which tells a parent once, and writes it down."""
        identity = self._records.identity(record)
        if identity and (status := procfs.reap(identity)) is not None:
            self._keep_status(record.name, status)
        return self._unwritten.get(record.name, self._records.status(record.name))

    def _keep_status(self, name: str, status: int) -> None:
        try:
            self._records.write_status(name, status)
        except OSError as error:
            self._unwritten[name] = status
            log.warning("cannot write how %s ended, with status %d: %s", name, status, error)

    def _on_end(self, name: str) -> None:
        try:
            if record := self._records.read(name):
                self._exit_status(record)
        finally:
            self._tell_ended(name)


async def _remove_group(group: Path) -> None:
    """Remove a group whose processes have ended; the kernel may need a moment to see it so.

    What stays is empty and harms nobody, so it does not hold the container's removal up for long.
    """
    deadline_s = time.monotonic() + GROUP_LIMIT_S
    while not cgroups.remove(group):
        if time.monotonic() > deadline_s:
            log.warning("%s cannot be removed yet, though nothing runs in it", group)
            return
        await asyncio.sleep(POLL_S)


def _n_killed(record: Record) -> int:
    return cgroups.n_killed(Path(record.cgroup)) if record.cgroup else 0
