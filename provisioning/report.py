"""What a pass has done, in numbers and in log lines."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from ollama_fleet.clock import Clock
from provisioning.actions import Action, Assign, Drain, Forget, Observed, Place, Renew, Start, Stop
from provisioning.eventlog import Silences
from provisioning.lifecycle import Kind, Operation, Outcome, Result
from provisioning.model import Fleet, Instance, Phase, Reason
from provisioning.reconcile import is_leaving
from provisioning.state import OrphanWarning, orphan_policy
from provisioning.store.base import Stored


class Listener(Protocol):
    """Wants to know what the reconciler does; must be quick, and must not fail."""

    def operation_ended(self, operation: Operation, outcome: Outcome) -> None:
        """Take note that something was done to a unit, well or not."""
        ...

    def pass_ended(self, report: Report) -> None:
        """Take note of a pass."""
        ...

    def outage_began(self) -> None:
        """Take note that the store cannot be used: nothing is changed until it is back."""
        ...


class Counters:
    """Counts in memory."""

    def __init__(self) -> None:
        self.results: Counter[tuple[Kind, Result]] = Counter()
        self.n_tries = 0
        self.provision_s: list[float] = []
        """How long each start that went well has taken, tries included."""
        self.n_passes = 0
        self.pass_s = 0.0
        """All passes together."""
        self.last: Report | None = None
        self.n_outages = 0

    def operation_ended(self, operation: Operation, outcome: Outcome) -> None:
        """Count an operation."""
        self.results[operation.kind, outcome.result] += 1
        self.n_tries += outcome.n_tries
        if operation.kind is Kind.START and outcome.result is Result.DONE:
            self.provision_s.append(outcome.duration_s)

    def pass_ended(self, report: Report) -> None:
        """Count a pass."""
        self.n_passes += 1
        self.pass_s += report.duration_s
        self.last = report

    def outage_began(self) -> None:
        """Count an outage of the store."""
        self.n_outages += 1


UNDER_WAY = frozenset({Phase.STARTING, Phase.STOPPING})


def count_waiting(
    fleet: Fleet, stored: Mapping[str, Stored], working: Collection[str], *, now_s: float
) -> int:
    """Return how many instances are to be made, started or stopped, and nothing works on them.

    They wait for an operation, for room, or for their node's answer. Those that have failed count
    once they are due again.
    """
    n_waiting = 0
    n_by_pool: Counter[str] = Counter()
    for id_, one in stored.items():
        n_by_pool[one.instance.pool] += not is_leaving(one.instance)
        n_waiting += id_ not in working and _is_to_be_worked_on(one.instance, now_s)
    return n_waiting + sum(max(0, pool.count - n_by_pool[pool.name]) for pool in fleet.pools)


def reasons_of(actions: Iterable[Action], observed: Observed) -> dict[str, Reason]:
    """Return why each instance that is given up now is, by its id.

    What goes on with an instance given up earlier is not among them.
    """
    found = {}
    for action in actions:
        if isinstance(action, Drain | Stop | Renew) and action.reason:
            instance = observed.stored[action.id].instance
            is_news = isinstance(action, Renew) or instance.reason is not action.reason
            if is_news:
                found[action.id] = action.reason
    return found


def _is_to_be_worked_on(instance: Instance, now_s: float) -> bool:
    if instance.phase is Phase.FAILED:
        return 0 < instance.retry_at_s <= now_s
    return instance.phase in UNDER_WAY


WORD_BY_KIND = {Kind.START: "started", Kind.STOP: "stopped", Kind.SWEEP: "swept"}
WORDS_OF_FAILURE = {
    Result.FAILED: "failed",
    Result.LASTING: "failed for good",
    Result.NO_ROOM: "found no room",
    Result.UNREACHABLE: "not reached",
}


class Report(msgspec.Struct, frozen=True):
    """One pass over the whole fleet."""

    number: int
    n_wanted: int
    """Instances that the specification asks for."""
    n_as_wanted: int
    """Instances that run, are healthy, and are up to date."""
    events: Mapping[str, int]
    """What has ended or begun, in words, and how often."""
    n_running: int = 0
    """Operations that go on after the pass."""
    n_waiting: int = 0
    """Instances that are to be made, started or stopped, and that nothing works on yet."""
    reasons: Mapping[str, int] = {}
    """Why it gave up instances' units, and how often."""
    n_refused: int = 0
    """Changes that the store refused, as somebody else was faster."""
    duration_s: float = 0.0

    def __str__(self) -> str:
        """Return the line of the log."""
        of = "" if self.n_as_wanted == self.n_wanted else f" of {self.n_wanted:,}"
        parts = [f"{self.n_as_wanted:,}{of} as wanted"]
        parts += [f"{n:,} {words}" for words, n in self.events.items()]
        if self.n_running:
            parts.append(f"{self.n_running:,} under way")
        if self.n_refused:
            parts.append(f"{self.n_refused:,} refused by the store")
        parts.append(f"{self.duration_s:.2f} s")
        return f"pass {self.number:,}: " + ", ".join(parts)

    @property
    def is_quiet(self) -> bool:
        """Say whether nothing happened that anybody would read about."""
        return not self.events and not self.n_refused


