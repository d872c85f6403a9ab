"""Rows of text with aligned columns.

In:   a head and rows of as many texts.
Out:  lines without blanks at their ends; figures stand at the right of their column. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

GAP = "  "
FIGURE = re.compile(r"-|[0-9][0-9.,]*%?")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return the table, without a line end after the last row."""
    body = [list(row) for row in rows]
    columns = list(zip(head, *body, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_right = [_is_of_figures(column[1:]) for column in columns]
    lines = ([*head], *body)
    return "\n".join(_line(cells, widths, is_right) for cells in lines)


def _is_of_figures(cells: Sequence[str]) -> bool:
    return bool(cells) and all(FIGURE.fullmatch(cell) for cell in cells)


def _line(cells: Sequence[str], widths: Sequence[int], is_right: Sequence[bool]) -> str:
    aligned = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, is_right, strict=True)
    )
    return GAP.join(aligned).rstrip()
