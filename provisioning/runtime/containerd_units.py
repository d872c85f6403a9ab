"""What a unit is to containerd: a snapshot, a record and a task of one name.

In:   replies of a daemon. Out: FoundUnits, from whatever is left of each unit.
Pure. A record whose task is gone has exited with an unknown status: containerd forgets a task
that ended while the daemon was down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from provisioning.model import FoundUnit, Unit, UnitState
from provisioning.runtime import containerd_messages_pb2 as messages

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
"""A status above it tells of the signal that is so much less."""


def labels(unit: Unit) -> dict[str, str]:
    """Return what marks a unit's record and snapshot."""
    return {
        FLEET: unit.fleet,
        INSTANCE: unit.instance_id,
        GENERATION: str(unit.generation),
        POOL: unit.pool,
    }


def found_units(
    fleet: str,
    records: Iterable[messages.Container],
    tasks: Iterable[messages.Task],
    snapshots: Iterable[messages.Snapshot],
) -> tuple[FoundUnit, ...]:
    """Return every unit of which something is left, sorted by name; strangers are left out."""
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
        _found(snapshot.name, snapshot.labels, UnitState.CREATED)
        for snapshot in snapshots
        if snapshot.name not in named and is_left_over(snapshot, fleet)
    ]
    return tuple(sorted(found, key=lambda unit: unit.name))


def is_left_over(snapshot: messages.Snapshot, fleet: str) -> bool:
    """Say whether a snapshot was made for a unit of the fleet, and not for an image."""
    return snapshot.kind == ACTIVE and snapshot.labels.get(FLEET) == fleet


def exit_status(status: int) -> int:
    """Return containerd's status as ours: negative for a signal."""
    return SIGNALLED - status if status > SIGNALLED else status


def oom_kills(metric: messages.Metric) -> int:
    """Return how many processes the kernel killed for want of memory, by a container's figures."""
    if metric.data.type_url.endswith(CGROUPS_V2):
        return messages.MetricsOfV2.FromString(metric.data.value).memory_events.oom_kill
    return messages.MetricsOfV1.FromString(metric.data.value).memory_oom_control.oom_kill


def _of_record(record: messages.Container, task: messages.Task | None) -> FoundUnit:
    if task is None:
        return _found(record.id, record.labels, UnitState.EXITED)
    state = _state(task)
    has_exited = state is UnitState.EXITED
    return _found(
        record.id, record.labels, state, exit_status(task.exit_status) if has_exited else None
    )


def _of_task(task: messages.Task) -> FoundUnit:
    """Return a unit whose record somebody deleted: its name tells the rest."""
    state = _state(task)
    return _found(
        task.id, {}, state, exit_status(task.exit_status) if state is UnitState.EXITED else None
    )


def _state(task: messages.Task) -> UnitState:
    if task.status == messages.CREATED:
        return UnitState.CREATED
    return UnitState.EXITED if task.status == messages.STOPPED else UnitState.RUNNING


def _found(
    name: str, marks: Mapping[str, str], state: UnitState, status: int | None = None
) -> FoundUnit:
    instance_id, _, generation = name.rpartition(".")
    number = marks.get(GENERATION) or generation
    return FoundUnit(
        name=name,
        instance_id=marks.get(INSTANCE) or instance_id,
        generation=int(number) if number.isdigit() else 0,
        state=state,
        exit_status=status,
    )
