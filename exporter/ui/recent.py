"""Errors per instance, and p99s of requests and canaries, over the last five minutes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from exporter import catalogue
from exporter.histograms import gained, onto
from exporter.snapshot import QUANTILE
from exporter.steps import run_in_steps
from exporter.ui.layout import STEP_ROWS

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from exporter.counters import FleetCounters
    from exporter.model import Histogram
    from exporter.poller import Poller
    from exporter.snapshot import Row
    from ollama_fleet.clock import Clock


SAMPLE_INTERVAL_S = 60.0
SAMPLES_KEPT = 6
"""The oldest of them is five to six minutes old."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What there was at one moment."""

    errors: dict[str, float]
    """By instance id, in all. Those without are left out, which is most of them."""
    times: Mapping[catalogue.Series, Histogram]
    """Of the whole fleet's requests and canaries."""


class RecentHistory:
    """The last samples."""

    def __init__(self, poller: Poller, fleet_counters: FleetCounters, clock: Clock) -> None:
        self._poller = poller
        self._fleet_counters = fleet_counters
        self._clock = clock
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)
        self._known: set[str] = set()
        """Instances whose errors were seen before: others have none yet that are recent."""

    async def run(self) -> None:
        """Take a sample once the first cycle has ended and then every minute, until cancelled."""
        await self._poller.has_seen_all.wait()
        while True:
            await self.sample()
            await self._clock.sleep(SAMPLE_INTERVAL_S)

    async def sample(self) -> None:
        """Take a sample; about 0.6 µs of CPU for each instance."""
        sample, _ = await run_in_steps(self._steps())
        self._samples.append(sample)

    def errors_of(self, row: Row) -> int | None:
        """Return how many requests of an instance failed recently; None if it reports none."""
        if row.counters.errors is None or not self._samples:
            return None
        total = _errors_total(row)
        if row.target.id not in self._known:
            self._meet(row.target.id, total)
        # Less than before has who came back under its old id: nothing is known of it yet.
        return max(0, round(total - self._samples[0].errors.get(row.target.id, 0.0)))

    def p99s_s(self) -> dict[catalogue.Series, float]:
        """Return the recent p99 of each time; a time without recent requests is left out."""
        if not self._samples:
            return {}
        before, p99s_s = self._samples[0].times, {}
        for series, now in self._times().items():
            recent = gained(onto(before[series], now.boundaries_s), now)
            if recent is not None:
                p99s_s[series] = histogram_quantile(QUANTILE, recent)
        return p99s_s

    def _times(self) -> dict[catalogue.Series, Histogram]:
        traffic, canary = self._fleet_counters.traffic, self._fleet_counters.canary
        merged = {
            catalogue.FLEET_REQUEST_DURATION: traffic.durations,
            catalogue.FLEET_TIME_TO_FIRST_TOKEN: traffic.time_to_first_token,
            catalogue.FLEET_QUEUE_TIME: traffic.queue_time,
            **({} if canary is None else canary.times),
        }
        return {series: some.total() for series, some in merged.items()}

    def _steps(self) -> Generator[None, None, Sample]:
        rows = yield from self._poller.rows()
        errors: dict[str, float] = {}
        known: set[str] = set()
        for first in range(0, len(rows), STEP_ROWS):
            for row in rows[first : first + STEP_ROWS]:
                if row.counters.errors is None:
                    continue
                total = _errors_total(row)
                known.add(row.target.id)
                if row.target.id not in self._known:
                    self._meet(row.target.id, total)
                if total:
                    errors[row.target.id] = total
            yield
        self._known = known
        return Sample(errors, self._times())

    def _meet(self, instance_id: str, total: float) -> None:
        """Take what an instance brings along as what it had all the time."""
        self._known.add(instance_id)
        for sample in self._samples:
            sample.errors[instance_id] = total


def _errors_total(row: Row) -> float:
    return sum([counter.total for _, counter in row.counters.errors or ()])


def histogram_quantile(q: float, histogram: Histogram) -> float:
    """Return the q-quantile of a histogram that has at least one request and one boundary.

    Within a bucket it is interpolated as Prometheus does; what is above the last boundary counts as
    being at it.
    """
    cumulative, boundaries_s = histogram.cumulative, histogram.boundaries_s
    rank = q * cumulative[-1]
    buckets = pairwise((0.0, *cumulative[:-1]))
    edges = pairwise((0.0, *boundaries_s))
    for (below, upto), (lower_s, upper_s) in zip(buckets, edges, strict=True):
        if upto >= rank and upto > below:
            return lower_s + (upper_s - lower_s) * (rank - below) / (upto - below)
    return boundaries_s[-1]
