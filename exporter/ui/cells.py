"""What each cell of the map shows, and what the cells add up to."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from exporter.counters import MAX_MODELS, bounded, speed_now
from exporter.instances import engine_of, last_generation, start_time_s
from exporter.model import Condition, Status
from exporter.snapshot import ModelUse
from exporter.ui.layout import STEP_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence

    from exporter.snapshot import Row
    from exporter.ui.layout import Layout

    Column = array[int]
    Reader = Callable[[Row], int]


STATUS_CODES = {status: code for code, status in enumerate(Status)}
STATUS = "status"
CONDITIONS = "conditions"
# Eight are as many as a byte of a column holds.
CONDITION_BITS = {condition: 1 << bit for bit, condition in enumerate(Condition)}
UNKNOWN = -1
"""Stands for a value that is not known: none of ours is negative."""
LARGEST = 2**31 - 1
"""As much as a column holds."""
MIN_PEERS = 3
"""Instances with the same model and engine that a comparison needs, itself included."""
SECONDS_PER_HOUR = 3600.0
SORTED_AT_ONCE = 2000
"""Numbers: about a third of a millisecond."""
SLOW_PERCENT = 80
"""Of the peers' speed: slower ones are marked, as colours.js has it."""
MIN_SLOW = 2
"""Instances of a node whose speed must be known to call the node slow."""


class Value(StrEnum):
    """What can colour the cells, beside their status."""

    SPEED = "speed"
    P99 = "p99"
    CANARY = "canary"
    """How long the last canary took."""
    ERRORS = "errors"
    AGE = "age"


class SlowNode(msgspec.Struct, frozen=True):
    """A node whose measured instances are mostly slow."""

    node: str
    percent: int
    """Mean speed, of the peers' median."""


@dataclass(slots=True)
class Totals:
    """The totals over the instances. Speeds are in tokens/s, of healthy instances only."""

    instances: Counter[Status] = field(default_factory=Counter)
    conditions: Counter[Condition] = field(default_factory=Counter)
    engines: Counter[str] = field(default_factory=Counter)
    models: dict[str, ModelUse] = field(default_factory=dict)
    """What of each model is in memory."""
    tokens_per_second: float = 0.0
    n_measured: int = 0
    latencies_p99_s: list[float] = field(default_factory=list)
    """What healthy instances say of themselves."""
    slow_nodes: list[SlowNode] = field(default_factory=list)
    """The slowest first."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The fleet at one moment."""

    by_name: Mapping[str, Column]
    """`status`, `conditions` and the wanted values."""
    totals: Totals
    speeds: array[float]
    """In tokens/s, by cell; NaN where one is not known."""


def columns(
    rows: Sequence[Row],
    layout: Layout,
    wanted: Collection[Value],
    *,
    now_s: float,
    errors: Callable[[Row], int | None],
) -> Generator[None, None, Columns]:
    """Return the columns of some rows, and their totals; about 2 µs for each row.

    `errors` returns how many requests of an instance failed recently; None if it reports none.
    """
    status, conditions = array("B", bytes(len(rows))), array("B", bytes(len(rows)))
    speeds = array("d", [math.nan]) * len(rows)
    readers = {value: read for value, read in _readers(now_s, errors).items() if value in wanted}
    by_name: dict[str, Column] = {value: array("i", [UNKNOWN]) * len(rows) for value in readers}
    by_name |= {STATUS: status, CONDITIONS: conditions}
    totals = Totals()
    for first in range(0, len(rows), STEP_ROWS):
        some = rows[first : first + STEP_ROWS]
        cells = layout.cell[first : first + STEP_ROWS]
        for cell, row in zip(cells, some, strict=True):
            status[cell] = STATUS_CODES[row.status]
            if row.conditions:
                conditions[cell] = sum([CONDITION_BITS[condition] for condition in row.conditions])
        _add(totals, speeds, cells, some, now_s)
        yield
        for value, read in readers.items():
            column = by_name[value]
            for cell, row in zip(cells, some, strict=True):
                column[cell] = read(row)
            yield
    relative = yield from _relative(speeds, layout)
    totals.slow_nodes = yield from _slow_nodes(relative, layout)
    if Value.SPEED in wanted:
        by_name[Value.SPEED] = relative
    return Columns(by_name, totals, speeds)


def _add(
    totals: Totals, speeds: array[float], cells: Iterable[int], rows: Sequence[Row], now_s: float
) -> None:
    totals.instances.update([row.status for row in rows])
    totals.conditions.update([condition for row in rows for condition in row.conditions])
    totals.engines.update([engine_of(row) for row in rows])
    _add_models(totals.models, rows)
    for cell, row in zip(cells, rows, strict=True):
        if row.status is not Status.HEALTHY or row.reading is None:
            continue
        latency_s = row.reading.verdict.values.latency_p99_s
        if latency_s is not None:
            totals.latencies_p99_s.append(latency_s)
        speed = speed_now(row.counters, row.canary, now_s=now_s)
        if speed is not None:
            totals.tokens_per_second += speed
            totals.n_measured += 1
            speeds[cell] = speed


