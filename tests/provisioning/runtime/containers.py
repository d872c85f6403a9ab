"""A containerd as a node, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ollama_fleet.clock import SystemClock
from provisioning.errors import TransientError
from provisioning.model import ContainerSpec, container_name
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd.client import Daemon
from provisioning.runtime.containerd.containers import Settings
from provisioning.runtime.containerd.runtime import ContainerdRuntime, namespace_of
from tests.containerd import IMAGE, Containerd
from tests.ports import free_port
from tests.provisioning.runtime.contract import (
    EXIT_STATUS,
    FLEET,
    Behaviour,
    Feature,
)
from tests.provisioning.runtime.processes import environment_of
from tests.waiting import eventually

NODE = "node-1"
READY = "ready"
COMMANDS: Mapping[Behaviour, tuple[str, ...]] = {
    Behaviour.SERVES: (
        "sh",
        "-c",
        f"trap 'exit 0' TERM; echo {READY}; while :; do sleep 1000 & wait; done",
    ),
    Behaviour.IGNORES_SIGTERM: ("sleep", "1000"),  # as every process 1 without a handler
    Behaviour.ENDS: ("sh", "-c", f"exit {EXIT_STATUS}"),
    Behaviour.EATS_MEMORY: ("sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"),
    Behaviour.ITS_CHILD_EATS_MEMORY: (
        "sh",
        "-c",
        "(x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done); exec sleep 1000",
    ),
    Behaviour.CANNOT_START: ("/nonexistent/llm-server", "--serve"),
}
MEMORY_BYTES = 24 * 2**20


class Line:
    """A way to a daemon's socket that can be cut, while the daemon goes on."""

    def __init__(self, end: Path, path: Path) -> None:
        self._end = str(end)
        self._path = path
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def connect(self) -> None:
        self._server = await asyncio.start_unix_server(self._join, self._path)

    def cut(self) -> None:
        assert self._server
        self._server.close()
        self._path.unlink(missing_ok=True)
        for writer in self._open:
            writer.close()
        self._open.clear()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond, there = await asyncio.open_unix_connection(self._end)
        self._open |= {writer, there}
        with contextlib.suppress(OSError):
            await asyncio.gather(_carry(reader, there), _carry(beyond, writer))


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        target.write(data)
        await target.drain()
    target.close()


class ContainerdLab:
    """A containerd that has the image, as a node."""

    def __init__(self, containerd: Containerd, archive: Path, *, node: str = NODE) -> None:
        self.containerd = containerd
        self._archive = archive
        self._node = node
        self._opened: list[ContainerdRuntime] = []
        self._strangers: list[socket.socket] = []
        self._fleets = {FLEET}

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset(Feature)

    def open(
        self, *, fleet: str = FLEET, settings: Settings | None = None, endpoint: str = ""
    ) -> ContainerdRuntime:
        self._fleets.add(fleet)
        runtime = ContainerdRuntime(
            fleet,
            self._node,
            endpoint=endpoint or self.containerd.endpoint,
            clock=SystemClock(),
            settings=settings or self.containerd.settings,
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
            image=IMAGE,
            command=COMMANDS[behaviour],
            environment=(),
            mounts=(),
            cpus=1.0,
            memory_bytes=MEMORY_BYTES,
        )

    async def kill(self, container: ContainerSpec) -> None:
        daemon = self.daemon(container.fleet)
        request = messages.KillTaskRequest(container_id=container.name, signal=9)
        await daemon.call(api.KILL_TASK, request)
        await daemon.close()

    async def take_port(self, container: ContainerSpec) -> None:
        self._strangers.append(socket.create_server((container.host, container.port)))

    async def environment(self, container: ContainerSpec) -> Mapping[str, str]:
        # Before its command runs, the process is one of the low-level runtime, with another.
        await eventually(lambda: self.is_ready(container))
        return await environment_of(await self.pid(container))

    async def pid(self, container: ContainerSpec) -> int:
        daemon = self.daemon(container.fleet)
        reply = await daemon.call(api.GET_TASK, messages.TaskId(container_id=container.name))
        await daemon.close()
        return reply.process.pid

    def daemon(self, fleet: str = FLEET) -> Daemon:
        """Return a connection of the test's own."""
        return Daemon(self.containerd.endpoint, namespace_of(fleet))

    def log(self, container: ContainerSpec) -> Path:
        return self.containerd.folder / "log" / container.fleet / f"{container.instance_id}.log"

    def is_ready(self, container: ContainerSpec) -> bool:
        """Say whether a container that serves handles signals by now."""
        return READY in self.said(container)

    def said(self, container: ContainerSpec) -> str:
        """Return what a container has written so far; the shim gives up the last words of one that
        ends.

        So what has to be read is read while the container runs.
        """
        log = self.log(container)
        return log.read_text() if log.exists() else ""

    async def prepare(self, *fleets: str) -> None:
        """Bring the image to the fleets' namespaces."""
        for fleet in fleets:
            await self.open(fleet=fleet).images.import_archive(IMAGE, self._archive)

    async def close(self) -> None:
        for stranger in self._strangers:
            stranger.close()
        for fleet in self._fleets:
            await eventually(partial(is_removed, self.open(fleet=fleet)))
        for runtime in self._opened:
            await runtime.close()


async def is_removed(runtime: ContainerdRuntime, *names: str) -> bool:
    """Remove these containers, or else all; say whether none is left.

    As often as it takes: after a call that broke off, or a lost shim, containerd itself cleans up.
    """
    try:
        for name in names or [found.name for found in await runtime.containers()]:
            await runtime.remove(name, grace_s=0.0)
        return () == await runtime.containers()
    except TransientError:
        return False
