"""What an action, and what became of it, make of an instance's record.

    RUNNING ─ Drain ─► DRAINING ─ Stop ─► STOPPING ─ done ─► STARTING of the next generation
       ▲        └────────── Stop ───────────┘    └──────────► gone, or FAILED until it may try again
       └── done ── STARTING ◄─ Place, Renew ── FAILED ◄─ failed ── STARTING

In:   an Instance, an Action or Outcome, the time.
Out:  the next Instance, or None where its record is deleted. Pure; never fails.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from provisioning.actions import Action, Assign, Drain, Place, Renew, Start, Stop
from provisioning.history import told, told_again, told_more, tries
from provisioning.model import FOR_GOOD, Instance, Phase, Reason
from provisioning.spec_model import Limits

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
    LASTING = "lasting"
    """It will not heal by trying again."""
    NO_ROOM = "no_room"
    UNREACHABLE = "unreachable"
    """Its node does not answer: nothing is known."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of an operation."""

    result: Result
    fault: str = ""
    duration_s: float = 0.0
    n_tries: int = 1


FAULTS_OF_NODE = frozenset({Result.NO_ROOM, Result.UNREACHABLE})


def begin(action: Action, instance: Instance | None, *, now_s: float) -> Instance | None:
    """Return the record that an action leads to, before anything is done; None: none.

    A record that the action does not change is returned equal to what it was.
    """
    if isinstance(action, Place):
        return told(action.instance, now_s, "placed", action.instance.node)
    if instance is None:
        return None
    match action:
        case Renew():
            return _renewed(action, instance, now_s)
        case Drain():
            return _drained(action, instance, now_s)
        case Stop():
            return _stopped(action, instance, now_s)
        case Assign():
            return replace(instance, developer=action.developer)
        case Start():
            return replace(instance, listing=action.listing)
        case _:
            return instance


def finish_start(
    instance: Instance,
    outcome: Outcome,
    *,
    limits: Limits,
    now_s: float,
    is_node_heard: bool = False,
) -> Instance:
    """Return the record of an instance whose start has ended, well or not.

    Where a node is out of reach for starts but not for questions, the start has failed.
    """
    match outcome.result:
        case Result.DONE:
            running = replace(
                instance,
                phase=Phase.RUNNING,
                since_s=now_s,
                started_s=now_s,
                has_served=True,
                reason=None,
                n_failures=0,
                retry_at_s=0.0,
                fault="",
            )
            return told(running, now_s, "started", f"in {outcome.duration_s:.1f} s")
        case Result.UNREACHABLE if not is_node_heard:
            return replace(instance, fault=outcome.fault)  # its node decides what comes next
        case _:
            return _failed(instance, outcome, limits, now_s)


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
        return _held_back(instance, delay_s, now_s)
    return replace(
        instance,
        phase=Phase.STARTING,
        since_s=now_s,
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
    is_lasting = outcome.result is Result.LASTING
    delay_s = retry_delay_s(instance, limits, outcome.result)
    failed = replace(
        instance,
        phase=Phase.FAILED,
        since_s=now_s,
        n_failures=instance.n_failures + 1,
        failed_on=_with_last(instance.failed_on, instance.node),
        retry_at_s=0.0 if is_lasting else now_s + delay_s,
        fault=outcome.fault,
    )
    what_next = "which would not heal by another" if is_lasting else f"again in {delay_s:,.1f} s"
    given_up = f"given up on {instance.node} after {tries(outcome.n_tries)}, {what_next}"
    return told(failed, now_s, "failed", f"{given_up}: {outcome.fault}")


def _still_there(instance: Instance, outcome: Outcome, now_s: float) -> Instance:
    """Return the record of an instance whose unit could not be removed; it is stopped again."""
    n_tries = instance.n_stop_tries + outcome.n_tries
    there = replace(instance, fault=outcome.fault, n_stop_tries=n_tries)
    return told_again(there, now_s, "stop_failed", f"after {tries(n_tries)}: {outcome.fault}")


def _held_back(instance: Instance, delay_s: float, now_s: float) -> Instance:
    """Return the record of an instance that crashes too often to be started again at once."""
    held = replace(
        instance, phase=Phase.FAILED, since_s=now_s, retry_at_s=now_s + delay_s, n_stop_tries=0
    )
    crash = f"crash {_n_recent_crashes(instance, now_s)} within an hour"
    return told_more(held, CRASHES, f"{crash}, again in {delay_s:,.1f} s")


def _renewed(action: Renew, instance: Instance, now_s: float) -> Instance:
    renewed = replace(
        instance,
        node=action.node,
        port=action.port,
        generation=action.generation,
        phase=Phase.STARTING,
        since_s=now_s,
        workload=action.workload,
        cpus=action.cpus,
        memory_bytes=action.memory_bytes,
        listing=action.listing,
        started_s=0.0,
        has_served=instance.has_served and action.workload == instance.workload,
        reason=action.reason or instance.reason,
        retry_at_s=0.0,
        failed_on=() if action.reason else instance.failed_on,
        is_replace_asked=False,
        n_stop_tries=0,
    )
    return told(renewed, now_s, action.reason or "retried", f"{instance.node} → {action.node}")


def _drained(action: Drain, instance: Instance, now_s: float) -> Instance:
    is_draining = instance.phase is Phase.DRAINING
    drained = replace(
        instance,
        phase=Phase.DRAINING,
        since_s=instance.since_s if is_draining else now_s,
        reason=action.reason,
        developer="" if action.reason in FOR_GOOD else instance.developer,
    )
    return told(drained, now_s, action.reason)


def _stopped(action: Stop, instance: Instance, now_s: float) -> Instance:
    if instance.phase is Phase.STOPPING and instance.reason is action.reason:
        return instance  # it goes on
    stopped = replace(
        instance,
        phase=Phase.STOPPING,
        since_s=now_s,
        reason=action.reason,
        developer="" if action.reason in FOR_GOOD else instance.developer,
        fault=action.detail or instance.fault,
    )
    if instance.reason is action.reason and not action.detail:
        return stopped  # its history tells already, since it was drained
    return told(stopped, now_s, action.reason, action.detail)


def _with_last(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return (*(one for one in names if one != name), name)[-MAX_FAILED_ON:]
