"""Say which instances of a period are outliers: slow, failing, or on a node that ages faster."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from statistics import fmean, median
from typing import Any

from exporter.warehouse.errors import WarehouseError
from exporter.warehouse.explain import Subject
from exporter.warehouse.schema import INSTANCE_HOURS
from exporter.warehouse.storage import Warehouse
from exporter.warehouse.trend import NodeTrend

SLOW_BELOW = 0.85
"""Share of the median of its peers."""
FAILING_BELOW = 0.99
"""Uptime."""
MIN_PEERS = 5
QUANTISATION = re.compile(
    r"(?:^|[-:_.])((?:iq|q)\d(?:_[0-9a-z]+)*|fp16|f16|bf16|fp8|int[48])\b", re.IGNORECASE
)
OWN = ("model", "engine", "version", "hardware")
COLUMNS = ("cluster", "instance_id", "node", *OWN, "labels", "uptime_ratio")
SPEED = "tokens_per_second_median"


@dataclass(slots=True)
class Seen:
    """One instance, over the hours of the period."""

    row: dict[str, Any]
    """Of its last hour."""
    speeds: list[float] = field(default_factory=list)
    uptimes: list[float] = field(default_factory=list)


IsOutlier = Callable[[Seen], bool]


def seen(store: Warehouse, days: Iterable[date]) -> list[Seen]:
    """Return the instances of the period.

    Raises:
        WarehouseError: There is none.
    """
    found: dict[tuple[str, str, str], Seen] = {}
    for _, table in store.read(INSTANCE_HOURS, [*COLUMNS, SPEED], list(days)):
        for batch in table.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                _add(found, row)
    if not found:
        raise WarehouseError(f"{store.url} has no instance in the period")
    return [found[key] for key in sorted(found)]


def _add(found: dict[tuple[str, str, str], Seen], row: dict[str, Any]) -> None:
    key = (row["cluster"], row["instance_id"], row["node"])
    one = found.setdefault(key, Seen(row))
    if any(one.row[name] != row[name] for name in OWN):
        one.speeds.clear()  # another model has another speed
    one.row = row
    if row[SPEED]:
        one.speeds.append(row[SPEED])
    one.uptimes.append(row["uptime_ratio"])


def slow(instances: Sequence[Seen], below: float) -> IsOutlier:
    """Return whether one is slower than its peers: same cluster, model, engine and hardware.

    What peers have in common is the same for all of them, and explains nothing here.
    """
    speeds = defaultdict[tuple[str, ...], list[float]](list)
    for one in instances:
        if one.speeds:
            speeds[_kind(one)].append(median(one.speeds))
    limits = {kind: below * median(some) for kind, some in speeds.items() if len(some) >= MIN_PEERS}
    return lambda one: bool(one.speeds) and median(one.speeds) < limits.get(_kind(one), 0.0)


def _kind(one: Seen) -> tuple[str, ...]:
    return tuple(one.row[name] for name in ("cluster", "model", "engine", "hardware"))


def failing(below: float) -> IsOutlier:
    """Return whether one was healthy for too small a share of the period."""
    return lambda one: fmean(one.uptimes) < below


def subjects(instances: Iterable[Seen], is_outlier: IsOutlier) -> list[Subject]:
    """Return what is compared: each instance with all that it is labelled with."""
    return [
        Subject(
            one.row["cluster"],
            one.row["instance_id"],
            one.row["node"],
            _labels(one.row),
            is_outlier(one),
        )
        for one in instances
    ]


def _labels(row: dict[str, Any]) -> dict[str, str]:
    labels = {**dict(row["labels"] or ()), **{name: row[name] for name in OWN if row[name]}}
    if match := QUANTISATION.search(row["model"]):
        labels.setdefault("quantisation", match[1].lower())
    return labels


def ageing(nodes: Iterable[NodeTrend]) -> IsOutlier:
    """Return whether one is on a node that ages faster than its peers."""
    places = {(one.cluster, one.node) for one in nodes}
    return lambda one: (one.row["cluster"], one.row["node"]) in places
