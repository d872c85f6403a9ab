"""Make, find and remove containers; read and write their records."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import grpc
import msgspec

from provisioning.errors import TransientError
from provisioning.model import ContainerSpec, ContainerState, ObservedContainer
from provisioning.runtime import containerd_messages_pb2 as pb
from provisioning.runtime import logs
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd import oci_spec as spec
from provisioning.runtime.containerd.client import Daemon, RefusedError
from provisioning.runtime.containerd.images import Image

PREFIX = "ollama-fleet/"
FLEET = f"{PREFIX}fleet"
INSTANCE = f"{PREFIX}instance"
GENERATION = f"{PREFIX}generation"
POOL = f"{PREFIX}pool"
KEPT = "containerd.io/gc.root"
"""Keeps a snapshot from being collected while it has no record."""
ACTIVE = 2
"""The kind of snapshots that can be written to."""
CGROUPS_V2 = "cgroups.v2.Metrics"
"""How the type of figures ends that are of version 2."""
SIGNALLED = 128
"""Added to a signal's number, it is the exit status of whom the signal killed."""


def labels(container: ContainerSpec) -> dict[str, str]:
    """Return what marks a container's record and snapshot."""
    return {
        FLEET: container.fleet,
        INSTANCE: container.instance_id,
        GENERATION: str(container.generation),
        POOL: container.pool,
    }


def found_containers(
    fleet: str,
    records: Iterable[pb.Container],
    tasks: Iterable[pb.Task],
    snapshots: Iterable[pb.Snapshot],
) -> tuple[ObservedContainer, ...]:
    """Return the fleet's containers, sorted by name: whatever has a record, task or snapshot."""
    record_by_id = {record.id: record for record in records}
    task_by_id = {task.id: task for task in tasks}
    found = [
        _of_record(record, task_by_id.get(record.id))
        for record in record_by_id.values()
        if record.labels.get(FLEET) == fleet
    ]
    found += [_of_task(task) for task in task_by_id.values() if task.id not in record_by_id]
    named = record_by_id.keys() | task_by_id.keys()
    found += [
        _found(snapshot.name, snapshot.labels, ContainerState.CREATED)
        for snapshot in snapshots
        if snapshot.name not in named and is_left_over(snapshot, fleet)
    ]
    return tuple(sorted(found, key=lambda container: container.name))


def is_left_over(snapshot: pb.Snapshot, fleet: str) -> bool:
    """Say whether a snapshot was made for a container of the fleet, and not for an image."""
    return snapshot.kind == ACTIVE and snapshot.labels.get(FLEET) == fleet


def exit_status(status: int) -> int:
    """Return containerd's status as ours: negative for a signal."""
    return SIGNALLED - status if status > SIGNALLED else status


def oom_kills(metric: pb.Metric) -> int:
    """Return how many processes the kernel killed for lack of memory, by a container's figures."""
    if metric.data.type_url.endswith(CGROUPS_V2):
        return pb.MetricsOfV2.FromString(metric.data.value).memory_events.oom_kill
    return pb.MetricsOfV1.FromString(metric.data.value).memory_oom_control.oom_kill


def _of_record(record: pb.Container, task: pb.Task | None) -> ObservedContainer:
    if task is None:
        return _found(record.id, record.labels, ContainerState.EXITED)
    state = _state(task)
    has_exited = state is ContainerState.EXITED
    return _found(
        record.id, record.labels, state, exit_status(task.exit_status) if has_exited else None
    )


def _of_task(task: pb.Task) -> ObservedContainer:
    """Return a container whose record somebody deleted: its name has its instance."""
    state = _state(task)
    return _found(
        task.id,
        {},
        state,
        exit_status(task.exit_status) if state is ContainerState.EXITED else None,
    )


def _state(task: pb.Task) -> ContainerState:
    if task.status == pb.CREATED:
        return ContainerState.CREATED
    return ContainerState.EXITED if task.status == pb.STOPPED else ContainerState.RUNNING


def _found(
    name: str, marks: Mapping[str, str], state: ContainerState, status: int | None = None
) -> ObservedContainer:
    instance_id, _, generation = name.rpartition(".")
    number = marks.get(GENERATION) or generation
    return ObservedContainer(
        name=name,
        instance_id=marks.get(INSTANCE) or instance_id,
        generation=int(number) if number.isdigit() else 0,
        state=state,
        exit_status=status,
    )


