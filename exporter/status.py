"""Decide an instance's status: by the inventory, its last poll and what went before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from exporter.inventory.checks import label_name_fault, text_fault
from exporter.inventory.entries import RESERVED
from exporter.model import HealthCheck, Outcome, State, Status

if TYPE_CHECKING:
    from exporter.model import CanaryState, Reading, Target


FAILING = frozenset({Status.UNHEALTHY, Status.UNREACHABLE, Status.LOADING, Status.UNKNOWN})
"""Statuses of an instance that should serve and does not."""
NOT_EXPECTED = frozenset({Status.STARTING, Status.PROVISIONING, Status.DRAINING, Status.AWAY})
"""Statuses of an instance that need not serve."""


class StatusHistory(msgspec.Struct, gc=False):
    """What a status depends on beside the last poll. Times are in seconds since 1970 UTC."""

    coming_up_since_s: float | None = None
    """When it was listed for the first time, or as provisioning. None: it was healthy since, or was
    in the first list that the exporter read."""
    was_healthy: bool = False
    """Whether a poll ever found it healthy."""
    failing_since_s: float | None = None
    """Since when it should serve and does not; None while it serves, or need not."""

    def note_polled(self, polled: Status) -> None:
        """Take in what a poll found."""
        if polled is Status.HEALTHY:
            self.was_healthy, self.coming_up_since_s = True, None

    def note_status(self, status: Status, at_s: float) -> None:
        """Take in the status that follows from it."""
        if status not in FAILING:
            self.failing_since_s = None
        elif self.failing_since_s is None:
            self.failing_since_s = at_s

    def is_coming_up(self, now_s: float, timeout_s: float) -> bool:
        """Return whether it may still need time for its start."""
        return is_within(self.coming_up_since_s, now_s, timeout_s)


MAX_DEPARTED = 100_000


class Departed:
    """Instances that were not healthy when they left the inventory.

    One that is listed again is as it was: a list that was cut short, or a registry from which a
    crashing server comes and goes, makes nothing new.
    """

    def __init__(self, kept_s: float) -> None:
        self.kept_s = kept_s
        self._left: dict[str, tuple[float, StatusHistory]] = {}
        """When each left, the first one first."""

    def note(self, instance_id: str, history: StatusHistory, now_s: float) -> None:
        """Take in an instance that leaves."""
        if history.failing_since_s is not None or history.coming_up_since_s is not None:
            self._left[instance_id] = (now_s, history)
        while self._left and self._is_over(next(iter(self._left.values()))[0], now_s):
            del self._left[next(iter(self._left))]

    def recall(self, instance_id: str, now_s: float) -> StatusHistory | None:
        """Return the history of one that is back in time; None for any other."""
        left = self._left.pop(instance_id, None)
        return left[1] if left and is_within(left[0], now_s, self.kept_s) else None

    def _is_over(self, left_s: float, now_s: float) -> bool:
        return len(self._left) > MAX_DEPARTED or not is_within(left_s, now_s, self.kept_s)


def is_within(since_s: float | None, now_s: float, span_s: float) -> bool:
    """Return whether less than a span has passed; not where the clock was set back meanwhile."""
    return since_s is not None and 0.0 <= now_s - since_s < span_s


def polled_status(target: Target, reading: Reading | None, canary: CanaryState | None) -> Status:
    """Return the status of an instance by its last poll.

    With `health: canary` in the inventory, stalled canaries count as well.
    """
    if reading is None:
        return Status.UNKNOWN
    status = STATUS_BY_OUTCOME.get(reading.verdict.outcome, Status.UNHEALTHY)
    if status is Status.HEALTHY and target.health is HealthCheck.CANARY and _stalls(canary):
        return Status.UNHEALTHY
    return status


def status_of(
    state: State,
    polled: Status,
    *,
    is_coming_up: bool = False,
    was_healthy: bool = True,
    is_transient: bool = False,
) -> Status:
    """Return the status of an instance: by the inventory, else by what its last poll found."""
    if state is State.DRAINING:
        return Status.DRAINING
    if state is State.PROVISIONING and is_coming_up:
        return Status.PROVISIONING
    if polled is Status.HEALTHY:
        return polled
    if is_coming_up and not was_healthy:
        return Status.STARTING
    return Status.AWAY if is_transient and polled is Status.UNREACHABLE else polled


STALLS = 2
"""Stalled canaries in a row that make an instance unhealthy: one may have waited in a queue."""


def _stalls(canary: CanaryState | None) -> bool:
    return canary is not None and canary.n_stalled >= STALLS


def is_up(reading: Reading | None) -> bool | None:
    """Return whether a poll found the instance healthy; None where there is nothing to go by."""
    if reading is None or reading.verdict.outcome is Outcome.NO_DESCRIPTOR:
        return None
    return reading.verdict.outcome is Outcome.OK


STATUS_BY_OUTCOME = {
    Outcome.OK: Status.HEALTHY,
    Outcome.LOADING: Status.LOADING,
    Outcome.UNRESOLVED: Status.UNREACHABLE,
    Outcome.REFUSED: Status.UNREACHABLE,
    Outcome.CONNECT_TIMEOUT: Status.UNREACHABLE,
    Outcome.CONNECT_FAILED: Status.UNREACHABLE,
    Outcome.TLS: Status.UNREACHABLE,
    # A port forwarder accepts for a dead server behind it, and closes at once.
    Outcome.RESET: Status.UNREACHABLE,
    # Our own shortage says nothing about the instance.
    Outcome.NO_DESCRIPTOR: Status.UNKNOWN,
}
"""Every other outcome: there was a connection but no good answer, so unhealthy."""


ALL = "all"


@dataclass(frozen=True, slots=True)
class Transient:
    """Which instances come and go on purpose: all, those with a label, or none."""

    is_all: bool = False
    label: str = ""
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Transient:
        """Return what a setting's text means: `all`, `LABEL=VALUE`, or nothing.

        Raises:
            ValueError: The text is none of these.
        """
        text = text.strip()
        if text in ("", ALL):
            return cls(is_all=text == ALL)
        label, _, value = text.partition("=")
        if not value:
            raise ValueError(f"is neither LABEL=VALUE nor {ALL}: {text!r}")
        if label in RESERVED:
            raise ValueError(f"{label} is a key of the instance; give it a label of its own")
        if fault := label_name_fault(label) or text_fault(value):
            raise ValueError(f"{fault}: {text!r}")
        return cls(label=label, value=value)

    def holds(self, target: Target) -> bool:
        """Return whether an instance comes and goes on purpose."""
        return self.is_all or (bool(self.label) and target.labels.get(self.label) == self.value)
