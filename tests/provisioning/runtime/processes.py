"""This machine as a node of processes, for tests."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from provisioning.model import ContainerSpec, container_name
from provisioning.runtime import cgroups, procfs
from provisioning.runtime.process import ProcessRuntime, label_of
from provisioning.runtime.procfs import Identity
from provisioning.runtime.records import MARK_VARIABLE, Records
from tests.ports import free_port
from tests.provisioning.runtime.contract import (
    EXIT_STATUS,
    FLEET,
    Behaviour,
    Feature,
)
from tests.waiting import eventually

NODE = "here"
EATER = "eaten = []\nwhile True: eaten.append(bytearray(2**20))"
COMMANDS: Mapping[Behaviour, tuple[str, ...]] = {
    Behaviour.SERVES: ("sleep", "1000"),
    Behaviour.IGNORES_SIGTERM: ("sh", "-c", "trap '' TERM; sleep 1000 & wait"),
    Behaviour.ENDS: ("sh", "-c", f"exit {EXIT_STATUS}"),
    Behaviour.EATS_MEMORY: (sys.executable, "-S", "-c", EATER),
    Behaviour.ITS_CHILD_EATS_MEMORY: (
        "sh",
        "-c",
        f"{shlex.join((sys.executable, '-S', '-c', EATER))}; exec sleep 1000",
    ),
    Behaviour.CANNOT_START: ("/nonexistent/llm-server", "--serve"),
}
FOLDER_VARIABLE = "TEST_FOLDER"
"""Tells this test's processes from those of tests that run beside it."""
MEMORY_BYTES = 48 * 2**20


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing until the block ends."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def children() -> list[int]:
    """Return the process ids of this process's children, those that nobody waited for included."""
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


async def environment_of(pid: int) -> Mapping[str, str]:
    """Return what a process was given; the kernel tells of nothing amid the start of a program."""
    environ = Path(f"/proc/{pid}/environ")
    await eventually(environ.read_bytes)
    pairs = (pair.partition("=") for pair in environ.read_bytes().decode().split("\0") if pair)
    return {name: value for name, _, value in pairs}


class ProcessLab:
    """This machine as a node, with the records in a folder of the test."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.groups = cgroups.find()
        self._opened: list[ProcessRuntime] = []
        self._strangers: list[socket.socket] = []
        self._fleets = {FLEET}

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset(Feature) - (frozenset() if self.groups else {Feature.MEMORY})

    def open(self, *, fleet: str = FLEET) -> ProcessRuntime:
        self._fleets.add(fleet)
        runtime = ProcessRuntime(
            fleet, NODE, state_dir=self.state_dir, environ=os.environ, groups=self.groups
        )
        self._opened.append(runtime)
        return runtime

    def container(
        self, behaviour: Behaviour = Behaviour.SERVES, *, number: int = 1, fleet: str = FLEET
    ) -> ContainerSpec:
        return ContainerSpec(
            name=container_name(f"pool-{number}", 1),
            fleet=fleet,
            instance_id=f"pool-{number}",
            generation=1,
            pool="pool",
            host="127.0.0.1",
            port=free_port(),
            image="",
            command=COMMANDS[behaviour],
            environment=((FOLDER_VARIABLE, str(self.state_dir)),),
            mounts=(),
            cpus=1.0,
            memory_bytes=MEMORY_BYTES,
        )

    async def kill(self, container: ContainerSpec) -> None:
        os.kill(self.identity(container).pid, signal.SIGKILL)

    async def take_port(self, container: ContainerSpec) -> None:
        self._strangers.append(socket.create_server((container.host, container.port)))

    async def environment(self, container: ContainerSpec) -> Mapping[str, str]:
        return await environment_of(self.identity(container).pid)

    def records(self, fleet: str = FLEET) -> Records:
        return Records(self.state_dir / fleet / NODE, procfs.boot())

    def identity(self, container: ContainerSpec) -> Identity:
        record = self.records(container.fleet).read(container.name)
        assert record is not None
        identity = self.records(container.fleet).identity(record)
        assert identity is not None
        return identity

    def group(self, container: ContainerSpec) -> Path:
        """Return where the container's cgroup would be."""
        name = f"{label_of(container.fleet, NODE, self.state_dir)}.{container.name}"
        return (self.groups.parent if self.groups else Path("/nonexistent")) / name

    def processes(self, container: ContainerSpec) -> list[int]:
        """Return the ids of all processes that were started as this container, or by it."""
        folders = (path for path in Path("/proc").iterdir() if path.name.isdigit())
        return [int(folder.name) for folder in folders if self._is_of(folder, container)]

    def _is_of(self, folder: Path, container: ContainerSpec) -> bool:
        try:
            lines = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            return False
        mark = f"{MARK_VARIABLE}={container.name}:".encode()
        ours = f"{FOLDER_VARIABLE}={self.state_dir}".encode()
        return ours in lines and any(line.startswith(mark) for line in lines)

    async def close(self) -> None:
        for fleet in self._fleets:
            runtime = self.open(fleet=fleet)
            for found in await runtime.containers():
                await runtime.remove(found.name, grace_s=0.0)
        for runtime in self._opened:
            await runtime.close()
        for stranger in self._strangers:
            stranger.close()
