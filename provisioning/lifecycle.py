"""The states of an instance, its history, and the record that each result leads to; pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from provisioning.actions import (
    Action,
    AssignDeveloper,
    CreateInstance,
    DeleteRecord,
    Drain,
    Reschedule,
    Start,
    Stop,
)
from provisioning.model import FOR_GOOD, Event, Instance, Limits, Phase, Reason
from provisioning.store.base import NEW, Change, Delete, Put, StoredInstance

MAX_EVENTS = 20
"""How many events of an instance's history are kept."""
MAX_DETAIL = 300
"""Letters of an event's detail: a history must stay small, 10,000 of them are stored."""


def with_event(instance: Instance, at_s: float, what: str, detail: str = "") -> Instance:
    """Return the instance with one more event, the oldest ones forgotten."""
    event = Event(at_s, str(what), detail[:MAX_DETAIL], instance.generation)
    return replace(instance, history=(*instance.history, event)[-MAX_EVENTS:])


def with_repeated_event(instance: Instance, at_s: float, what: str, detail: str) -> Instance:
    """Return the instance with an event in place of the last one, where that is of its kind.

    What fails again and again would else push out what led to it.
    """
    history = instance.history
    if history and (what, instance.generation) == (history[-1].what, history[-1].generation):
        instance = replace(instance, history=history[:-1])
    return with_event(instance, at_s, what, detail)


def with_more_detail(instance: Instance, kinds: Container[str], more: str) -> Instance:
    """Return the instance with more said, in front, of its latest event of some kinds.

    That takes no line: by the crashes that a history has, the next wait is reckoned.
    """
    events = list(instance.history)
    for place, event in reversed(tuple(enumerate(events))):
        if event.what in kinds:
            events[place] = replace(event, detail=f"{more}: {event.detail}"[:MAX_DETAIL])
            break
    return replace(instance, history=tuple(events))


def tries(n: int) -> str:
    """Return a number of tries in words."""
    return f"{n:,} tries" if n != 1 else "1 try"


CRASHES = frozenset({Reason.EXITED, Reason.OUT_OF_MEMORY, Reason.UNHEALTHY})
CRASH_MEMORY_S = 3600.0
"""Crashes further back do not slow down a restart."""
CRASH_GROWTH = 4.0
MAX_FAILED_ON = 5
"""How many nodes are remembered on which an instance could not be started."""


class Result(StrEnum):
    """How an operation ended."""

    DONE = "done"
    FAILED = "failed"
    """All tries are used up."""
    PERMANENT = "permanent"
    """It will not heal by trying again."""
    RESOURCE_EXHAUSTED = "resource_exhausted"
    UNREACHABLE = "unreachable"
    """Its node does not answer: nothing is known."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of an operation."""

    result: Result
    fault: str = ""
    duration_s: float = 0.0
    n_tries: int = 1


FAULTS_OF_NODE = frozenset({Result.RESOURCE_EXHAUSTED, Result.UNREACHABLE})


def begin(action: Action, instance: Instance | None, *, now_s: float) -> Instance | None:
    """Return the record that an action leads to, before anything is done; None: none.

    A record that the action does not change is returned equal to what it was.
    """
    if isinstance(action, CreateInstance):
        return with_event(action.instance, now_s, "placed", action.instance.node)
    if instance is None:
        return None
    match action:
        case Reschedule():
            return _rescheduled(action, instance, now_s)
        case Drain():
            return _drained(action, instance, now_s)
        case Stop():
            return _stopped(action, instance, now_s)
        case AssignDeveloper():
            return replace(instance, developer=action.developer)
        case Start():
            return replace(instance, inventory_entry=action.inventory_entry)
        case _:
            return instance


