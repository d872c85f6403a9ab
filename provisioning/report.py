"""What one reconcile found and did, in numbers and in log lines."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from ollama_fleet.clock import Clock
from provisioning.actions import Action, Drain, Reschedule, StateSnapshot, Stop
from provisioning.eventlog import EventLog
from provisioning.lifecycle import Ended, Operation, Outcome, Result
from provisioning.model import Fleet, Instance, Phase, Reason
from provisioning.reconcile import is_scaled_down
from provisioning.state import (
    DELETE_COMMAND,
    LIST_COMMAND,
    OrphanPolicy,
    lost_nodes,
    orphan_policy,
)
from provisioning.store.base import StoredInstance

log = logging.getLogger("provisioning.report")

UNDER_WAY = frozenset({Phase.STARTING, Phase.STOPPING})
FAILURES = frozenset(
    {Result.FAILED, Result.PERMANENT, Result.RESOURCE_EXHAUSTED, Result.UNREACHABLE}
)
ENDINGS = frozenset({Reason.EXITED, Reason.OUT_OF_MEMORY})
BURST = 5
"""Lines of one kind of failure per window: a pool that cannot be started has thousands."""
MAX_FAULT = 300
"""Characters of a fault; the instance's history holds as many."""


class Listener(Protocol):
    """Hears what the reconciler does; must be quick, and must not fail."""

    def operation_ended(self, operation: Operation, outcome: Outcome) -> None:
        """Take note of an operation on a container or process that succeeded or failed."""
        ...

    def reconcile_ended(self, report: Report) -> None:
        """Take note of a reconcile."""
        ...

    def outage_began(self) -> None:
        """Take note that the store cannot be used: nothing is changed until it is back."""
        ...


class Report(msgspec.Struct, frozen=True):
    """One reconcile of the whole fleet."""

    number: int
    n_wanted: int
    """Instances that the specification asks for."""
    n_ready: int
    """Instances that run, are healthy, and are up to date."""
    events: Mapping[str, int]
    """What has ended or begun, and how often."""
    n_actions: int = 0
    """Actions that were begun."""
    n_running: int = 0
    """Operations that go on after it."""
    n_waiting: int = 0
    """Instances that are to be made, started or stopped, and that nothing works on yet."""
    reasons: Mapping[str, int] = {}
    """Why it gave up instances' containers, and how often."""
    canaries: Mapping[str, int] = {}
    """How the canaries ended since the last one, and how many."""
    n_refused: int = 0
    """Changes that the store refused, as somebody else was faster."""
    duration_s: float = 0.0

    def __str__(self) -> str:
        """Return the line of the log."""
        counts = {
            "ready": self.n_ready,
            "wanted": self.n_wanted,
            "actions": self.n_actions,
            "running": self.n_running,
            "waiting": self.n_waiting,
            "refused": self.n_refused,
            **self.events,
        }
        parts = [f"{name}={n}" for name, n in counts.items()]
        return f"reconcile n={self.number} {' '.join(parts)} duration_s={self.duration_s:.3f}"

    @property
    def is_quiet(self) -> bool:
        """Say whether nothing happened that anybody would read about."""
        return not self.events and not self.n_refused


def events_of(ended: Ended, begun: Iterable[Action]) -> Mapping[str, int]:
    """Count what has ended since the last reconcile, and what this one has begun, by name."""
    counted: Counter[str] = Counter()
    counted.update(f"{operation.kind}_{outcome.result}" for operation, outcome in ended)
    counted.update(map(_name, begun))
    return dict(counted)


def _name(action: Action) -> str:
    name = re.sub(r"\B(?=[A-Z])", "_", type(action).__name__).lower()
    reason = action.reason if isinstance(action, Drain | Stop | Reschedule) else None
    return f"{name}_{reason}" if reason else name


