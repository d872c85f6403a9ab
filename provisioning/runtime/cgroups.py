"""Limit the memory of processes by cgroups of version 1 or 2, and read the kernel's OOM kills.

Groups can be made where the memory controller is ours to use: by root, or where systemd delegates
it (`Delegate=yes` and `DelegateSubgroup=`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

PROC = Path("/proc/self")
HIERARCHIES = Path("/sys/fs/cgroup")
MOUNT_ROOT, MOUNT_POINT = 3, 4
"""Places in a line of mountinfo; see proc_pid_mountinfo(5)."""
LIMITS = {
    1: (("memory.limit_in_bytes", True), ("memory.memsw.limit_in_bytes", False)),
    2: (("memory.max", True), ("memory.swap.max", False)),
}
"""By version: the files that hold the limit of memory, and of what more may be swapped out."""
KILLS = {1: "memory.oom_control", 2: "memory.events"}
"""By version: the file with a line `oom_kill N`."""


class Cgroups(msgspec.Struct, frozen=True):
    """A group below which we may make others."""

    parent: Path
    version: int

    def make(self, name: str, memory_bytes: int) -> Path:
        """Make a group with that limit, swap included, or set the limit of an existing one."""
        group = self.parent / name
        group.mkdir(exist_ok=True)
        for file, is_needed in LIMITS[self.version]:
            # Swap is not accounted on every machine. Version 2 counts it apart from memory.
            limit = memory_bytes if is_needed or self.version == 1 else 0
            if is_needed or (group / file).exists():
                (group / file).write_text(str(limit))
        return group


def find(proc: Path = PROC) -> Cgroups | None:
    """Return where groups can be made, if anywhere."""
    paths = dict(_own_paths(proc))
    for version, mount_point, root in _mounts(proc):
        own = _below(mount_point, root, paths.get(version, ""))
        for parent in (own,) if version == 1 else (own, own.parent):
            if _can_limit(parent, version):
                return Cgroups(parent, version)
    return None


def join(group: Path, pid: int) -> None:
    """Put a process, and all that it starts from then on, into the group."""
    (group / "cgroup.procs").write_text(str(pid))


def members(group: Path) -> Iterator[int]:
    """Yield the process ids in the group; none where it does not exist."""
    with contextlib.suppress(OSError):
        yield from map(int, (group / "cgroup.procs").read_text().split())


def n_killed(group: Path) -> int:
    """Return how many processes of the group the kernel has killed for lack of memory."""
    for file in KILLS.values():
        with contextlib.suppress(OSError):
            lines = (line.split() for line in (group / file).read_text().splitlines())
            return sum(int(value) for name, value in lines if name == "oom_kill")
    return 0


def remove(group: Path) -> bool:
    """Remove the group; say whether it is gone, which it cannot be while a member ends."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_empty(path: str, hierarchies: Path = HIERARCHIES) -> None:
    """Remove a group from each hierarchy that has it; the kernel keeps those that hold others."""
    name = path.strip("/")
    for group in (hierarchies / name, *hierarchies.glob(f"*/{name}")):
        remove(group)


def names_in(path: str, hierarchies: Path = HIERARCHIES) -> frozenset[str]:
    """Return the names of the groups in a group, those of all hierarchies."""
    name = path.strip("/")
    groups = (hierarchies / name, *hierarchies.glob(f"*/{name}"))
    return frozenset(below for group in groups for below in _folders_in(group))


def _folders_in(group: Path) -> frozenset[str]:
    """Return the names of the folders in a group; none where it is gone, if only just now."""
    with contextlib.suppress(FileNotFoundError), os.scandir(group) as entries:
        return frozenset(entry.name for entry in entries if entry.is_dir())
    return frozenset()


def _own_paths(proc: Path) -> Iterator[tuple[int, str]]:
    """Yield (version, path) of the groups that we are in and that can limit memory."""
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield 2, path
        elif "memory" in controllers.split(","):
            yield 1, path


def _mounts(proc: Path) -> Iterator[tuple[int, Path, str]]:
    """Yield (version, mount point, root of the mount) of hierarchies that may limit memory."""
    for line in (proc / "mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        fields, (kind, _, options) = mount.split(), source.split(" ", 2)
        if kind == "cgroup2":
            yield 2, Path(fields[MOUNT_POINT]), fields[MOUNT_ROOT]
        elif kind == "cgroup" and "memory" in options.split(","):
            yield 1, Path(fields[MOUNT_POINT]), fields[MOUNT_ROOT]


def _below(mount_point: Path, root: str, path: str) -> Path:
    """Return where a group is seen: a container mounts only a part of the hierarchy."""
    inside = os.path.relpath(path or "/", root)
    return mount_point if inside.startswith("..") else Path(os.path.normpath(mount_point / inside))


def _can_limit(parent: Path, version: int) -> bool:
    if not os.access(parent, os.W_OK):
        return False
    return version == 1 or _can_delegate(parent)


def _can_delegate(parent: Path) -> bool:
    """Say whether groups below can limit memory, and let them: version 2 asks for it."""
    try:
        if "memory" in (parent / "cgroup.subtree_control").read_text().split():
            return True
        if "memory" not in (parent / "cgroup.controllers").read_text().split():
            return False
        # Refused where processes are in it: then only the group above may do.
        (parent / "cgroup.subtree_control").write_text("+memory")
    except OSError:
        return False
    return True