SHIM = "io.containerd.runc.v2"


class Settings(msgspec.Struct, frozen=True):
    """How containers are made on a node."""

    runtime: str = "crun"
    """A program of the node: its name or path."""
    runtime_root: str = "/run/ollama-fleet/{node}"
    """Where the runtime keeps its state: each daemon's own, or two on one machine take each
    other's containers for theirs."""
    cgroup_parent: str = "/ollama-fleet.{node}"
    """Likewise; a container's own group is below it."""
    snapshotter: str = "overlayfs"
    architecture: str = "amd64"
    registries_dir: str = "/etc/containerd/certs.d"
    """How registries are reached, for containerd 2; 1.7 asks them over HTTPS, and trusts those
    whom the node trusts."""
    log_dir: str = logs.CONTAINERS_DIR
    max_log_bytes: int = logs.MAX_BYTES

    def of(self, node: str) -> Settings:
        """Return the settings with the node's name filled in."""
        return msgspec.structs.replace(
            self,
            runtime_root=self.runtime_root.replace("{node}", node),
            cgroup_parent=self.cgroup_parent.replace("{node}", node),
        )


def cgroup_of(fleet: str, name: str, settings: Settings) -> str:
    """Return a container's cgroup: fleets share a node's groups, other than namespaces."""
    return posixpath.join(settings.cgroup_parent, f"{fleet}.{name}")


def new_record(container: ContainerSpec, image: Image, settings: Settings) -> pb.Container:
    """Return the record; what the runtime needs to know is read from it at every later step."""
    document = spec.render(
        container, image.config, cgroup=cgroup_of(container.fleet, container.name, settings)
    )
    options = pb.RuncOptions(binary_name=settings.runtime, root=settings.runtime_root)
    return pb.Container(
        id=container.name,
        labels=labels(container),
        image=container.image,
        snapshotter=settings.snapshotter,
        snapshot_key=container.name,
        runtime=pb.Runtime(name=SHIM, options=api.wrapped(api.RUNC_OPTIONS, options)),
        spec=api.wrapped(api.SPEC_TYPE, msgspec.json.encode(document)),
    )


def bare_record(name: str, fleet: str) -> pb.Container:
    """Return a record that is enough to end a task which has none."""
    return pb.Container(
        id=name,
        labels={FLEET: fleet},
        runtime=pb.Runtime(name=SHIM),
        spec=api.wrapped(api.SPEC_TYPE, b"{}"),
    )


SIGTERM, SIGKILL = 15, 9
BUSY_LIMIT_S = 60.0
"""How long one container may take to be made or removed; milliseconds where it is one at a time."""
KILL_LIMIT_S = 10.0
LATE_REPLY_S = 10.0