def events_of(
    ended: Sequence[tuple[Operation, Outcome]], begun: Iterable[Action]
) -> Mapping[str, int]:
    """Count what has ended since the last pass, and what this one has begun, in words."""
    counted: Counter[str] = Counter()
    for operation, outcome in ended:
        done = WORD_BY_KIND[operation.kind]
        failure = WORDS_OF_FAILURE.get(outcome.result)
        counted[f"{operation.kind} {failure}" if failure else done] += 1
    counted.update(_words(action) for action in begun)
    return dict(counted)


def _words(action: Action) -> str:
    match action:
        case Place():
            return "placed"
        case Start():
            return "being started"
        case Renew():
            return f"placed anew ({action.reason or 'retried'})"
        case Drain():
            return f"drained ({action.reason})"
        case Stop():
            return f"being stopped ({action.reason})"
        case Forget():
            return "forgotten"
        case Assign():
            return "assigned" if action.developer else "given back"
        case _:
            return "being swept"


log = logging.getLogger("provisioning.report")

ENDINGS = frozenset({Reason.EXITED, Reason.OUT_OF_MEMORY})
MAX_LINES = 5
"""In one pass."""
REPEAT_S = 60.0
MAX_FAULT = 300
"""Letters of a fault; the instance's history tells as many."""


class Mishap(msgspec.Struct, frozen=True):
    """What has befallen an instance, or a unit that has no record."""

    subject: str
    node: str
    words: str


class Mishaps:
    """What was told of late, so that it is not told again and again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ill: frozenset[str] = frozenset()
        """Those of the pass before."""
        self._unhealthy: dict[str, Mishap] = {}
        """Seen, and not told yet; the newest of each instance: passes may break off for days."""
        self._next_s: dict[Mishap, float] = {}
        """When each may be told again."""

    def look(self, observed: Observed) -> None:
        """Take note of what has become unhealthy, on nodes that answer; the others tell of all."""
        before, self._ill = self._ill, _ill_on_heard_nodes(observed)
        for id_ in sorted(self._ill - before):
            node = observed.stored[id_].instance.node
            self._unhealthy[id_] = Mishap(id_, node, f"unhealthy, {observed.ill[id_].fault}")

    def tell(
        self,
        ended: Iterable[tuple[Operation, Outcome]],
        begun: Iterable[Action],
        stored: Mapping[str, Stored],
    ) -> None:
        """Tell of what failed, what has exited, and what was seen to be unhealthy."""
        mishaps = [*_failures(ended), *_exits(begun, stored), *self._unhealthy.values()]
        self._unhealthy.clear()
        if mishaps:
            self._log(mishaps)

    def _log(self, mishaps: Sequence[Mishap]) -> None:
        now_s = self._clock.monotonic_s()
        self._next_s = {one: next_s for one, next_s in self._next_s.items() if next_s > now_s}
        fresh = [one for one in dict.fromkeys(mishaps) if one not in self._next_s]
        told = fresh[:MAX_LINES]
        n_more = len(fresh) - len(told)
        for number, one in enumerate(told, 1):
            self._next_s[one] = now_s + REPEAT_S
            rest = f" (and {n_more:,} more)" if n_more and number == MAX_LINES else ""
            log.warning("%s on %s: %s%s", one.subject, one.node, one.words[:MAX_FAULT], rest)


def _failures(ended: Iterable[tuple[Operation, Outcome]]) -> Iterator[Mishap]:
    for operation, outcome in ended:
        if failure := WORDS_OF_FAILURE.get(outcome.result):
            words = f"{operation.kind} {failure}: {outcome.fault}"
            yield Mishap(operation.id or operation.unit, operation.node, words)


def _exits(begun: Iterable[Action], stored: Mapping[str, Stored]) -> Iterator[Mishap]:
    for action in begun:
        if isinstance(action, Stop) and action.reason in ENDINGS and action.detail:
            yield Mishap(action.id, stored[action.id].instance.node, action.detail)


def _ill_on_heard_nodes(observed: Observed) -> frozenset[str]:
    heard = {report.node for report in observed.reports.values() if report.is_reachable}
    return frozenset(
        id_
        for id_ in observed.ill
        if id_ in observed.stored and observed.stored[id_].instance.node in heard
    )


class Logbook:
    """Tells of each thing once, or once a minute while it lasts."""

    def __init__(self, clock: Clock, silences: Silences) -> None:
        self._silences = silences
        self._orphans = OrphanWarning(clock)
        self._mishaps = Mishaps(clock)

    def note_seen(self, desired: Fleet, observed: Observed, *, now_s: float) -> None:
        """Take note of what a pass decides on."""
        self._orphans.give(orphan_policy(desired, observed))
        self._silences.note_gone(desired, observed, now_s=now_s)
        self._mishaps.look(observed)

    def note_done(
        self,
        report: Report,
        ended: Sequence[tuple[Operation, Outcome]],
        begun: Sequence[Action],
        stored: Mapping[str, Stored],
    ) -> None:
        """Take note of what a pass did."""
        log.log(logging.DEBUG if report.is_quiet else logging.INFO, "%s", report)
        self._mishaps.tell(ended, begun, stored)
