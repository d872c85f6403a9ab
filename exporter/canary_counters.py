"""Count the results of canaries and what they cost the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter import catalogue
from exporter.catalogue import BOUNDARIES_S
from exporter.counters import MAX_MODELS, bounded
from exporter.histograms import MergedHistograms
from exporter.model import CanaryOutcome, Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.catalogue import Series
    from exporter.model import Generation


@dataclass(frozen=True, slots=True)
class CanaryTotals:
    """The counts at one moment."""

    results: Mapping[CanaryOutcome, int]
    requests: int
    tokens: float
    seconds: float
    times: Mapping[Series, Mapping[str, Histogram]]
    """By model."""


class CanaryCounters:
    """Running totals; each only ever grows."""

    def __init__(self) -> None:
        self.results: dict[CanaryOutcome, int] = dict.fromkeys(CanaryOutcome, 0)
        self.requests = 0
        self.tokens = 0.0
        self.seconds = 0.0
        self.times = {
            catalogue.FLEET_CANARY_DURATION: MergedHistograms(),
            catalogue.FLEET_CANARY_TIME_TO_FIRST_TOKEN: MergedHistograms(),
            catalogue.FLEET_CANARY_WAITING: MergedHistograms(),
            catalogue.FLEET_CANARY_LOAD: MergedHistograms(),
        }

    def totals(self) -> CanaryTotals:
        """Return the counts as they are now."""
        times = {series: dict(merged.by_model) for series, merged in self.times.items()}
        return CanaryTotals(dict(self.results), self.requests, self.tokens, self.seconds, times)

    def record(
        self,
        model: str,
        outcome: CanaryOutcome,
        generation: Generation | None,
        duration_s: float | None,
    ) -> None:
        """Count one canary; it has a duration if a request was sent."""
        self.results[outcome] += 1
        if duration_s is None:
            return
        self.requests += 1
        self.seconds += duration_s
        # A refusal comes at once, and a stalled canary has no end: both are counted by outcome.
        if outcome is CanaryOutcome.OK:
            self._observe(catalogue.FLEET_CANARY_DURATION, model, duration_s)
        if generation is not None:
            self.tokens += generation.n_tokens
            first_s = generation.time_to_first_token_s
            self._observe(catalogue.FLEET_CANARY_TIME_TO_FIRST_TOKEN, model, first_s)
            self._observe(catalogue.FLEET_CANARY_WAITING, model, generation.waiting_s)
            self._observe(catalogue.FLEET_CANARY_LOAD, model, generation.load_s)

    def _observe(self, series: Series, model: str, value_s: float | None) -> None:
        if value_s is not None:
            merged = self.times[series]
            merged.add(bounded(model, merged.by_model, MAX_MODELS), _histogram_of(value_s))


def _histogram_of(value_s: float) -> Histogram:
    counts = [1.0 if value_s <= boundary else 0.0 for boundary in BOUNDARIES_S]
    return Histogram((*counts, 1.0), value_s)
