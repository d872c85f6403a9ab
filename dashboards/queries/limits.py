"""Compare what is with the thresholds that the alerts use, in PromQL.

The rules record the thresholds in force, each with a value per cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from dashboards.queries.selectors import Selectors
from exporter import catalogue
from exporter.catalogue import Series

HEALTHY = catalogue.HEALTHY_THRESHOLD
LATENCY = catalogue.LATENCY_THRESHOLD
SPEED = catalogue.SPEED_THRESHOLD
NODE_RATIO = catalogue.NODE_SPEED_THRESHOLD
QUEUED = catalogue.QUEUED_THRESHOLD
REQUEST_SUCCESS = catalogue.REQUEST_SUCCESS_THRESHOLD


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


def per_cluster(select: Selectors, threshold: Series) -> str:
    """Return the threshold of each cluster."""
    return f"max {select.by()} ({select.series(threshold)})"


def line(select: Selectors, threshold: Series) -> str:
    """Return a threshold that is the same for all clusters; absent without rules.

    As a scalar it would be NaN then, and nothing is less than that.
    """
    return f"max({select.series(threshold)})"


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
