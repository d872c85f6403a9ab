"""A node whose instances are containers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path

import msgspec

from ollama_fleet.clock import Clock
from provisioning.errors import ContainerError
from provisioning.model import ContainerSpec, ContainerState, ObservedContainer
from provisioning.runtime import cgroups, logs
from provisioning.runtime import containerd_messages_pb2 as pb
from provisioning.runtime.base import Broadcast
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd import containers as labels
from provisioning.runtime.containerd.client import Certificates, Daemon, RefusedError, meaning_of
from provisioning.runtime.containerd.containers import Containers, Settings, cgroup_of, new_record
from provisioning.runtime.containerd.images import Image, ImagePulls, Images
from provisioning.runtime.probe import refuse_taken

EXIT, OUT_OF_MEMORY = "/tasks/exit", "/tasks/oom"
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
DYING_S = 10.0
"""From the event that memory is short to the kernel's kill; it comes after the event."""

UNREAD = (None, 0)

log = logging.getLogger(__name__)


class Events:
    """A subscription that is renewed whenever it ends."""

    def __init__(
        self,
        daemon: Daemon,
        namespace: str,
        clock: Clock,
        *,
        look: Callable[[], Awaitable[None]],
        heard: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """Call `heard(topic, container)`; both calls may raise ContainerError, which ends a try."""
        topics = f"{EXIT}|{OUT_OF_MEMORY}"
        events = f'namespace=="{namespace}",topic~="^({topics})$"'
        self._request = pb.SubscribeRequest(filters=[events])
        self._daemon = daemon
        self._clock = clock
        self._look = look
        self._heard = heard
        self._listening: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Go on listening in the background, from the first call until `close`."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def _listen(self) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                async with self._daemon.begun(api.SUBSCRIBE, self._request) as envelopes:
                    await self._look()
                    wait_s = FIRST_WAIT_S
                    await self._hear(envelopes)
            except ContainerError as error:
                log.debug("events of %s: %s", self._daemon.endpoint, error)
            except Exception:
                # A fault of ours must not make us deaf for ever; once is enough for a while.
                log.exception("containerd event stream failed endpoint=%s", self._daemon.endpoint)
                wait_s = LONGEST_WAIT_S
            await self._clock.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _hear(self, envelopes: AsyncIterable[pb.Envelope]) -> None:
        async for envelope in envelopes:
            event = pb.TaskEvent.FromString(envelope.event.value)
            await self._heard(envelope.topic, event.container_id)


class ContainerdRuntime:
    """The containers of one fleet on one node."""

    def __init__(
        self,
        fleet: str,
        node: str,
        *,
        endpoint: str,
        clock: Clock,
        certificates: Certificates | None = None,
        settings: Settings | None = None,
        imports: asyncio.Semaphore | None = None,
    ) -> None:
        """Connect at the first call; raise PermanentError where the endpoint cannot be right.

        `imports` bounds how many images are imported at once; None: one by one.
        """
        self._fleet = fleet
        self._settings = (settings or Settings()).of(node)
        self._is_local = endpoint.startswith("unix:")
        namespace = namespace_of(fleet)
        self._daemon = Daemon(endpoint, namespace, certificates)
        self._containers = Containers(self._daemon, self._settings.snapshotter)
        self._pulls = ImagePulls(node, clock, imports or asyncio.Semaphore())
        self.images = Images(
            self._daemon,
            self._pulls,
            snapshotter=self._settings.snapshotter,
            architecture=self._settings.architecture,
            registries_dir=self._settings.registries_dir,
        )
        self._ended = Broadcast()
        self._events = Events(
            self._daemon, namespace, clock, look=self._tell_exited, heard=self._on_event
        )
        self._clock = clock
        self._oom_kills: dict[str, tuple[ContainerState | None, int]] = {}
        """By container: in which state its count of the kernel's kills was read, and that."""
        self._suspects: dict[str, float] = {}
        """Containers that may just have run out of memory, and until when that is looked at."""
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._locks = weakref.WeakValueDictionary[str, asyncio.Lock]()

    async def start(self, container: ContainerSpec) -> None:
        """Make the container and start it; pull or import its image where that is missing."""
        self._events.listen()
        if not await self._containers.is_running(container.name):
            image = await self.images.ensure(container.image, container.archive)
            await self._finished(container.name, self._start(container, image))

    async def remove(self, name: str, *, grace_s: float) -> None:
        """End the container's process and remove its task, record and snapshot."""
        async with self._lock(name):
            record = await self._containers.record(name)
            if record is None:
                await self._containers.give_record(name, self._fleet)
            elif record.labels.get(labels.FLEET) != self._fleet:
                return
            await self._containers.end(name, grace_s)
            await self._containers.clear(name)
            self._oom_kills.pop(name, None)
        if self._is_local and not self._starting:
            # The last one has gone; one that begins now would miss the group that it has just made,
            # as one of another fleet on this machine still may: it tries again (GROUP_FAILURE).
            cgroups.remove_empty(self._settings.cgroup_parent)

    async def containers(self) -> tuple[ObservedContainer, ...]:
        """Return all containers, whole or not; rotate their logs, remove forgotten cgroups."""
        self._events.listen()
        starting = set(self._starting)
        groups = await asyncio.to_thread(self._groups)
        found = await self._with_oom_kills(await self._containers.found(self._fleet))
        if self._is_local:
            paths = [self._log(container.instance_id) for container in found]
            await asyncio.to_thread(logs.rotate, paths, self._settings.max_log_bytes)
        for name in groups - {container.name for container in found} - starting:
            cgroups.remove_empty(cgroup_of(self._fleet, name, self._settings))
        return tuple(
            _as_created(container) if container.name in starting else container
            for container in found
        )

    async def changes(self) -> AsyncIterator[str]:
        """Yield the name of each container that containerd says has ended or run out of memory."""
        self._events.listen()
        with self._ended.listening() as names:
            while (name := await names.get()) is not None:
                yield name

    def log_of(self, instance_id: str) -> str:
        """Return the path of an instance's log, on the node."""
        return str(self._log(instance_id))

    async def close(self) -> None:
        """Close the connection; containers go on."""
        await self._events.close()
        await self._pulls.close()
        for starting in tuple(self._starting.values()):
            starting.cancel()
            await asyncio.wait([starting])
        self._ended.close()
        await self._daemon.close()

    async def _finished(self, name: str, start: Coroutine[None, None, None]) -> None:
        """Wait for a start, which goes on where the caller is cancelled.

        containerd would clean up after a call that was broken off, but takes its time for it, in
        which the container can be neither started nor removed.
        """
        if name not in self._starting:
            self._starting[name] = asyncio.create_task(start)
            self._starting[name].add_done_callback(lambda ended: self._forget(name, ended))
        else:
            start.close()
        await asyncio.shield(self._starting[name])

    def _forget(self, name: str, ended: asyncio.Task[None]) -> None:
        del self._starting[name]
        if not ended.cancelled():
            ended.exception()  # the caller heard of it, or was cancelled

    async def _start(self, container: ContainerSpec, image: Image) -> None:
        record = new_record(container, image, self._settings)
        log = self._log(container.instance_id)
        async with self._lock(container.name):
            if await self._containers.is_running(container.name):
                return
            await self._containers.clear(container.name)
            self._oom_kills.pop(container.name, None)
            await refuse_taken(container.host, container.port)
            if self._is_local:
                await asyncio.to_thread(_make_way_for, log)
            try:
                await self._containers.make(record, parent=image.snapshot, log=log)
            except RefusedError as error:
                await self._containers.clear(container.name)
                raise meaning_of(container, error) from error

    async def _tell_exited(self) -> None:
        # Nor has anybody said meanwhile that memory ran out: every count is read once more.
        self._oom_kills = {name: (None, n) for name, (_, n) in self._oom_kills.items()}
        for container in await self.containers():
            if container.state is ContainerState.EXITED:
                self._ended.send(container.name)

    async def _on_event(self, topic: str, name: str) -> None:
        if topic == OUT_OF_MEMORY:
            # It comes before the kernel kills, and for all in a group of groups that is full.
            self._suspects[name] = self._clock.monotonic_s() + DYING_S
        self._ended.send(name)

    async def _with_oom_kills(
        self, found: Sequence[ObservedContainer]
    ) -> tuple[ObservedContainer, ...]:
        """Say of each whether the kernel killed one of its processes: out of memory.

        It is asked for a count only where that may be new: each question takes a shim 2 ms.
        """
        now_s = self._clock.monotonic_s()
        self._suspects = {name: at_s for name, at_s in self._suspects.items() if now_s < at_s}
        known = self._oom_kills
        asked = {
            one.name
            for one in found
            if one.name in self._suspects or known.get(one.name, UNREAD)[0] is not one.state
        }
        n_by_name = await self._containers.oom_kills(asked)
        self._oom_kills = {
            one.name: (one.state, n_by_name.get(one.name, known.get(one.name, UNREAD)[1]))
            for one in found
        }
        return tuple(
            msgspec.structs.replace(one, is_out_of_memory=self._oom_kills[one.name][1] > 0)
            for one in found
        )

    def _groups(self) -> frozenset[str]:
        """Return the containers that have a cgroup here.

        containerd forgets a group if it is killed while a container starts or ends. A container has
        its record first, so records that are listed later name all groups in use.
        """
        names = cgroups.names_in(self._settings.cgroup_parent) if self._is_local else ()
        mark = f"{self._fleet}."
        return frozenset(name.removeprefix(mark) for name in names if name.startswith(mark))

    def _log(self, instance_id: str) -> Path:
        return logs.of_container(self._fleet, instance_id, folder=self._settings.log_dir)

    def _lock(self, name: str) -> asyncio.Lock:
        """Return the lock of one container's starts and removals."""
        return self._locks.setdefault(name, asyncio.Lock())


def namespace_of(fleet: str) -> str:
    """Return the fleet's own namespace, so that equal names of two fleets do not meet."""
    return f"ollama-fleet.{fleet}"


def _make_way_for(log: Path) -> None:
    with contextlib.suppress(OSError):
        # The shim would make the folder, and then the log, for all to read.
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        logs.forget(log)


def _as_created(container: ObservedContainer) -> ObservedContainer:
    """Return a container that is being started as such: it has a record already.

    And no task yet.
    """
    if container.state is ContainerState.EXITED and container.exit_status is None:
        return msgspec.structs.replace(container, state=ContainerState.CREATED)
    return container
