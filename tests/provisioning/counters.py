"""What a reconciler did, counted in memory."""

from __future__ import annotations

from collections import Counter

from provisioning.lifecycle import Kind, Operation, Outcome, Result
from provisioning.report import Report


class Counters:
    """A Listener that counts."""

    def __init__(self) -> None:
        self.results: Counter[tuple[Kind, Result]] = Counter()
        self.n_tries = 0
        self.provision_s: list[float] = []
        """How long each start that went well has taken, tries included."""
        self.n_reconciles = 0
        self.reconcile_s = 0.0
        """All reconciles together."""
        self.last: Report | None = None
        self.n_outages = 0
        self.canaries: Counter[str] = Counter()

    def operation_ended(self, operation: Operation, outcome: Outcome) -> None:
        self.results[operation.kind, outcome.result] += 1
        self.n_tries += outcome.n_tries
        if operation.kind is Kind.START and outcome.result is Result.DONE:
            self.provision_s.append(outcome.duration_s)

    def reconcile_ended(self, report: Report) -> None:
        self.n_reconciles += 1
        self.reconcile_s += report.duration_s
        self.last = report
        self.canaries.update(report.canaries)

    def outage_began(self) -> None:
        self.n_outages += 1
