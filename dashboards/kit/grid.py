"""Place panels on Grafana's grid: 24 columns, row below row, no holes and no overlaps.

In:   rows of panels with widths.
Out:  grafanalib's panels with their places, in reading order. Fails with ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.kit.library import core
from dashboards.kit.panels import Panel

COLUMNS = 24
HEADING_HEIGHT = 1


@dataclass(frozen=True, slots=True)
class Row:
    """Panels beside each other, all of one height."""

    height: int
    """In units of 30 pixels."""
    cells: tuple[tuple[int, Panel], ...]
    """(width, panel), from the left; the widths add up to 24."""

    def __post_init__(self) -> None:
        titles = ", ".join(panel.title for _, panel in self.cells)
        widths = [width for width, _ in self.cells]
        if min(widths, default=0) < 1 or sum(widths) != COLUMNS:
            raise ValueError(
                f"the row of {titles or 'no panels'} is {sum(widths)} columns wide "
                f"({widths}): make the widths add up to {COLUMNS}"
            )
        if self.height < 1:
            raise ValueError(f"the row of {titles} is {self.height} high: make it 1 or more")


@dataclass(frozen=True, slots=True)
class Section:
    """Rows below a heading. Those of a collapsed one are asked for when somebody opens it."""

    title: str
    """Empty for the rows at the top, which need none."""
    rows: tuple[Row, ...]
    is_collapsed: bool = False


def row(height: int, *cells: tuple[int, Panel]) -> Row:
    """Return panels beside each other; see Row."""
    return Row(height, cells)


def layout(sections: Iterable[Section]) -> list[Any]:
    """Return the panels of all sections, placed; those of collapsed ones inside of their heading.

    Raises:
        ValueError: A collapsed section has no title by which it could be opened.
    """
    placed: list[Any] = []
    top = 0
    for section in sections:
        if section.is_collapsed and not section.title:
            raise ValueError("a collapsed section needs a title: nothing else of it is seen")
        heading, below = _heading(section, top)
        panels, bottom = _rows(section.rows, below)
        if section.is_collapsed:
            heading[0].panels = panels
            placed += heading
            top = below
        else:
            placed += [*heading, *panels]
            top = bottom
    return placed


def _heading(section: Section, top: int) -> tuple[list[Any], int]:
    if not section.title:
        return [], top
    place = core.GridPos(h=HEADING_HEIGHT, w=COLUMNS, x=0, y=top)
    heading = core.RowPanel(title=section.title, collapsed=section.is_collapsed, gridPos=place)
    return [heading], top + HEADING_HEIGHT


def _rows(rows: Sequence[Row], top: int) -> tuple[list[Any], int]:
    placed = []
    for one in rows:
        left = 0
        for width, panel in one.cells:
            panel.body.gridPos = core.GridPos(h=one.height, w=width, x=left, y=top)
            placed.append(panel.body)
            left += width
        top += one.height
    return placed, top
