"""One dashboard: what it is called, what is on it, and the JSON that Grafana loads.

In:   a Board, which the module of each dashboard makes.
Out:  its document, finished; and which of its panels may rightly be empty.
Fails with ValueError where two panels share a title.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dashboards.kit import links, marks
from dashboards.kit.fields import Json
from dashboards.kit.finalise import finalise, panel_id
from dashboards.kit.grid import Section, layout
from dashboards.kit.library import core

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
    marks: tuple[Json, ...]
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
        tags=[links.TAG, "generated"],
        editable=False,
        timezone=TIMEZONE,
        refresh=REFRESH,
        graphTooltip=SHARED_CROSSHAIR,
        time=core.Time(board.since, "now"),
        timePicker=core.TimePicker(refreshIntervals=REFRESH_CHOICES, timeOptions=[]),
        links=links.between_dashboards(),
        templating=core.Templating(list=list(board.variables)),
        annotations=core.Annotations(list=[marks.BUILT_IN, *board.marks]),
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
