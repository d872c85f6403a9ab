"""Summarise the fleet for the web UI: headline values, their thresholds, ages and alerts."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from exporter import catalogue
from exporter.model import Condition, Status
from exporter.snapshot import QUANTILE, quantile
from exporter.status import NOT_EXPECTED
from exporter.ui.cells import SlowNode
from exporter.ui.prometheus import Alert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from exporter.catalogue import Series
    from exporter.inventory import Shard, SourceState
    from exporter.poller import Poller
    from exporter.selfmetrics import SelfMetrics
    from exporter.snapshot import ModelUse
    from exporter.ui.cells import Totals
    from exporter.ui.prometheus import Answer, Prometheus
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


class Source(StrEnum):
    """Of what a latency is; the best known one comes first, as in the rules of the alerts."""

    REQUESTS = "requests"
    CANARIES = "canaries"
    INSTANCES = "instances"
    """Their own p99s."""


class Missing(StrEnum):
    """Why an indicator has no value."""

    NOT_POLLED = "not_polled"
    """The first poll cycle has not ended."""
    NOT_HEALTHY = "not_healthy"
    """No instance is."""
    NEEDS_CANARY = "needs_canary"
    """The servers do not report it, and no canary is sent that would measure it."""
    NOT_ANSWERED = "not_answered"
    """No canary was answered lately."""


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
    source: Source | None = None
    """Of a latency."""
    missing: Missing | None = None
    n_measured: int | None = None
    """Of how many instances it is extrapolated from; None where it is not."""


class Times(msgspec.Struct, frozen=True):
    """What of a request's time, as p99 of the last minutes; None where there was none."""

    name: str
    requests_p99_seconds: float | None
    canaries_p99_seconds: float | None


TIMES = {
    "request": (catalogue.FLEET_REQUEST_DURATION, catalogue.FLEET_CANARY_DURATION),
    "time_to_first_token": (
        catalogue.FLEET_TIME_TO_FIRST_TOKEN,
        catalogue.FLEET_CANARY_TIME_TO_FIRST_TOKEN,
    ),
    "waiting": (catalogue.FLEET_QUEUE_TIME, catalogue.FLEET_CANARY_WAITING),
}
"""The series of requests and of canaries."""


class LoadedModel(msgspec.Struct, frozen=True):
    """What the instances have of one model in memory; None where they do not say."""

    model: str
    instances: int
    bytes: float | None
    vram_bytes: float | None


MAX_SLOW_NODES = 100
MAX_MODELS = 5
"""Models in the header: those with the most instances."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The thresholds of the settings."""

    healthy_instances: Level
    request_latency_p99_s: float
    tokens_per_second: Level


def latency_p99(
    totals: Totals, p99s_s: Mapping[Series, float]
) -> tuple[float | None, Source | None]:
    """Return the best known p99 of request latency, in seconds, and of what it is."""
    own_s = quantile(totals.latencies_p99_s, QUANTILE)
    known = {
        Source.REQUESTS: p99s_s.get(catalogue.FLEET_REQUEST_DURATION),
        Source.CANARIES: p99s_s.get(catalogue.FLEET_CANARY_DURATION),
        Source.INSTANCES: own_s,
    }
    found = [(p99_s, source) for source, p99_s in known.items() if p99_s is not None]
    return found[0] if found else (None, None)


def values(totals: Totals, latency_p99_s: float | None) -> dict[Name, float | None]:
    """Return the current values."""
    return {
        Name.HEALTHY_INSTANCES: totals.instances[Status.HEALTHY],
        Name.REQUEST_LATENCY_P99: latency_p99_s,
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


def extrapolated_from(totals: Totals) -> int | None:
    """Return of how many instances the throughput is known, where that is not all of them."""
    is_partial = totals.n_measured < totals.instances[Status.HEALTHY]
    return totals.n_measured if is_partial and throughput(totals) is not None else None


def n_expected(totals: Totals) -> int:
    """Return how many instances should serve: what is on its way in or out is not missing."""
    counts = totals.instances
    return counts.total() - sum([counts[status] for status in NOT_EXPECTED])


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
    values: Mapping[Name, float | None],
    thresholds: Mapping[Name, float],
    missing: Missing,
    source: Source | None,
    n_measured: int | None,
) -> tuple[Indicator, ...]:
    """Return the values with their thresholds; judge them after the first poll cycle only.

    `missing` is why some have no value, where some have none; `n_measured`, of how many instances
    the throughput is extrapolated from.
    """
    is_judged = missing is not Missing.NOT_POLLED
    return tuple(
        Indicator(
            name,
            values[name],
            thresholds[name],
            bound,
            is_met(values[name], thresholds[name], bound) if is_judged else None,
            source if name is Name.REQUEST_LATENCY_P99 else None,
            missing if values[name] is None else None,
            n_measured if name is Name.TOKENS_PER_SECOND else None,
        )
        for name, bound in BOUNDS.items()
    )


