"""Tell of what the reconciler does, for whoever counts it.

In:   operations that ended, passes, outages of the store.
Out:  a Listener is told of each as it happens; Counters is one that only counts.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from provisioning.lifecycle import Outcome, Result
from provisioning.operations import Kind, Operation
from provisioning.report import Report


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
