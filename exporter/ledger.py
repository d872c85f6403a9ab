"""Add up what instances did, for the fleet's own counters.

In:   an Increase per poll.
Out:  running totals since this exporter started, by model, error type and node.
They are summed as things happen, not over the instances that are there now: an instance that
vanishes, restarts or changes its model takes nothing back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.bounded import bounded
from exporter.model import Histogram

if TYPE_CHECKING:
    from collections.abc import Set

    from exporter.memory import Increase

MAX_MODELS = 500
MAX_ERROR_TYPES = 100


class Ledger:
    """Running totals; each only ever grows."""

    def __init__(self) -> None:
        self.generated_tokens: dict[str, float] = {}
        """By model."""
        self.errors: dict[str, float] = {}
        """By error type."""
        self.node_errors: dict[tuple[str, str], float] = {}
        """By (node, error type)."""
        self.durations: dict[str, Histogram] = {}
        """By model."""
        self.failed_requests = 0.0
        """Of the instances that tell durations."""

    @property
    def requests(self) -> float | None:
        """Return how many requests the durations are of; None until an instance tells any."""
        if not self.durations:
            return None
        return sum(histogram.cumulative[-1] for histogram in self.durations.values())

    def record(self, node: str, model: str, increase: Increase) -> None:
        """Add what one instance did since its last poll."""
        if increase.generated_tokens is not None:
            _add(self.generated_tokens, model, increase.generated_tokens, MAX_MODELS)
        for kind, count in increase.errors:
            counted_as = _add(self.errors, kind, count, MAX_ERROR_TYPES)
            key = (node, counted_as)
            self.node_errors[key] = self.node_errors.get(key, 0.0) + count
        if increase.durations is not None:
            counted_as = bounded(model, self.durations, MAX_MODELS)
            known = self.durations.get(counted_as)
            self.durations[counted_as] = _sum(known, increase.durations)
        self.failed_requests += increase.failed_requests

    def keep_nodes(self, present: Set[str]) -> None:
        """Forget nodes that the inventory no longer has, so that their series vanish."""
        gone = [key for key in self.node_errors if key[0] not in present]
        for key in gone:
            del self.node_errors[key]


def _add(totals: dict[str, float], name: str, amount: float, limit: int) -> str:
    """Add to a total; return the name that it counts under."""
    counted_as = bounded(name, totals, limit)
    totals[counted_as] = totals.get(counted_as, 0.0) + amount
    return counted_as


def _sum(total: Histogram | None, gained: Histogram) -> Histogram:
    if total is None:
        return gained
    cumulative = tuple(n + m for n, m in zip(total.cumulative, gained.cumulative, strict=True))
    return Histogram(cumulative, total.sum_s + gained.sum_s)