class Containers:
    """The containers of one namespace of a daemon."""

    def __init__(self, daemon: Daemon, snapshotter: str) -> None:
        """Keep their file systems in the snapshotter."""
        self._daemon = daemon
        self._snapshotter = snapshotter

    async def make(self, record: pb.Container, *, parent: str, log: Path) -> None:
        """Make and start a container upon the snapshot `parent`; what is left of it is in the way.

        The order is such that what exists shows how far it came.
        """
        snapshot = pb.PrepareSnapshotRequest(
            snapshotter=self._snapshotter,
            key=record.snapshot_key,
            parent=parent,
            labels={**record.labels, KEPT: "true"},
        )
        mounts = (await self._daemon.call(api.PREPARE_SNAPSHOT, snapshot)).mounts
        request = pb.CreateContainerRequest(container=record)
        await self._daemon.call(api.CREATE_CONTAINER, request)
        output = f"file://{quote(str(log))}"
        task = pb.CreateTaskRequest(
            container_id=record.id, rootfs=mounts, stdout=output, stderr=output
        )
        await self._daemon.call(api.CREATE_TASK, task, deadline_s=BUSY_LIMIT_S)
        start = pb.TaskId(container_id=record.id)
        await self._daemon.call(api.START_TASK, start, deadline_s=BUSY_LIMIT_S)

    async def end(self, name: str, grace_s: float) -> None:
        """Ask the container's process to end, and kill it and all it started after the grace."""
        task = await self._task(name)
        if task is None or task.status in {pb.CREATED, pb.STOPPED}:
            return
        await self._kill(name, SIGTERM)
        if await self._has_ended(name, grace_s):
            return
        await self._kill(name, SIGKILL)
        if not await self._has_ended(name, KILL_LIMIT_S):
            raise TransientError(
                f"{name} was killed on {self._daemon.endpoint} and does not end within "
                f"{KILL_LIMIT_S:g} s; see what its process waits for"
            )

    async def clear(self, name: str) -> None:
        """Remove what is left of a container that does not run."""
        await self._unless_gone(api.DELETE_TASK, pb.TaskId(container_id=name))
        await self._unless_gone(api.DELETE_CONTAINER, pb.ContainerId(id=name))
        request = pb.RemoveSnapshotRequest(snapshotter=self._snapshotter, key=name)
        await self._unless_gone(api.REMOVE_SNAPSHOT, request)

    async def is_running(self, name: str) -> bool:
        """Say whether the container's process runs."""
        task = await self._task(name)
        return task is not None and task.status == pb.RUNNING

    async def record(self, name: str) -> pb.Container | None:
        """Return the record; None: there is none."""
        reply = await self._unless_gone(api.GET_CONTAINER, pb.ContainerId(id=name))
        return reply.container if reply else None

    async def found(self, fleet: str) -> tuple[ObservedContainer, ...]:
        """Return every container of the fleet, whole or not."""
        # Records before tasks: one that is being made meanwhile has no record here, but a task.
        records = await self._daemon.call(api.LIST_CONTAINERS, pb.ListContainersRequest())
        tasks = await self._daemon.call(api.LIST_TASKS, pb.Empty())
        request = pb.ListSnapshotsRequest(snapshotter=self._snapshotter)
        replies = self._daemon.stream(
            api.LIST_SNAPSHOTS, request, deadline_s=self._daemon.deadline_s
        )
        snapshots = [snapshot async for reply in replies for snapshot in reply.info]
        return found_containers(fleet, records.containers, tasks.tasks, snapshots)

    async def give_record(self, name: str, fleet: str) -> None:
        """Give a task whose record was deleted a new one, without which it cannot be killed."""
        tasks = await self._daemon.call(api.LIST_TASKS, pb.Empty())
        if any(task.id == name for task in tasks.tasks):
            request = pb.CreateContainerRequest(container=bare_record(name, fleet))
            await self._daemon.call(api.CREATE_CONTAINER, request)

    async def oom_kills(self, names: Collection[str]) -> dict[str, int]:
        """Return how many processes of each container the kernel killed for lack of memory.

        Those are missing whose tasks are gone. Only where it is needed: each costs a shim 2 ms.
        """
        if not names:
            return {}
        request = pb.MetricsRequest(filters=[f"id=={name}" for name in names])
        reply = await self._daemon.call(api.METRICS, request)
        return {metric.id: oom_kills(metric) for metric in reply.metrics}

    async def _task(self, name: str) -> pb.Task | None:
        reply = await self._unless_gone(api.GET_TASK, pb.TaskId(container_id=name))
        return reply.process if reply else None

    async def _kill(self, name: str, number: int) -> None:
        request = pb.KillTaskRequest(container_id=name, signal=number, all=number == SIGKILL)
        await self._unless_gone(api.KILL_TASK, request)

    async def _has_ended(self, name: str, within_s: float) -> bool:
        request = pb.TaskId(container_id=name)
        try:
            async with asyncio.timeout(within_s):
                # That no reply comes in time is the rule here, and not the node's fault.
                deadline_s = within_s + LATE_REPLY_S
                await self._unless_gone(api.WAIT_TASK, request, deadline_s=deadline_s)
        except TimeoutError:
            return False
        return True

    async def _unless_gone(
        self,
        method: api.Method[api.Request, api.Reply],
        request: api.Request,
        *,
        deadline_s: float = BUSY_LIMIT_S,
    ) -> api.Reply | None:
        """Return the reply; None where what it is about does not exist."""
        try:
            return await self._daemon.call(method, request, deadline_s=deadline_s)
        except RefusedError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return None
            raise
