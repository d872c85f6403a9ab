"""Panels lie on Grafana's grid side by side and row below row; those that we ship as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from dashboards.choices import Uid
from dashboards.kit.board import COLUMNS, Section, layout, row
from dashboards.kit.panels import Panel, PanelText, Query, chart
from tests.dashboards.shipped import document

Json = Mapping[str, Any]


def panel(title: str = "a") -> Panel:
    words = PanelText(title=title, description="It is.", no_data="Nothing.")
    return chart(words, Query("up"))


def places(sections: Sequence[Section]) -> list[tuple[str, int, int, int, int]]:
    """Return (title, x, y, width, height) of everything that is laid out."""
    return [
        (body.title, body.gridPos.x, body.gridPos.y, body.gridPos.w, body.gridPos.h)
        for body in layout(sections)
    ]


def faults(panels: Sequence[Json]) -> Iterator[str]:
    """Yield where panels overlap, where there is a hole, and who leaves the grid."""
    taken: Counter[tuple[int, int]] = Counter()
    for one in panels:
        place = one["gridPos"]
        if place["x"] < 0 or place["y"] < 0 or place["x"] + place["w"] > COLUMNS:
            yield f"{one['title']} leaves the grid"
        taken.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )
    yield from (f"overlap at {cell}" for cell, count in taken.items() if count > 1)
    top = min((y for _, y in taken), default=0)
    bottom = max((y for _, y in taken), default=-1)
    wanted = {(x, y) for x in range(COLUMNS) for y in range(top, bottom + 1)}
    yield from (f"hole at {cell}" for cell in sorted(wanted - taken.keys()))


@pytest.mark.parametrize("uid", list(Uid))
def test_on_our_dashboards_nothing_overlaps_and_there_are_no_holes(uid: Uid) -> None:
    panels = document(uid)["panels"]
    folded = [one["panels"] for one in panels if one["type"] == "row" and one["collapsed"]]

    assert [] == list(faults(panels))
    assert [] == [fault for each in folded for fault in faults(each)]
    assert 0 == min(one["gridPos"]["y"] for one in panels)


@pytest.mark.parametrize(
    ("second", "fault"),
    [
        ({"x": 12, "y": 0, "w": 12, "h": 8}, None),
        ({"x": 11, "y": 0, "w": 13, "h": 8}, "overlap at (11, 0)"),
        ({"x": 13, "y": 0, "w": 11, "h": 8}, "hole at (12, 0)"),
        ({"x": 12, "y": 0, "w": 13, "h": 8}, "b leaves the grid"),
        ({"x": 12, "y": 0, "w": 12, "h": 7}, "hole at (12, 7)"),
        ({"x": 12, "y": 1, "w": 12, "h": 7}, "hole at (12, 0)"),
    ],
)
def test_the_test_sees_overlaps_and_holes(second: Json, fault: str | None) -> None:
    first = {"title": "a", "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8}}

    found = list(faults([first, {"title": "b", "gridPos": second}]))

    assert fault in found if fault else not found


def test_panels_of_a_row_stand_side_by_side_and_rows_below_each_other() -> None:
    rows = (row(8, (16, panel("a")), (8, panel("b"))), row(5, (24, panel("c"))))

    assert [("a", 0, 0, 16, 8), ("b", 16, 0, 8, 8), ("c", 0, 8, 24, 5)] == places(
        [Section("", rows)]
    )


def test_a_section_with_a_title_begins_with_a_heading() -> None:
    sections = [
        Section("", (row(4, (24, panel("a"))),)),
        Section("Speed", (row(8, (24, panel("b"))),)),
    ]

    assert [("a", 0, 0, 24, 4), ("Speed", 0, 4, 24, 1), ("b", 0, 5, 24, 8)] == places(sections)


def test_a_collapsed_section_takes_no_more_room_than_its_heading() -> None:
    """And its panels lie in the heading, where Grafana looks for them and does not ask yet."""
    sections = [
        Section("Speed", (row(8, (24, panel("a"))),), is_collapsed=True),
        Section("Latency", (row(8, (24, panel("b"))),)),
    ]

    heading, *_ = layout(sections)

    assert [("Speed", 0, 0, 24, 1), ("Latency", 0, 1, 24, 1), ("b", 0, 2, 24, 8)] == places(
        sections
    )
    assert heading.collapsed
    assert ["a"] == [body.title for body in heading.panels]
    assert 1 == heading.panels[0].gridPos.y


def test_a_collapsed_section_without_a_title_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a title"):
        layout([Section("", (row(8, (24, panel())),), is_collapsed=True)])


@pytest.mark.parametrize("widths", [[], [23], [12, 13], [24, 0], [-1, 25]])
def test_a_row_that_is_not_24_columns_wide_is_an_error(widths: list[int]) -> None:
    with pytest.raises(ValueError, match="make the widths add up to 24"):
        row(8, *((width, panel()) for width in widths))


def test_a_row_without_height_is_an_error() -> None:
    with pytest.raises(ValueError, match="the row of a is 0 high"):
        row(0, (24, panel("a")))
