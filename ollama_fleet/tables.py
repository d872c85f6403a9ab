"""Write counts and aligned tables for people at a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

GAP = "  "
FIGURE = re.compile(r"-|[0-9][0-9.,]*%?")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, figures to the right, without a line end after the last row."""
    lines = [head, *rows]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_right = [_has_figures(column[1:]) for column in columns]
    return "\n".join(_line(cells, widths, is_right) for cells in lines)


def count_text(n: int, noun: str) -> str:
    """Return a number of things: `1 node`, `1,200 nodes`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _has_figures(cells: Sequence[str]) -> bool:
    return bool(cells) and all(FIGURE.fullmatch(cell) for cell in cells)


def _line(cells: Sequence[str], widths: Sequence[int], is_right: Sequence[bool]) -> str:
    aligned = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, is_right, strict=True)
    )
    return GAP.join(aligned).rstrip()
