"""Say which instances fare badly, and why: the first few of each pass by name, the rest as a count.

In:   what each pass observes, the operations that have ended, the actions that it begins.
Out:  a few warnings in the log; the same one of the same instance at most once a minute.
Never fails.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from provisioning.actions import Action, Observed, Stop
from provisioning.clock import Clock
from provisioning.lifecycle import Outcome
from provisioning.model import Reason
from provisioning.operations import Operation
from provisioning.report import WORDS_OF_FAILURE
from provisioning.store.base import Stored

log = logging.getLogger("provisioning.mishaps")

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