def is_met(value: float | None, threshold: float, bound: Bound) -> bool | None:
    """Return whether a value meets its threshold."""
    if value is None:
        return None
    return value >= threshold if bound is Bound.FLOOR else value <= threshold


class Alerts(msgspec.Struct, frozen=True):
    """What fires or is about to, and why that is not known for certain."""

    error: str
    prometheus_url: str
    firing: tuple[Alert, ...]
    """The most severe."""
    pending: tuple[Alert, ...]
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
    conditions: dict[Condition, int]
    engines: dict[str, int]
    """Instances by engine, the commonest first."""
    loaded_models: tuple[LoadedModel, ...]
    """Those with the most instances."""
    n_loaded_models: int
    """Including those that `loaded_models` leaves out."""
    loaded_bytes: float | None
    """Of all models, as the next one; None where no instance says."""
    loaded_vram_bytes: float | None
    times: tuple[Times, ...]
    canary_period_seconds: float
    """0: no canaries are sent."""
    slow_nodes: tuple[SlowNode, ...]
    """The slowest."""
    indicators: tuple[Indicator, ...]
    thresholds_from: ThresholdSource
    alerts: Alerts | None
    """None where no Prometheus is configured."""
    version: str


@dataclass(slots=True)
class UiConfig:
    """What the settings say; a reload changes it in place."""

    limits: Limits
    shard: Shard
    version: str
    poll_interval_s: float
    refresh_s: float
    """How often a browser should ask for changes."""
    inventory_refresh_s: float
    canary_period_s: float = 0.0
    """0: no canaries are sent."""


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
        self.prometheus = prometheus
        self._clock = clock

    def summary(self, fleet_view: FleetView) -> Summary:
        """Return the summary of a sight; ages are as of now."""
        ui_config = self._ui_config
        answer = None if self.prometheus is None else self.prometheus.latest()
        totals, p99s_s = fleet_view.totals, fleet_view.p99s_s
        judged, source = self._judged(fleet_view, answer)
        return Summary(
            taken_at_seconds=fleet_view.taken_at_s,
            last_cycle_age_seconds=self._age_s(self._completed_at_s()),
            inventory_age_seconds=self._inventory_age_s(),
            shard={"index": ui_config.shard.index, "count": ui_config.shard.count},
            instances={status: totals.instances[status] for status in Status},
            conditions={condition: totals.conditions[condition] for condition in Condition},
            engines=dict(totals.engines.most_common()),
            loaded_models=_commonest(totals.models),
            n_loaded_models=len(totals.models),
            loaded_bytes=_sum(use.bytes for use in totals.models.values()),
            loaded_vram_bytes=_sum(use.vram_bytes for use in totals.models.values()),
            times=tuple(
                Times(name, p99s_s.get(requests), p99s_s.get(canaries))
                for name, (requests, canaries) in TIMES.items()
            ),
            canary_period_seconds=ui_config.canary_period_s,
            slow_nodes=tuple(totals.slow_nodes[:MAX_SLOW_NODES]),
            indicators=judged,
            thresholds_from=source,
            alerts=self._alerts(answer),
            version=ui_config.version,
        )

    def _alerts(self, answer: Answer | None) -> Alerts | None:
        if answer is None or self.prometheus is None:
            return None
        url = self.prometheus.url
        counts = (answer.n_firing, answer.n_critical)
        return Alerts(answer.error, url, answer.firing, answer.pending, *counts)

    def _judged(
        self, fleet_view: FleetView, answer: Answer | None
    ) -> tuple[tuple[Indicator, ...], ThresholdSource]:
        own = thresholds(self._ui_config.limits, n_expected(fleet_view.totals))
        recorded = {} if answer is None else self._usable(answer)
        is_all_recorded = len(recorded) == len(own)
        p99_s, source = latency_p99(fleet_view.totals, fleet_view.p99s_s)
        judged = indicators(
            values(fleet_view.totals, p99_s),
            {**own, **recorded},
            self._why_missing(fleet_view.totals),
            source,
            extrapolated_from(fleet_view.totals),
        )
        return judged, ThresholdSource.PROMETHEUS if is_all_recorded else ThresholdSource.SETTINGS

    def _why_missing(self, totals: Totals) -> Missing:
        if not self._poller.has_seen_all.is_set():
            return Missing.NOT_POLLED
        if not totals.instances[Status.HEALTHY]:
            return Missing.NOT_HEALTHY
        is_sent = self._ui_config.canary_period_s > 0
        return Missing.NOT_ANSWERED if is_sent else Missing.NEEDS_CANARY

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


def _commonest(models: Mapping[str, ModelUse]) -> tuple[LoadedModel, ...]:
    shown = heapq.nlargest(MAX_MODELS, models.items(), key=lambda item: item[1].n_instances)
    return tuple(
        LoadedModel(model, use.n_instances, use.bytes, use.vram_bytes) for model, use in shown
    )


def _sum(numbers: Iterable[float | None]) -> float | None:
    """Return the sum of those that are known; None where none is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
