"""What has to be written before something is done, and after it was done.

In:   Actions or ended Operations, and the records as they are.
Out:  Changes for one commit: no record is in two of them. Pure; never fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from provisioning.actions import Action, Forget, Place, Sweep
from provisioning.lifecycle import Outcome, begin, finish_start, finish_stop
from provisioning.model import Instance, NodeReport, Phase
from provisioning.operations import Kind, Operation
from provisioning.spec_model import Limits
from provisioning.store.base import NEW, Change, Delete, Put, Stored

PHASE_DURING = {Kind.START: Phase.STARTING, Kind.STOP: Phase.STOPPING}


def subject_id(action: Action) -> str:
    """Return the id of the instance that an action is about; empty: it is about none."""
    match action:
        case Place(instance):
            return instance.id
        case Sweep():
            return ""
        case _:
            return action.id


def changed_id(change: Change) -> str:
    """Return the id of the instance that a change is about; empty: it is about none."""
    match change:
        case Put(instance):
            return instance.id
        case Delete(id_):
            return id_
        case _:
            return ""


def changes_before(
    actions: Iterable[Action], stored: Mapping[str, Stored], *, now_s: float
) -> list[Change]:
    """Return what is written before the actions are done; some need nothing to be written."""
    records: dict[str, Instance | None] = {}
    for action in actions:
        if id_ := subject_id(action):
            known = stored.get(id_)
            before = records.get(id_, known.instance if known else None)
            is_forgotten = isinstance(action, Forget)
            records[id_] = None if is_forgotten else begin(action, before, now_s=now_s)
    changes = (_change(id_, record, stored.get(id_)) for id_, record in records.items())
    return [change for change in changes if change]


def changes_after(
    ended: Iterable[tuple[Operation, Outcome]],
    stored: Mapping[str, Stored],
    reports: Mapping[str, NodeReport],
    *,
    limits: Limits,
    now_s: float,
) -> list[Change]:
    """Return what is written of operations that have ended; nothing of those overtaken."""
    changes = []
    for operation, outcome in ended:
        known = stored.get(operation.id)
        if known is None or not _waits_for(known.instance, operation):
            continue
        record = (
            finish_start(
                known.instance,
                outcome,
                limits=limits,
                now_s=now_s,
                is_node_heard=_is_heard(reports.get(operation.node), known.instance),
            )
            if operation.kind is Kind.START
            else finish_stop(known.instance, outcome, limits=limits, now_s=now_s)
        )
        if change := _change(operation.id, record, known):
            changes.append(change)
    return changes


def _is_heard(report: NodeReport | None, instance: Instance) -> bool:
    """Say whether a node has answered since the instance has been starting, and still does."""
    return report is not None and report.is_reachable and report.at_s >= instance.since_s


def _waits_for(instance: Instance, operation: Operation) -> bool:
    is_in_phase = instance.phase is PHASE_DURING.get(operation.kind)
    return is_in_phase and instance.generation == operation.generation


def _change(id_: str, record: Instance | None, known: Stored | None) -> Change | None:
    if record is None:
        return Delete(id_, known.version) if known else None
    if known is None:
        return Put(record, NEW)
    return None if record == known.instance else Put(record, known.version)
