"""What the web UI's scripts ask for and are answered, as query strings and JSON."""

from __future__ import annotations

import math
import zlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from exporter.instances import FILTER_KEYS, Filter, check_keys, parse_filter
from exporter.model import Condition, Status
from exporter.ui.cells import STATUS, UNKNOWN, Value
from exporter.ui.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from exporter.ui.cells import Column, Value
    from exporter.ui.layout import Layout
    from exporter.ui.revisions import FleetView, Revision


COMPARED_AT_ONCE = 256
"""Cells per comparison: most stretches have not changed, and one comparison shows that."""


class Changes(msgspec.Struct, frozen=True):
    """Some cells of a column."""

    cells: list[int] | None
    """None for all of them."""
    to: list[int | None]


def changes(before: Column | None, now: Column) -> Changes:
    """Return what differs from `before`; everything where that is not known any more."""
    if before is None:
        return whole(now)
    cells = list(_different(before, now))
    # A cell costs its number and its value: of more than half, the values alone are shorter.
    if 2 * len(cells) > len(now):
        return whole(now)
    return Changes(cells, [_or_null(now[cell]) for cell in cells])


def not_zero(column: Column) -> Changes:
    """Return what differs from zeros."""
    return changes(array(column.typecode, bytes(len(column) * column.itemsize)), column)


def whole(column: Column) -> Changes:
    """Return all of a column."""
    return Changes(None, as_json(column))


def as_json(column: Column) -> list[int | None]:
    """Return a column as JSON has it: None for unknown values."""
    if column.typecode == "B":
        return list(column)
    return [_or_null(number) for number in column]


def _or_null(number: int) -> int | None:
    return None if number == UNKNOWN else number


def _different(before: Column, now: Column) -> Iterator[int]:
    for first in range(0, len(now), COMPARED_AT_ONCE):
        last = first + COMPARED_AT_ONCE
        old, new = before[first:last], now[first:last]
        if old != new:
            for cell, (was, is_) in enumerate(zip(old, new, strict=True), first):
                if was != is_:
                    yield cell


MOST_CARDS = 300
"""More instances are shown as a map."""
GZIP_LEVEL = 1
GZIP_WINDOW_BITS = 31
"""zlib's way of saying: with gzip's header and trailer."""
MIN_GZIPPED_BYTES = 1000
"""What is smaller fits into a packet or two as it is."""


class Cells(msgspec.Struct, frozen=True):
    """The cells, one item for each."""

    id: tuple[str, ...]
    node: list[int]
    model: list[int]
    developer: list[int]


class EncodedLayout(msgspec.Struct, frozen=True):
    """What of the map stays as long as the layout does."""

    nodes: msgspec.Raw
    models: msgspec.Raw
    developers: msgspec.Raw
    cells: msgspec.Raw


class WholeValue(msgspec.Struct, frozen=True):
    """A value of all cells."""

    name: Value
    values: list[int | None]


class ChangedValue(msgspec.Struct, frozen=True):
    """A value of the cells that changed."""

    name: Value
    cells: list[int] | None
    to: list[int | None]


class MapAnswer(msgspec.Struct, frozen=True):
    """The whole fleet."""

    layout: str
    revision: int
    poll_interval_seconds: float
    refresh_seconds: float
    inventory_refresh_seconds: float
    statuses: tuple[Status, ...]
    nodes: msgspec.Raw
    models: msgspec.Raw
    developers: msgspec.Raw
    cells: msgspec.Raw
    status: list[int | None]
    condition_names: tuple[Condition, ...]
    conditions: Changes
    """Since there were none: those of each cell as bits, the first one of `condition_names`."""
    value: WholeValue | None
    tokens_per_second: list[float | None] | None
    """Of each cell, in a fleet that is shown as cards."""
    summary: Summary


class ChangesAnswer(msgspec.Struct, frozen=True):
    """What changed."""

    layout: str
    revision: int
    status: Changes
    conditions: Changes
    value: ChangedValue | None
    tokens_per_second: list[float | None] | None
    summary: Summary


class LayoutChanged(msgspec.Struct, frozen=True):
    """The answer instead of changes if the browser has another layout."""

    layout: str


def encode_layout(layout: Layout) -> EncodedLayout:
    """Return a layout, written already."""
    cells = Cells(
        layout.ids, layout.node.tolist(), layout.model.tolist(), layout.developer.tolist()
    )
    parts = (layout.nodes, layout.models, layout.developers, cells)
    return EncodedLayout(*[msgspec.Raw(msgspec.json.encode(part)) for part in parts])


def whole_value(revision: Revision, value: Value) -> WholeValue:
    """Return a value of all cells."""
    return WholeValue(value, as_json(revision.fleet_view.columns[value]))


def tokens_per_second(fleet_view: FleetView) -> list[float | None] | None:
    """Return the speeds that cards show; None where there are too many instances for cards."""
    if len(fleet_view.speeds) > MOST_CARDS:
        return None
    return [None if math.isnan(speed) else round(speed, 1) for speed in fleet_view.speeds]


def encode(answer: object, *, is_gzip_taken: bool) -> tuple[bytes, bool]:
    """Return an answer's body, and whether it is compressed."""
    body = msgspec.json.encode(answer)
    if not is_gzip_taken or len(body) < MIN_GZIPPED_BYTES:
        return body, False
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW_BITS)
    return compressor.compress(body) + compressor.flush(), True


VALUES = tuple(Value)
MAX_DIGITS = 15


@dataclass(frozen=True, slots=True)
class ChangesQuery:
    """The question what changed since a revision."""

    layout: str
    revision: int
    value: Value | None
    is_value_whole: bool
    """Whether the browser has nothing of the value yet."""


def parse_map(query: Mapping[str, str]) -> Value | None:
    """Return the value that is wanted beside the statuses."""
    check_keys(query, ("value",))
    return _value(query, VALUES)


def parse_changes(query: Mapping[str, str]) -> ChangesQuery:
    """Return which changes are wanted."""
    check_keys(query, ("layout", "revision", "value", "full"))
    for name in ("layout", "revision"):
        if name not in query:
            raise ValueError(f"{name} is required, as /fleet/map gives it")
    if query.get("full", "value") != "value":
        raise ValueError(f"full can only be value, not {query['full']!r}")
    text = query["revision"]
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise ValueError(f"revision must be a whole number, as /fleet/map gives it: {text!r}")
    return ChangesQuery(query["layout"], int(text), _value(query, VALUES), "full" in query)


def parse_worst(query: Mapping[str, str]) -> tuple[Value | None, Filter]:
    """Return what ranks the instances, None for their status, and which of them are wanted."""
    check_keys(query, ("value", *FILTER_KEYS))
    rest = {key: text for key, text in query.items() if key != "value"}
    by_status = query.get("value", STATUS) == STATUS
    return None if by_status else _value(query, (STATUS, *VALUES)), parse_filter(rest)


def _value(query: Mapping[str, str], allowed: Collection[str]) -> Value | None:
    if "value" not in query:
        return None
    if query["value"] not in allowed:
        raise ValueError(f"there is no value {query['value']!r}, only {', '.join(allowed)}")
    return Value(query["value"])
