"""Make, end and remove containers: a snapshot, a record and a task each, in the right order.

In:   records (containerd_record.py), and names.
Out:  what containerd has of them. What is gone already is no failure.
Fails with NodeUnreachableError or RefusedError as containerd_daemon.py does, and with
TransientError where a killed process does not end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

import grpc

from provisioning.errors import TransientError
from provisioning.model import FoundUnit
from provisioning.runtime import containerd_api as api
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime import containerd_units as units
from provisioning.runtime.containerd_daemon import Daemon, RefusedError
from provisioning.runtime.containerd_record import bare_record

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

    async def make(self, record: messages.Container, *, parent: str, log: Path) -> None:
        """Make and start a container upon the snapshot `parent`; what is left of it is in the way.

        In this order, what is found of it tells how far it came.
        """
        snapshot = messages.PrepareSnapshotRequest(
            snapshotter=self._snapshotter,
            key=record.snapshot_key,
            parent=parent,
            labels={**record.labels, units.KEPT: "true"},
        )
        mounts = (await self._daemon.call(api.PREPARE_SNAPSHOT, snapshot)).mounts
        request = messages.CreateContainerRequest(container=record)
        await self._daemon.call(api.CREATE_CONTAINER, request)
        output = f"file://{quote(str(log))}"
        task = messages.CreateTaskRequest(
            container_id=record.id, rootfs=mounts, stdout=output, stderr=output
        )
        await self._daemon.call(api.CREATE_TASK, task, deadline_s=BUSY_LIMIT_S)
        start = messages.TaskId(container_id=record.id)
        await self._daemon.call(api.START_TASK, start, deadline_s=BUSY_LIMIT_S)

    async def end(self, name: str, grace_s: float) -> None:
        """Ask the container's process to end, and kill it and all it started after the grace."""
        task = await self._task(name)
        if task is None or task.status in {messages.CREATED, messages.STOPPED}:
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
        await self._unless_gone(api.DELETE_TASK, messages.TaskId(container_id=name))
        await self._unless_gone(api.DELETE_CONTAINER, messages.ContainerId(id=name))
        request = messages.RemoveSnapshotRequest(snapshotter=self._snapshotter, key=name)
        await self._unless_gone(api.REMOVE_SNAPSHOT, request)

    async def is_running(self, name: str) -> bool:
        """Say whether the container's process runs."""
        task = await self._task(name)
        return task is not None and task.status == messages.RUNNING

    async def record(self, name: str) -> messages.Container | None:
        """Return the record; None: there is none."""
        reply = await self._unless_gone(api.GET_CONTAINER, messages.ContainerId(id=name))
        return reply.container if reply else None

    async def found(self, fleet: str) -> tuple[FoundUnit, ...]:
        """Return every unit of the fleet of which something is left."""
        # Records before tasks: one that is being made meanwhile has no record here, but a task.
        records = await self._daemon.call(api.LIST_CONTAINERS, messages.ListContainersRequest())
        tasks = await self._daemon.call(api.LIST_TASKS, messages.Empty())
        request = messages.ListSnapshotsRequest(snapshotter=self._snapshotter)
        replies = self._daemon.stream(
            api.LIST_SNAPSHOTS, request, deadline_s=self._daemon.deadline_s
        )
        snapshots = [snapshot async for reply in replies for snapshot in reply.info]
        return units.found_units(fleet, records.containers, tasks.tasks, snapshots)

    async def give_record(self, name: str, fleet: str) -> None:
        """Give a task whose record was deleted a new one, without which it cannot be killed."""
        tasks = await self._daemon.call(api.LIST_TASKS, messages.Empty())
        if any(task.id == name for task in tasks.tasks):
            request = messages.CreateContainerRequest(container=bare_record(name, fleet))
            await self._daemon.call(api.CREATE_CONTAINER, request)

    async def oom_kills(self, names: Collection[str]) -> dict[str, int]:
        """Return how many processes of each container the kernel killed for want of memory.

        Those are missing whose tasks are gone. Only where it is needed: each costs a shim 2 ms.
        """
        if not names:
            return {}
        request = messages.MetricsRequest(filters=[f"id=={name}" for name in names])
        reply = await self._daemon.call(api.METRICS, request)
        return {metric.id: units.oom_kills(metric) for metric in reply.metrics}

    async def _task(self, name: str) -> messages.Task | None:
        reply = await self._unless_gone(api.GET_TASK, messages.TaskId(container_id=name))
        return reply.process if reply else None

    async def _kill(self, name: str, number: int) -> None:
        request = messages.KillTaskRequest(container_id=name, signal=number, all=number == SIGKILL)
        await self._unless_gone(api.KILL_TASK, request)

    async def _has_ended(self, name: str, within_s: float) -> bool:
        request = messages.TaskId(container_id=name)
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