def finish_start(instance: Instance, outcome: Outcome, *, limits: Limits, now_s: float) -> Instance:
    """Return the record of an instance whose start has ended, well or not."""
    if outcome.result is not Result.DONE:
        return _failed(instance, outcome, limits, now_s)
    running = replace(
        instance,
        phase=Phase.RUNNING,
        phase_since_s=now_s,
        started_s=now_s,
        has_served=True,
        reason=None,
        n_failures=0,
        failed_on=(),
        retry_at_s=0.0,
        fault="",
    )
    return with_event(running, now_s, "started", f"in {outcome.duration_s:.1f} s")


def finish_stop(
    instance: Instance, outcome: Outcome, *, limits: Limits, now_s: float
) -> Instance | None:
    """Return the record of an instance whose stop has ended; None: it is gone for good."""
    if outcome.result is not Result.DONE:
        return _still_there(instance, outcome, now_s)
    if instance.reason in FOR_GOOD:
        return None
    delay_s = crash_delay_s(instance, limits, now_s) if instance.reason in CRASHES else 0.0
    if delay_s > 0:
        return _crash_loop_back_off(instance, delay_s, now_s)
    return replace(
        instance,
        phase=Phase.STARTING,
        phase_since_s=now_s,
        generation=instance.generation + 1,
        failed_on=(),
        started_s=0.0,
        is_replace_asked=False,
        n_stop_tries=0,
    )


def crash_delay_s(instance: Instance, limits: Limits, now_s: float) -> float:
    """Return how long to wait before an instance that crashed is started again.

    The first crash within an hour costs nothing; each further one makes the wait four times longer.
    """
    n_recent = _n_recent_crashes(instance, now_s)
    if n_recent <= 1:
        return 0.0
    grown_s: float = limits.backoff_base_s * CRASH_GROWTH ** (n_recent - 2)
    return min(limits.retry_failed_s, grown_s)


def _n_recent_crashes(instance: Instance, now_s: float) -> int:
    return sum(
        event.what in CRASHES and now_s - event.at_s < CRASH_MEMORY_S for event in instance.history
    )


def retry_delay_s(instance: Instance, limits: Limits, result: Result) -> float:
    """Return how long to wait before an instance that could not be started is tried again.

    Where only the node was at fault, others are tried soon; the wait doubles each time.
    """
    if result not in FAULTS_OF_NODE:
        return limits.retry_failed_s
    grown_s: float = limits.backoff_base_s * 2.0 ** min(instance.n_failures, 30)
    return min(limits.retry_failed_s, grown_s)


def _failed(instance: Instance, outcome: Outcome, limits: Limits, now_s: float) -> Instance:
    delay_s = retry_delay_s(instance, limits, outcome.result)
    failed = replace(
        instance,
        phase=Phase.FAILED,
        phase_since_s=now_s,
        n_failures=instance.n_failures + 1,
        failed_on=_with_last(instance.failed_on, instance.node),
        retry_at_s=now_s + delay_s,
        fault=outcome.fault,
    )
    given_up = f"given up on {instance.node} after {tries(outcome.n_tries)}"
    return with_event(
        failed, now_s, "failed", f"{given_up}, again in {delay_s:,.1f} s: {outcome.fault}"
    )


def _still_there(instance: Instance, outcome: Outcome, now_s: float) -> Instance:
    """Return the record of an instance whose container could not be removed.

    It is stopped again.
    """
    n_tries = instance.n_stop_tries + outcome.n_tries
    there = replace(instance, fault=outcome.fault, n_stop_tries=n_tries)
    return with_repeated_event(
        there, now_s, "stop_failed", f"after {tries(n_tries)}: {outcome.fault}"
    )


def _crash_loop_back_off(instance: Instance, delay_s: float, now_s: float) -> Instance:
    """Return the record of an instance that crashes too often to be started again at once."""
    held = replace(
        instance,
        phase=Phase.FAILED,
        phase_since_s=now_s,
        retry_at_s=now_s + delay_s,
        n_stop_tries=0,
    )
    crash = f"crash {_n_recent_crashes(instance, now_s)} within an hour"
    return with_more_detail(held, CRASHES, f"{crash}, again in {delay_s:,.1f} s")


