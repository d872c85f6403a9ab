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

import msgspec

from provisioning.model import ContainerSpec, container_name
from provisioning.runtime import cgroups, logs
from provisioning.runtime.process import ProcessRuntime, Record, folder_of, label_of
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
MARK_VARIABLE = "TEST_MARK"
"""Tells the processes of an instance of this test from all others."""
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


async def environment_of(pid: int) -> Mapping[str, str]:
    """Return what a process was given; the kernel tells of nothing amid the start of a program."""
    environ = Path(f"/proc/{pid}/environ")
    await eventually(environ.read_bytes)
    pairs = (pair.partition("=") for pair in environ.read_bytes().decode().split("\0") if pair)
    return {name: value for name, _, value in pairs}


def _environment(folder: Path) -> list[bytes]:
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


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
        return frozenset(Feature) - (
            frozenset() if self.groups else {Feature.MEMORY, Feature.CHILDREN}
        )

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
            environment=((MARK_VARIABLE, self.mark(f"pool-{number}")),),
            mounts=(),
            cpus=1.0,
            memory_bytes=MEMORY_BYTES,
        )

    async def kill(self, container: ContainerSpec) -> None:
        os.kill(self.pid(container), signal.SIGKILL)

    async def take_port(self, container: ContainerSpec) -> None:
        self._strangers.append(socket.create_server((container.host, container.port)))

    async def environment(self, container: ContainerSpec) -> Mapping[str, str]:
        return await environment_of(self.pid(container))

    def record_path(self, container: ContainerSpec) -> Path:
        return folder_of(self.state_dir, container.fleet, NODE) / f"{container.name}.json"

    def pid(self, container: ContainerSpec) -> int:
        record = msgspec.json.decode(self.record_path(container).read_bytes(), type=Record)
        return record.process.pid

    def log(self, container: ContainerSpec) -> Path:
        folder = folder_of(self.state_dir, container.fleet, NODE)
        return logs.of_process(folder, container.instance_id)

    def mark(self, instance_id: str) -> str:
        return f"{instance_id} of {self.state_dir}"

    def group(self, container: ContainerSpec) -> Path:
        """Return where the container's cgroup would be."""
        name = f"{label_of(container.fleet, NODE, self.state_dir)}.{container.name}"
        return (self.groups.parent if self.groups else Path("/nonexistent")) / name

    def processes(self, container: ContainerSpec) -> list[int]:
        """Return the ids of all processes that were started for this instance."""
        mark = f"{MARK_VARIABLE}={self.mark(container.instance_id)}".encode()
        folders = (path for path in Path("/proc").iterdir() if path.name.isdigit())
        return [int(folder.name) for folder in folders if mark in _environment(folder)]

    async def close(self) -> None:
        for fleet in self._fleets:
            runtime = self.open(fleet=fleet)
            for found in await runtime.containers():
                await runtime.remove(found.name, grace_s=0.0)
        for runtime in self._opened:
            await runtime.close()
        for stranger in self._strangers:
            stranger.close()
