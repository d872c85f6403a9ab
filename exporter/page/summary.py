"""Say in a few lines how the fleet is, how fresh that is, and which alerts fire.

In:   a Sight, and what the exporter knows of its own work.
Out:  a Summary, as it goes to the browser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from exporter.model import Status
from exporter.page import figures
from exporter.page.figures import Figure, Limits, Name, ThresholdSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.inventory import Shard, SourceState
    from exporter.page.prometheus import Answer, Firing, Prometheus
    from exporter.page.revisions import Sight
    from exporter.poller import Poller
    from exporter.selfmetrics import SelfMetrics
    from ollama_fleet.clock import Clock


class Alerts(msgspec.Struct, frozen=True):
    """What fires, and why that is not known for certain."""

    error: str
    firing: tuple[Firing, ...]
    """The most severe."""
    n_firing: int
    """With those that are not told."""
    n_critical: int


class Summary(msgspec.Struct, frozen=True):
    """The fleet in short; None for what is not known."""

    taken_at_seconds: float
    last_pass_age_seconds: float | None
    """Since the last whole pass over the fleet ended."""
    inventory_age_seconds: float | None
    """Of the source that was read longest ago; None while one was never read."""
    shard: dict[str, int]
    instances: dict[Status, int]
    figures: tuple[Figure, ...]
    thresholds_from: ThresholdSource
    alerts: Alerts | None
    """None where no Prometheus is configured."""
    version: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What stays the same as long as the exporter runs."""

    limits: Limits
    shard: Shard
    version: str
    poll_interval_s: float
    refresh_s: float
    """How often a browser should ask for changes."""
    inventory_refresh_s: float


class Summariser:
    """Makes summaries."""

    def __init__(
        self,
        facts: Facts,
        poller: Poller,
        metrics: SelfMetrics,
        sources: Callable[[], Sequence[SourceState]],
        prometheus: Prometheus | None,
        clock: Clock,
    ) -> None:
        self._facts = facts
        self._poller = poller
        self._metrics = metrics
        self._sources = sources
        self._prometheus = prometheus
        self._clock = clock

    def summary(self, sight: Sight) -> Summary:
        """Return the summary of a sight; ages are as of now."""
        facts = self._facts
        answer = None if self._prometheus is None else self._prometheus.latest()
        judged, source = self._judged(sight, answer)
        return Summary(
            taken_at_seconds=sight.taken_at_s,
            last_pass_age_seconds=self._age_s(self._completed_at_s()),
            inventory_age_seconds=self._inventory_age_s(),
            shard={"index": facts.shard.index, "count": facts.shard.count},
            instances={status: sight.totals.instances[status] for status in Status},
            figures=judged,
            thresholds_from=source,
            alerts=None if answer is None else _alerts(answer),
            version=facts.version,
        )

    def _judged(
        self, sight: Sight, answer: Answer | None
    ) -> tuple[tuple[Figure, ...], ThresholdSource]:
        own = figures.thresholds(self._facts.limits, figures.n_expected(sight.totals))
        told = {} if answer is None else self._usable(answer)
        is_all_told = len(told) == len(own)
        judged = figures.figures(
            figures.values(sight.totals, sight.request_latency_p99_s),
            {**own, **told},
            is_judged=self._poller.has_seen_all.is_set(),
        )
        return judged, ThresholdSource.PROMETHEUS if is_all_told else ThresholdSource.SETTINGS

    def _usable(self, answer: Answer) -> dict[Name, float]:
        """Return the thresholds that were told and are for what this exporter sees.

        Floors are for the whole fleet, of which a shard sees a part only.
        """
        names = Name if self._facts.shard.count == 1 else (Name.REQUEST_LATENCY_P99,)
        return {name: answer.thresholds[name] for name in names if name in answer.thresholds}

    def _completed_at_s(self) -> float:
        (family,) = self._metrics.cycle_completed_at_s.collect()
        return family.samples[0].value

    def _inventory_age_s(self) -> float | None:
        read_at_s = [source.last_success_s for source in self._sources()]
        return self._age_s(min(read_at_s, default=0.0))

    def _age_s(self, at_s: float) -> float | None:
        """Return how long ago something was; None for what never was."""
        return round(max(0.0, self._clock.unix_s() - at_s), 3) if at_s else None


def _alerts(answer: Answer) -> Alerts:
    return Alerts(answer.error, answer.firing, answer.n_firing, answer.n_critical)
