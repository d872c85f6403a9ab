"""What one pass found and did; as text it is the line in the log.

pass 812: 9,998 as wanted, 1 started, 1 drained (rotated), 0.04 s
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from provisioning.actions import (
    Action,
    Assign,
    Drain,
    Forget,
    Place,
    Renew,
    Start,
    Stop,
)
from provisioning.lifecycle import Outcome, Result
from provisioning.operations import Kind, Operation

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
