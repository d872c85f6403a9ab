"""Compare what is with the thresholds that the alerts use, in PromQL.

The rules record the thresholds in force, each with a value per cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from dashboards.queries.selectors import Selectors
from exporter import catalogue

HEALTHY = catalogue.HEALTHY_THRESHOLD
LATENCY = catalogue.LATENCY_THRESHOLD
SPEED = catalogue.SPEED_THRESHOLD
NODE_RATIO = catalogue.NODE_SPEED_THRESHOLD
QUEUED = catalogue.QUEUED_THRESHOLD
REQUEST_SUCCESS = catalogue.REQUEST_SUCCESS_THRESHOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdStat:
    """A value of all chosen clusters as three expressions; good alone, or one or both others.

    A cluster that has no figure at all has no value here either.
    """

    good: str
    """In every cluster."""
    bad: str
    """In some cluster."""
    unknown: str
    """In some cluster there is nothing to compare it with."""


def threshold_stat(
    select: Selectors, total: str, each: str, limit: str, *, is_floor: bool
) -> ThresholdStat:
    """Return a value as good, bad or unknown.

    Args:
        select: Knows the label of clusters.
        total: Of all clusters: what is shown.
        each: Per cluster: what is compared.
        limit: Per cluster: what each is compared with.
        is_floor: Whether below is bad, rather than above.
    """
    keeps, breaks = (">=", "<") if is_floor else ("<=", ">")
    kept = f"count({each}) == count({each} {keeps} {select.on()} {limit})"
    return ThresholdStat(
        good=f"{total}\nand on () ({kept})",
        bad=f"{total}\nand on () ({each} {breaks} {select.on()} {limit})",
        unknown=f"{total}\nand on () ({each} unless {select.on()} {limit})",
    )


def line(limit: str, of: str) -> str:
    """Return a limit while there is something to compare with it.

    A chart of its limit alone would not say why there is nothing else.
    """
    return f"{limit}\nand on () {of}"