def count_waiting(
    fleet: Fleet, stored: Mapping[str, StoredInstance], working: Collection[str], *, now_s: float
) -> int:
    """Return how many instances are to be made, started or stopped, and nothing works on them.

    They wait for an operation, for room, or for their node's answer. Those that have failed count
    once they are due again.
    """
    n_waiting = 0
    n_by_pool: Counter[str] = Counter()
    for id_, one in stored.items():
        n_by_pool[one.instance.pool] += not is_scaled_down(one.instance)
        n_waiting += id_ not in working and _is_to_be_worked_on(one.instance, now_s)
    return n_waiting + sum(max(0, pool.count - n_by_pool[pool.name]) for pool in fleet.pools)


def _is_to_be_worked_on(instance: Instance, now_s: float) -> bool:
    if instance.phase is Phase.FAILED:
        return 0 < instance.retry_at_s <= now_s
    return instance.phase in UNDER_WAY


def reasons_of(actions: Iterable[Action], observed: StateSnapshot) -> dict[str, Reason]:
    """Return why each instance that is given up now is, by its id.

    What goes on with an instance given up earlier is not among them.
    """
    found = {}
    for action in actions:
        if isinstance(action, Drain | Stop | Reschedule) and action.reason:
            instance = observed.stored[action.id].instance
            is_news = isinstance(action, Reschedule) or instance.reason is not action.reason
            if is_news:
                found[action.id] = action.reason
    return found


class ReconcileLog:
    """Writes the lines of each reconcile, and of what befell instances, nodes and orphans."""

    def __init__(self, clock: Clock) -> None:
        self._events = EventLog(log, clock)
        self._lost: frozenset[str] = frozenset()

    def note_seen(self, desired: Fleet, observed: StateSnapshot, *, now_s: float) -> frozenset[str]:
        """Log orphans that are kept, and nodes when their grace ends; return the lost nodes."""
        self._log_orphans(orphan_policy(desired, observed))
        lost = lost_nodes(desired, observed, now_s=now_s)
        for name in sorted(lost - self._lost):
            self._log_lost(name, desired, observed)
        self._lost = lost
        return lost

    def note_done(
        self,
        report: Report,
        ended: Ended,
        begun: Sequence[Action],
        stored: Mapping[str, StoredInstance],
    ) -> None:
        """Log the report, the operations that failed and the instances that have exited."""
        log.log(logging.DEBUG if report.is_quiet else logging.INFO, str(report))
        for operation, outcome in ended:
            if outcome.result in FAILURES:
                name = operation.id or operation.container
                event = f"{operation.kind} {outcome.result}"
                self._log_fault(event, name, operation.node, outcome.fault)
        for action in begun:
            if isinstance(action, Stop) and action.reason in ENDINGS and action.detail:
                node = stored[action.id].instance.node
                self._log_fault(action.reason, action.id, node, action.detail)

    def _log_fault(self, event: str, name: str, node: str, fault: str) -> None:
        message = f"{event} instance=%s node=%s: %s"
        self._events.event(event, message, name, node, fault[:MAX_FAULT], burst=BURST)

    def _log_orphans(self, policy: OrphanPolicy) -> None:
        if policy.n_refused:
            self._events.event(
                "orphans",
                "orphans kept orphans=%d: they run without a record in the store, or with an older "
                "one, and are not deleted%s; the store may be the wrong one, empty, or an old "
                "backup: then stop the provisioner and restore the right store; otherwise see "
                "`%s` and `%s`",
                policy.n_refused,
                "" if policy.may_place else "; no instance is made",
                LIST_COMMAND,
                DELETE_COMMAND,
                level=logging.ERROR,
            )

    def _log_lost(self, name: str, desired: Fleet, observed: StateSnapshot) -> None:
        here = sum(one.instance.node == name for one in observed.stored.values())
        log.warning(
            "node lost node=%s instances=%d: it does not answer for longer than limits.node_grace "
            "(%g s), and its instances move, except those that still answer; last: %s",
            name,
            here,
            desired.limits.node_grace_s,
            observed.reports[name].fault,
        )