def _add_models(models: dict[str, ModelUse], rows: Sequence[Row]) -> None:
    for row in rows:
        for model in (row.reading and row.reading.verdict.values.loaded) or ():
            name = bounded(model.name, models, MAX_MODELS)
            use = models.get(name) or models.setdefault(name, ModelUse())
            use.add(model)


def _relative(speeds: array[float], layout: Layout) -> Generator[None, None, Column]:
    """Return each cell's speed in per cent of the median of its peers."""
    by_group: list[array[float]] = [array("d") for _ in range(layout.n_groups)]
    for first in range(0, len(speeds), STEP_ROWS):
        last = first + STEP_ROWS
        for group, speed in zip(layout.peers[first:last], speeds[first:last], strict=True):
            if not math.isnan(speed):  # which stands for unknown
                by_group[group].append(speed)
        yield
    usual = yield from _medians(by_group)
    column = array("i")
    for first in range(0, len(speeds), STEP_ROWS):
        last = first + STEP_ROWS
        # A speed or a median that is not known, NaN, makes a quotient that is none either.
        column.extend(
            [
                _whole(100 * speed / usual[group])
                for group, speed in zip(layout.peers[first:last], speeds[first:last], strict=True)
            ]
        )
        yield
    return column


def _slow_nodes(relative: Column, layout: Layout) -> Generator[None, None, list[SlowNode]]:
    n_nodes = len(layout.nodes)
    known, slow, total = ([0] * n_nodes for _ in range(3))
    for first in range(0, len(relative), STEP_ROWS):
        last = first + STEP_ROWS
        for node, percent in zip(layout.node[first:last], relative[first:last], strict=True):
            if percent != UNKNOWN:
                known[node] += 1
                slow[node] += percent < SLOW_PERCENT
                total[node] += percent
        yield
    found = [
        SlowNode(layout.nodes[node], round(total[node] / known[node]))
        for node in range(n_nodes)
        if known[node] >= MIN_SLOW and 2 * slow[node] > known[node]
    ]
    return sorted(found, key=lambda each: each.percent)


def _medians(by_group: Sequence[array[float]]) -> Generator[None, None, list[float]]:
    medians = []
    for speeds in by_group:
        usual = math.nan
        if len(speeds) >= MIN_PEERS:
            usual = yield from median(speeds)
        medians.append(usual or math.nan)
        yield
    return medians


def median(numbers: Sequence[float]) -> Generator[None, None, float]:
    """Return the median of at least one number, in steps: there may be as many as instances."""
    runs = []
    for first in range(0, len(numbers), SORTED_AT_ONCE):
        runs.append(sorted(numbers[first : first + SORTED_AT_ONCE]))
        yield
    middle = len(numbers) // 2
    upper = yield from _nth(runs, middle)
    if len(numbers) % 2:
        return upper
    lower = yield from _nth(runs, middle - 1)
    return (lower + upper) / 2


def _nth(runs: Sequence[list[float]], n: int) -> Generator[None, None, float]:
    """Return the n-th smallest number, from 0, of sorted runs.

    It is looked for in all of them at once: a window in each holds it, and shrinks around it.
    """
    low, high = [0] * len(runs), [len(run) for run in runs]
    while True:
        widest = max(range(len(runs)), key=lambda at: high[at] - low[at])
        pivot = runs[widest][(low[widest] + high[widest]) // 2]
        windows = list(zip(runs, low, high, strict=True))
        below = [bisect_left(run, pivot, *window) for run, *window in windows]
        upto = [bisect_right(run, pivot, *window) for run, *window in windows]
        if sum(below) <= n < sum(upto):
            return pivot
        low, high = (low, below) if n < sum(below) else (upto, high)
        yield


def _readers(now_s: float, errors: Callable[[Row], int | None]) -> dict[Value, Reader]:
    """Return how the values that need no comparison are read from a row."""

    def p99_ms(row: Row) -> int:
        latency_s = None if row.reading is None else row.reading.verdict.values.latency_p99_s
        return UNKNOWN if latency_s is None else _whole(1000 * latency_s)

    def canary_ms(row: Row) -> int:
        generation = last_generation(row.canary, now_s=now_s)
        return UNKNOWN if generation is None else _whole(1000 * generation.duration_s)

    def errors_of(row: Row) -> int:
        count = errors(row)
        return UNKNOWN if count is None else min(count, LARGEST)

    def age_hours(row: Row) -> int:
        start_s = start_time_s(row)
        # Of an instance that is not up, nobody knows whether it still runs.
        if start_s is None or not row.is_up:
            return UNKNOWN
        return _whole(max(0.0, math.floor((now_s - start_s) / SECONDS_PER_HOUR)))

    return {
        Value.P99: p99_ms,
        Value.CANARY: canary_ms,
        Value.ERRORS: errors_of,
        Value.AGE: age_hours,
    }


def _whole(number: float) -> int:
    """Return a number as a column takes it, rounded."""
    return round(min(number, LARGEST)) if number >= 0 else UNKNOWN
