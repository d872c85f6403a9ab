"""Compare what is with the thresholds that the alerts use, in PromQL.

The rules record the thresholds in force (`ollama_fleet_threshold`). One that is relative to the
fleet has a value per cluster; one that is a plain number has one without a cluster, which then is
the limit of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from dashboards.queries.selectors import Selectors
from exporter.catalogue import FLEET_THRESHOLD

HEALTHY = "healthy_instances"
LATENCY = "request_latency_p99_seconds"
SPEED = "tokens_per_second"
NODE_RATIO = "node_speed_ratio"
QUEUED = "queued_per_instance"
REQUEST_SUCCESS = "request_success_ratio"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdStat:
    """A value of all chosen clusters as three expressions; one of them has a result.

    A cluster that has no figure at all has no value here either.
    """

    good: str
    """In every cluster."""
    bad: str
    """In some cluster."""
    unknown: str
    """Not bad anywhere, but in some cluster there is nothing to compare it with."""


def per_cluster(select: Selectors, name: str, expression: str) -> str:
    """Return the threshold for each cluster that an expression has a value of."""
    none = f"0 * {expression}"
    own = select.series(FLEET_THRESHOLD, _name(name))
    shared = select.without_cluster(FLEET_THRESHOLD, _name(name))
    aggregate = f"max {select.by()}"
    return (
        f"({none} + {select.on()} {aggregate} ({own})\n"
        f"or {none} + on () group_left () max ({shared}))"
    )


def line(select: Selectors, name: str) -> str:
    """Return a threshold that is the same for all clusters; absent without rules.

    As a scalar it would be NaN then, and nothing is less than that.
    """
    return f"max({select.with_or_without_cluster(FLEET_THRESHOLD, _name(name))})"


def threshold_stat(
    select: Selectors, total: str, each: str, limit: str, *, is_floor: bool
) -> ThresholdStat:
    """Return a value as good, bad or unknown.

    Args:
        select: Knows the label of clusters.
        total: Of all clusters: what is shown.
        each: Per cluster: what is compared.
        limit: What each is compared with, from `per_cluster`.
        is_floor: Whether below is bad, rather than above.
    """
    breach = "<" if is_floor else ">"
    broken = f"({each} {breach} {limit})"
    unlimited = f"({each} unless {select.on()} {limit})"
    return ThresholdStat(
        good=f"{total}\nunless on () {broken}\nunless on () {unlimited}",
        bad=f"{total} and on () {broken}",
        unknown=f"{total} and on () {unlimited}\nunless on () {broken}",
    )


def _name(name: str) -> str:
    return f'name="{name}"'