def _rescheduled(action: Reschedule, instance: Instance, now_s: float) -> Instance:
    rescheduled = replace(
        instance,
        node=action.node,
        port=action.port,
        generation=action.generation,
        phase=Phase.STARTING,
        phase_since_s=now_s,
        workload=action.workload,
        cpus=action.cpus,
        memory_bytes=action.memory_bytes,
        inventory_entry=action.inventory_entry,
        started_s=0.0,
        has_served=instance.has_served and action.workload == instance.workload,
        reason=action.reason or instance.reason,
        retry_at_s=0.0,
        failed_on=() if action.reason else instance.failed_on,
        is_replace_asked=False,
        n_stop_tries=0,
    )
    return with_event(
        rescheduled, now_s, action.reason or "retried", f"{instance.node} → {action.node}"
    )


def _drained(action: Drain, instance: Instance, now_s: float) -> Instance:
    is_draining = instance.phase is Phase.DRAINING
    drained = replace(
        instance,
        phase=Phase.DRAINING,
        phase_since_s=instance.phase_since_s if is_draining else now_s,
        reason=action.reason,
        developer="" if action.reason in FOR_GOOD else instance.developer,
    )
    return with_event(drained, now_s, action.reason)


def _stopped(action: Stop, instance: Instance, now_s: float) -> Instance:
    if instance.phase is Phase.STOPPING and instance.reason is action.reason:
        return instance  # it goes on
    stopped = replace(
        instance,
        phase=Phase.STOPPING,
        phase_since_s=now_s,
        reason=action.reason,
        developer="" if action.reason in FOR_GOOD else instance.developer,
        fault=action.detail or instance.fault,
    )
    if instance.reason is action.reason and not action.detail:
        return stopped  # its history tells already, since it was drained
    return with_event(stopped, now_s, action.reason, action.detail)


def _with_last(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return (*(one for one in names if one != name), name)[-MAX_FAILED_ON:]


class Kind(StrEnum):
    """What an operation does."""

    START = "start"
    STOP = "stop"
    GARBAGE_COLLECT = "garbage_collect"


class Operation(msgspec.Struct, frozen=True):
    """Something that is done to one container."""

    kind: Kind
    node: str
    container: str
    id: str = ""
    """Of the instance whose record waits for the outcome; empty: it has none."""
    generation: int = 0


Ended = tuple[tuple[Operation, Outcome], ...]


PHASE_DURING = {Kind.START: Phase.STARTING, Kind.STOP: Phase.STOPPING}


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
    actions: Iterable[Action], stored: Mapping[str, StoredInstance], *, now_s: float
) -> list[Change]:
    """Return what is written before the actions are done; some need nothing to be written."""
    records: dict[str, Instance | None] = {}
    for action in actions:
        if id_ := action.id:
            known = stored.get(id_)
            before = records.get(id_, known.instance if known else None)
            is_forgotten = isinstance(action, DeleteRecord)
            records[id_] = None if is_forgotten else begin(action, before, now_s=now_s)
    changes = (_change(id_, record, stored.get(id_)) for id_, record in records.items())
    return [change for change in changes if change]


def changes_after(
    ended: Iterable[tuple[Operation, Outcome]],
    stored: Mapping[str, StoredInstance],
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
        finish = finish_start if operation.kind is Kind.START else finish_stop
        record = finish(known.instance, outcome, limits=limits, now_s=now_s)
        if change := _change(operation.id, record, known):
            changes.append(change)
    return changes


def _waits_for(instance: Instance, operation: Operation) -> bool:
    is_in_phase = instance.phase is PHASE_DURING.get(operation.kind)
    return is_in_phase and instance.generation == operation.generation


def _change(id_: str, record: Instance | None, known: StoredInstance | None) -> Change | None:
    if record is None:
        return Delete(id_, known.version) if known else None
    if known is None:
        return Put(record, NEW)
    return None if record == known.instance else Put(record, known.version)
