"""A containerd as a node, for tests."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from provisioning.fleet.clock import SystemClock
from provisioning.fleet.model import Unit, unit_name
from provisioning.fleet.runtime import containerd_api as api
from provisioning.fleet.runtime import containerd_messages_pb2 as messages
from provisioning.fleet.runtime.containerd import ContainerdRuntime, namespace_of
from provisioning.fleet.runtime.containerd_daemon import Daemon
from provisioning.fleet.runtime.containerd_record import Settings
from tests.containerd import IMAGE, Containerd
from tests.ports import free_steady_port
from tests.provisioning.fleet.runtime.contract import (
    EXIT_STATUS,
    FLEET,
    Behaviour,
    Feature,
)

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
    Behaviour.CANNOT_START: ("/nonexistent/llm-server", "--serve"),
}
MEMORY_BYTES = 24 * 2**20


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

    def open(self, *, fleet: str = FLEET, settings: Settings | None = None) -> ContainerdRuntime:
        self._fleets.add(fleet)
        runtime = ContainerdRuntime(
            fleet,
            self._node,
            endpoint=self.containerd.endpoint,
            clock=SystemClock(),
            settings=settings or self.containerd.settings,
        )
        self._opened.append(runtime)
        return runtime

    def unit(
        self, behaviour: Behaviour = Behaviour.SERVES, *, number: int = 1, fleet: str = FLEET
    ) -> Unit:
        return Unit(
            name=unit_name(f"pool-{number}", 1),
            fleet=fleet,
            instance_id=f"pool-{number}",
            generation=1,
            pool="pool",
            host="127.0.0.1",
            port=free_steady_port(),
            image=IMAGE,
            command=COMMANDS[behaviour],
            environment=(),
            mounts=(),
            cpus=1.0,
            memory_bytes=MEMORY_BYTES,
        )

    async def kill(self, unit: Unit) -> None:
        daemon = self.daemon(unit.fleet)
        request = messages.KillTaskRequest(container_id=unit.name, signal=9)
        await daemon.call(api.KILL_TASK, request)
        await daemon.close()

    async def take_port(self, unit: Unit) -> None:
        self._strangers.append(socket.create_server((unit.host, unit.port)))

    async def environment(self, unit: Unit) -> Mapping[str, str]:
        text = Path(f"/proc/{await self.pid(unit)}/environ").read_bytes().decode()
        pairs = (pair.partition("=") for pair in text.split("\0") if pair)
        return {name: value for name, _, value in pairs}

    async def pid(self, unit: Unit) -> int:
        daemon = self.daemon(unit.fleet)
        reply = await daemon.call(api.GET_TASK, messages.TaskId(container_id=unit.name))
        await daemon.close()
        return reply.process.pid

    def daemon(self, fleet: str = FLEET) -> Daemon:
        """Return a connection of the test's own."""
        return Daemon(self.containerd.endpoint, namespace_of(fleet))

    def log(self, unit: Unit) -> Path:
        return self.containerd.folder / "log" / unit.fleet / f"{unit.instance_id}.log"

    def is_ready(self, unit: Unit) -> bool:
        """Say whether a unit that serves handles signals by now."""
        log = self.log(unit)
        return log.exists() and READY in log.read_text()

    async def prepare(self, *fleets: str) -> None:
        """Bring the image to the fleets' namespaces."""
        for fleet in fleets:
            await self.open(fleet=fleet).images.import_archive(IMAGE, self._archive)

    async def close(self) -> None:
        for stranger in self._strangers:
            stranger.close()
        for fleet in self._fleets:
            runtime = self.open(fleet=fleet)
            for found in await runtime.units():
                await runtime.remove(found.name, grace_s=0.0)
        for runtime in self._opened:
            await runtime.close()
