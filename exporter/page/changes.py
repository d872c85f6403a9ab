"""Tell what changed between two columns.

In:   the column that a browser has, and the one that there is now.
Out:  the cells that differ and what they are now, or the whole column where that is shorter. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from exporter.page.cells import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.page.cells import Column

COMPARED_AT_ONCE = 256
"""Cells per comparison: in most stretches nothing changed, which one look at them tells."""


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
    return Changes(cells, [_told(now[cell]) for cell in cells])


def whole(column: Column) -> Changes:
    """Return all of a column."""
    return Changes(None, told(column))


def told(column: Column) -> list[int | None]:
    """Return a column as it is told: None for what is not known."""
    if column.typecode == "B":
        return list(column)
    return [_told(number) for number in column]


def _told(number: int) -> int | None:
    return None if number == UNKNOWN else number


def _different(before: Column, now: Column) -> Iterator[int]:
    for first in range(0, len(now), COMPARED_AT_ONCE):
        last = first + COMPARED_AT_ONCE
        old, new = before[first:last], now[first:last]
        if old != new:
            for cell, (was, is_) in enumerate(zip(old, new, strict=True), first):
                if was != is_:
                    yield cell
