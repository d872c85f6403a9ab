"""Read the daily speed of each instance from the hours of the warehouse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from exporter.warehouse.errors import WarehouseError
from exporter.warehouse.schema import INSTANCE_HOURS
from exporter.warehouse.storage import Warehouse

Numbers = NDArray[np.float64]
SPEED = "tokens_per_second_median"


class Unit(NamedTuple):
    """An instance at one place: what ages is the hardware under it."""

    cluster: str
    instance_id: str
    node: str
    hardware: str


class Identity(NamedTuple):
    """What an instance runs; another one has another speed."""

    model: str
    engine: str
    version: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """The daily speeds of one unit with one identity."""

    unit: Unit
    identity: Identity
    days: Numbers
    """Since the begin of the period, ascending."""
    logs: Numbers
    """Natural logarithms of tokens/s."""


COLUMNS = (*Unit._fields, *Identity._fields)


def days_since(store: Warehouse, since_s: float) -> list[date]:
    """Return the days of the period that ends with the last day of the warehouse.

    Raises:
        WarehouseError: The warehouse has no day.
    """
    days = store.days()
    if not days:
        raise WarehouseError(
            f"{store.url} has no instance_hours; `ollama-fleet warehouse export` writes them"
        )
    return [day for day in days if day > days[-1] - timedelta(seconds=since_s)]


def stretches(store: Warehouse, days: Iterable[date]) -> list[Stretch]:
    """Return the daily speeds, each the geometric mean of the hours' medians."""
    points = defaultdict[tuple[str, ...], list[tuple[float, float]]](list)
    listed = list(days)
    for day, table in store.read(INSTANCE_HOURS, [*COLUMNS, SPEED], listed):
        at = float((day - listed[0]).days)
        for key, log in _of_day(table):
            points[key].append((at, log))
    n = len(Unit._fields)
    return [
        Stretch(Unit(*key[:n]), Identity(*key[n:]), *np.array(found, dtype=np.float64).T)
        for key, found in sorted(points.items())
    ]


def _of_day(table: Any) -> Iterable[tuple[tuple[str, ...], float]]:
    known = table.filter(pc.greater(table[SPEED], 0.0))
    logs = known.append_column("log", pc.ln(known[SPEED]))
    rolled = logs.group_by(list(COLUMNS)).aggregate([("log", "mean")])
    keys = zip(*(rolled[name].to_pylist() for name in COLUMNS), strict=True)
    return zip(keys, rolled["log_mean"].to_pylist(), strict=True)
