"""Write a container's OCI runtime specification.

A container has the node's network, and process ids, mounts, names and messages of its own; no
capabilities, no way to gain any, and devices of its own. Its process is number 1 there: it ends at
SIGTERM only if its program handles that. Limits on open files are the daemon's.
"""

from __future__ import annotations

import posixpath
from typing import Any

from provisioning.errors import PermanentError
from provisioning.model import ContainerSpec
from provisioning.runtime.containerd.images import ImageConfig

VERSION = "1.0.2"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CPU_PERIOD_US = 100_000
SHARES_PER_CPU = 1024
NAMESPACES = ("pid", "ipc", "uts", "mount")
MASKED = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
SAFE = ("nosuid", "noexec", "nodev")

Document = dict[str, Any]


def render(container: ContainerSpec, config: ImageConfig, *, cgroup: str) -> Document:
    """Return the specification; `cgroup` is the container's, from the root of the hierarchy.

    Raises:
        PermanentError: There is no command, or the image's user has a name and no number.
    """
    return {
        "ociVersion": VERSION,
        "hostname": container.instance_id[:63],
        "root": {"path": "rootfs"},
        "process": _process(container, config),
        "mounts": [*_system_mounts(), *map(_bind, container.mounts)],
        "linux": {
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "cgroupsPath": cgroup,
            "resources": resources(cpus=container.cpus, memory_bytes=container.memory_bytes),
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
        },
    }


def resources(*, cpus: float, memory_bytes: int) -> Document:
    """Return the limits; memory includes swap, and 0 is no limit."""
    limits: Document = {"devices": [{"allow": False, "access": "rwm"}]}
    if memory_bytes > 0:
        limits["memory"] = {"limit": memory_bytes, "swap": memory_bytes}
    if cpus > 0:
        quota_us = max(1000, round(cpus * CPU_PERIOD_US))
        shares = max(2, round(cpus * SHARES_PER_CPU))
        limits["cpu"] = {"shares": shares, "quota": quota_us, "period": CPU_PERIOD_US}
    return limits


def _process(container: ContainerSpec, config: ImageConfig) -> Document:
    user, group = _user(config.User)
    return {
        "args": _arguments(container, config),
        "cwd": config.WorkingDir or "/",
        "env": _environment(container, config),
        "user": {"uid": user, "gid": group},
        "noNewPrivileges": True,
        "capabilities": {},
        "oomScoreAdj": 0,
    }


def _arguments(container: ContainerSpec, config: ImageConfig) -> list[str]:
    """Return the container's command, which replaces all that the image would run."""
    arguments = list(container.command) or [*(config.Entrypoint or ()), *(config.Cmd or ())]
    if not arguments:
        raise PermanentError(
            f"neither {container.pool} nor its image {container.image!r} says what to run; set "
            "`command`"
        )
    return arguments


def _environment(container: ContainerSpec, config: ImageConfig) -> list[str]:
    for name, value in container.environment:
        if not name or "=" in name or "\0" in name + value:
            raise PermanentError(f"no environment can hold the variable {name!r}; correct its name")
    lines = [
        PATH,
        *(config.Env or ()),
        *(f"{name}={value}" for name, value in container.environment),
    ]
    # Of several lines of one name the last counts; the runtime would take the first.
    return list({line.partition("=")[0]: line for line in lines}.values())


def _user(user: str) -> tuple[int, int]:
    number, _, group = user.partition(":")
    try:
        return int(number or 0), int(group or number or 0)
    except ValueError:
        raise PermanentError(
            f"the image's user {user!r} has no number; build it with a numeric USER"
        ) from None


def _system_mounts() -> list[Document]:
    return [
        _mount("proc", "/proc", "proc", *SAFE),
        _mount("tmpfs", "/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("devpts", "/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
        _mount("shm", "/dev/shm", "tmpfs", *SAFE, "mode=1777"),  # noqa: S108 # the container's
        _mount("mqueue", "/dev/mqueue", "mqueue", *SAFE),
        _mount("sysfs", "/sys", "sysfs", *SAFE, "ro"),
        _mount("tmpfs", "/tmp", "tmpfs", "nosuid", "nodev", "mode=1777"),  # noqa: S108
    ]


def _mount(source: str, destination: str, kind: str, *options: str) -> Document:
    return {"source": source, "destination": destination, "type": kind, "options": list(options)}


def _bind(mount: tuple[str, str]) -> Document:
    source, target = mount
    if not (posixpath.isabs(source) and posixpath.isabs(target)):
        raise PermanentError(f"cannot mount {source!r} at {target!r}: both must begin with a slash")
    # `rro` holds for what is mounted below too; a runtime that does not know it still sees `ro`.
    return _mount(source, target, "bind", "rbind", "ro", "rro", "nosuid", "nodev")
