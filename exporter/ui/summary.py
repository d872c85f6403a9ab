"""Summarise the fleet for the web UI: headline values, their thresholds, ages and alerts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from exporter import catalogue
from exporter.model import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.inventory import Shard, SourceState
    from exporter.poller import Poller
    from exporter.selfmetrics import SelfMetrics
    from exporter.ui.cells import Totals
    from exporter.ui.prometheus import Answer, Firing, Prometheus
    from exporter.ui.revisions import FleetView
    from ollama_fleet.clock import Clock
    from ollama_fleet.levels import Level


MIN_MEASURED = 0.5
"""Share of the healthy instances whose speed must be known to judge the fleet's."""


class Name(StrEnum):
    """The indicators that the alerts have thresholds for."""

    HEALTHY_INSTANCES = "healthy_instances"
    REQUEST_LATENCY_P99 = "request_latency_p99_seconds"
    TOKENS_PER_SECOND = "tokens_per_second"


class Bound(StrEnum):
    """On which side of its threshold an indicator is good."""

    FLOOR = "floor"
    CEILING = "ceiling"


BOUNDS = {
    Name.HEALTHY_INSTANCES: Bound.FLOOR,
    Name.REQUEST_LATENCY_P99: Bound.CEILING,
    Name.TOKENS_PER_SECOND: Bound.FLOOR,
}


RECORDED = {
    Name.HEALTHY_INSTANCES: catalogue.HEALTHY_THRESHOLD.name,
    Name.REQUEST_LATENCY_P99: catalogue.LATENCY_THRESHOLD.name,
    Name.TOKENS_PER_SECOND: catalogue.SPEED_THRESHOLD.name,
}
"""The series of the thresholds that the alerts use."""


class ThresholdSource(StrEnum):
    """Where all the thresholds are from."""

    SETTINGS = "settings"
    PROMETHEUS = "prometheus"


class Indicator(msgspec.Struct, frozen=True):
    """One indicator beside its threshold; None for what is not known."""

    name: Name
    value: float | None
    threshold: float | None
    bound: Bound
    is_met: bool | None


@dataclass(frozen=True, slots=True)
class Limits:
    """The thresholds of the settings."""

    healthy_instances: Level
    request_latency_p99_s: float
    tokens_per_second: Level


def values(totals: Totals, request_latency_p99_s: float | None) -> dict[Name, float | None]:
    """Return the current values."""
    return {
        Name.HEALTHY_INSTANCES: totals.instances[Status.HEALTHY],
        Name.REQUEST_LATENCY_P99: request_latency_p99_s,
        Name.TOKENS_PER_SECOND: throughput(totals),
    }


def throughput(totals: Totals) -> float | None:
    """Return the tokens/s of all healthy instances; None where too few are measured.

    Those that are not measured have been idle for long. They have not become slow, so they count
    like the mean of the others.
    """
    n_healthy = totals.instances[Status.HEALTHY]
    if not totals.n_measured or totals.n_measured < MIN_MEASURED * n_healthy:
        return None
    return totals.tokens_per_second / totals.n_measured * n_healthy


def n_expected(totals: Totals) -> int:
    """Return how many instances should serve: what is on its way in or out is not missing."""
    counts = totals.instances
    return counts.total() - counts[Status.DRAINING] - counts[Status.PROVISIONING]


def thresholds(limits: Limits, n_instances: int) -> dict[Name, float]:
    """Return the thresholds of the settings, for n instances that should serve."""
    healthy = limits.healthy_instances.of(n_instances)
    if limits.healthy_instances.is_per_instance:
        # Rounded down, as the alerts do: of 50 instances the loss of a single one is no matter.
        healthy = math.floor(healthy)
    return {
        Name.HEALTHY_INSTANCES: healthy,
        Name.REQUEST_LATENCY_P99: limits.request_latency_p99_s,
        Name.TOKENS_PER_SECOND: limits.tokens_per_second.of(n_instances),
    }


def indicators(
    values: Mapping[Name, float | None], thresholds: Mapping[Name, float], *, is_judged: bool
) -> tuple[Indicator, ...]:
    """Return the values with their thresholds; judge them after the first poll cycle only."""
    return tuple(
        Indicator(
            name,
            values[name],
            thresholds[name],
            bound,
            is_met(values[name], thresholds[name], bound) if is_judged else None,
        )
        for name, bound in BOUNDS.items()
    )


def is_met(value: float | None, threshold: float, bound: Bound) -> bool | None:
    """Return whether a value meets its threshold."""
    if value is None:
        return None
    return value >= threshold if bound is Bound.FLOOR else value <= threshold


class Alerts(msgspec.Struct, frozen=True):
    """What fires, and why that is not known for certain."""

    error: str
    firing: tuple[Firing, ...]
    """The most severe."""
    n_firing: int
    """Including those that `firing` leaves out."""
    n_critical: int


class Summary(msgspec.Struct, frozen=True):
    """The fleet in short; None for what is not known."""

    taken_at_seconds: float
    last_cycle_age_seconds: float | None
    """Since the last poll cycle ended."""
    inventory_age_seconds: float | None
    """Of the source that was read longest ago; None while one was never read."""
    shard: dict[str, int]
    instances: dict[Status, int]
    indicators: tuple[Indicator, ...]
    thresholds_from: ThresholdSource
    alerts: Alerts | None
    """None where no Prometheus is configured."""
    version: str


@dataclass(frozen=True, slots=True)
class UiConfig:
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
        ui_config: UiConfig,
        poller: Poller,
        metrics: SelfMetrics,
        sources: Callable[[], Sequence[SourceState]],
        prometheus: Prometheus | None,
        clock: Clock,
    ) -> None:
        self._ui_config = ui_config
        self._poller = poller
        self._metrics = metrics
        self._sources = sources
        self._prometheus = prometheus
        self._clock = clock

    def summary(self, fleet_view: FleetView) -> Summary:
        """Return the summary of a sight; ages are as of now."""
        ui_config = self._ui_config
        answer = None if self._prometheus is None else self._prometheus.latest()
        judged, source = self._judged(fleet_view, answer)
        return Summary(
            taken_at_seconds=fleet_view.taken_at_s,
            last_cycle_age_seconds=self._age_s(self._completed_at_s()),
            inventory_age_seconds=self._inventory_age_s(),
            shard={"index": ui_config.shard.index, "count": ui_config.shard.count},
            instances={status: fleet_view.totals.instances[status] for status in Status},
            indicators=judged,
            thresholds_from=source,
            alerts=None if answer is None else _alerts(answer),
            version=ui_config.version,
        )

    def _judged(
        self, fleet_view: FleetView, answer: Answer | None
    ) -> tuple[tuple[Indicator, ...], ThresholdSource]:
        own = thresholds(self._ui_config.limits, n_expected(fleet_view.totals))
        recorded = {} if answer is None else self._usable(answer)
        is_all_recorded = len(recorded) == len(own)
        judged = indicators(
            values(fleet_view.totals, fleet_view.request_latency_p99_s),
            {**own, **recorded},
            is_judged=self._poller.has_seen_all.is_set(),
        )
        return judged, ThresholdSource.PROMETHEUS if is_all_recorded else ThresholdSource.SETTINGS

    def _usable(self, answer: Answer) -> dict[Name, float]:
        """Return the recorded thresholds that apply to what this exporter sees.

        Floors are for the whole fleet, a shard sees only a part.
        """
        names = Name if self._ui_config.shard.count == 1 else (Name.REQUEST_LATENCY_P99,)
        found = {name: answer.thresholds.get(RECORDED[name]) for name in names}
        return {name: number for name, number in found.items() if number is not None}

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
