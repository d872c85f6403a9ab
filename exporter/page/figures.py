"""Judge the three figures that tell whether a fleet does what it must.

In:   what the instances amount to, the levels of the settings, and what a Prometheus told.
Out:  Figures, which colour the page and nothing else: alerts have thresholds of their own. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from exporter.model import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.page.cells import Totals
    from exporter.page.levels import Level

MIN_MEASURED = 0.5
"""Share of the healthy instances whose speed must be known to judge the fleet's."""


class Name(StrEnum):
    """The figures, as the alerts' thresholds name them in `ollama_fleet_threshold`."""

    HEALTHY_INSTANCES = "healthy_instances"
    REQUEST_LATENCY_P99 = "request_latency_p99_seconds"
    TOKENS_PER_SECOND = "tokens_per_second"


class Bound(StrEnum):
    """On which side of its threshold a figure is good."""

    FLOOR = "floor"
    CEILING = "ceiling"


BOUNDS = {
    Name.HEALTHY_INSTANCES: Bound.FLOOR,
    Name.REQUEST_LATENCY_P99: Bound.CEILING,
    Name.TOKENS_PER_SECOND: Bound.FLOOR,
}


class ThresholdSource(StrEnum):
    """Where all the thresholds are from."""

    SETTINGS = "settings"
    PROMETHEUS = "prometheus"


class Figure(msgspec.Struct, frozen=True):
    """One figure beside its threshold; None for what is not known."""

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
    """Return the figures as they are."""
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
    """Return the thresholds of the settings, for so many instances that should serve."""
    healthy = limits.healthy_instances.of(n_instances)
    if limits.healthy_instances.is_per_instance:
        # Rounded down, as the alerts do: of 50 instances the loss of a single one is no matter.
        healthy = math.floor(healthy)
    return {
        Name.HEALTHY_INSTANCES: healthy,
        Name.REQUEST_LATENCY_P99: limits.request_latency_p99_s,
        Name.TOKENS_PER_SECOND: limits.tokens_per_second.of(n_instances),
    }


def figures(
    values: Mapping[Name, float | None], thresholds: Mapping[Name, float], *, is_judged: bool
) -> tuple[Figure, ...]:
    """Put the figures beside their thresholds; of a fleet that is half seen nothing is judged."""
    return tuple(
        Figure(
            name,
            values[name],
            thresholds[name],
            bound,
            is_met(values[name], thresholds[name], bound) if is_judged else None,
        )
        for name, bound in BOUNDS.items()
    )


def is_met(value: float | None, threshold: float, bound: Bound) -> bool | None:
    """Return whether a figure is as it must be; at its threshold it is."""
    if value is None:
        return None
    return value >= threshold if bound is Bound.FLOOR else value <= threshold
