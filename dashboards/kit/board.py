"""One dashboard: what is on it, where, and the JSON that Grafana loads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from grafanalib import core

from dashboards.kit import controls
from dashboards.kit.fields import Json
from dashboards.kit.finalise import finalise, panel_id
from dashboards.kit.panels import Panel

COMMAND = "ollama-fleet dashboards build"
BANNER = f"Made by `{COMMAND}`: change the settings, not this file."
REFRESH = "30s"
REFRESH_CHOICES = ["30s", "1m", "5m", "15m", "1h"]
TIMEZONE = "utc"
"""Two people who speak of a night's events must not have to ask each other where they sit; logs
and notifications are in UTC as well."""
SHARED_CROSSHAIR = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A dashboard before it becomes JSON."""

    uid: str
    title: str
    description: str
    """What it answers, for whoever looks for a dashboard."""
    sections: tuple[Section, ...]
    variables: tuple[Any, ...]
    annotations: tuple[Json, ...]
    """Annotations, beside those that Grafana has of itself."""
    scrape_interval: str
    """Rates need several scrapes: Grafana takes this for the shortest step and for
    `$__rate_interval`, whatever the data source says."""
    since: str = "now-6h"

    def panels(self) -> Iterator[Any]:
        """Yield every panel, headings left out."""
        for section in self.sections:
            for row in section.rows:
                yield from (panel for _, panel in row.cells)

    @property
    def may_be_empty(self) -> frozenset[int]:
        """Return the ids of the panels that may have nothing to show."""
        return frozenset(panel_id(panel.title) for panel in self.panels() if panel.may_be_empty)


def document(board: Board) -> Json:
    """Return the JSON that Grafana loads, the same for the same board.

    Raises:
        ValueError: Two panels share a title, so that links to one could show the other.
    """
    titles = Counter(panel.title for panel in board.panels())
    if twice := [title for title, count in titles.items() if count > 1]:
        raise ValueError(f"{board.uid}: panels share a title: {', '.join(twice)}; rename one")
    dashboard = core.Dashboard(
        uid=board.uid,
        title=f"ollama-fleet / {board.title}",
        description=f"{board.description} {BANNER}",
        tags=[controls.TAG, "generated"],
        editable=False,
        timezone=TIMEZONE,
        refresh=REFRESH,
        graphTooltip=SHARED_CROSSHAIR,
        time=core.Time(board.since, "now"),
        timePicker=core.TimePicker(refreshIntervals=REFRESH_CHOICES, timeOptions=[]),
        links=controls.between_dashboards(),
        templating=core.Templating(list=list(board.variables)),
        annotations=core.Annotations(list=[controls.BUILT_IN, *board.annotations]),
        panels=layout(board.sections),
    )
    whole = finalise(_plain(dashboard))
    for target in _targets(whole["panels"]):
        target["interval"] = board.scrape_interval
    return whole


def _targets(panels: list[Json]) -> Iterator[Json]:
    """Yield the queries of all panels, those in collapsed sections too."""
    for panel in panels:
        yield from panel.get("targets", ())
        yield from _targets(panel.get("panels", []))


def _plain(dashboard: Any) -> Json:
    """Return what grafanalib makes of a dashboard, as plain JSON values."""
    text = json.dumps(dashboard.to_json_data(), default=lambda value: value.to_json_data())
    plain: Json = json.loads(text)
    return plain


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


def section(title: str, *rows: Row, is_collapsed: bool = False) -> Section:
    """Return rows below a heading; see Section."""
    return Section(title, rows, is_collapsed)


def row(height: int, *cells: Panel | tuple[int, Panel]) -> Row:
    """Return panels beside each other, those without a width all equally wide; see Row."""
    width = COLUMNS // max(1, len(cells))
    return Row(height, tuple(cell if isinstance(cell, tuple) else (width, cell) for cell in cells))


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
