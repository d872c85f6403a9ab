"""Variables are filled in as Grafana's Prometheus data source fills them in."""

from __future__ import annotations

from typing import Any

import pytest

from dashboards.collection import boards
from dashboards.kit.board import document
from dashboards.settings import DashboardSettings
from tests.dashboards.expansion import (
    Asked,
    Choice,
    Origin,
    UnknownVariableError,
    choices,
    expanded,
    panels,
    queries,
)

BOARDS = {board.uid: board for board in boards(DashboardSettings())}
DOCUMENTS = {uid: document(board) for uid, board in BOARDS.items()}
ONE = Choice(("a.b",), is_expression=False)
SEVERAL = Choice(("a.b", "c"), is_expression=True)
ALL = Choice((), is_expression=True, raw=".+")


def variable(name: str, **changed: Any) -> dict[str, Any]:
    return {"name": name, "type": "query", "includeAll": False, "multi": False, **changed}


def dashboard(*variables: dict[str, Any]) -> dict[str, Any]:
    return {"uid": "d", "templating": {"list": list(variables)}}


@pytest.mark.parametrize(
    ("expr", "choice", "expected"),
    [
        ('up{x="$v"}', ONE, 'up{x="a.b"}'),
        ('up{x="${v}"}', ONE, 'up{x="a.b"}'),
        ('up{x="[[v]]"}', ONE, 'up{x="a.b"}'),
        ('up{x=~"$v"}', SEVERAL, r'up{x=~"(a\\.b|c)"}'),
        ('up{x=~"$v|"}', SEVERAL, r'up{x=~"(a\\.b|c)|"}'),
        ('up{x=~"[[v]]"}', SEVERAL, r'up{x=~"(a\\.b|c)"}'),
        ("up{x=~'${v:regex}'}", SEVERAL, r"up{x=~'(a\.b|c)'}"),
        ("up{x=~'${v:raw}'}", SEVERAL, "up{x=~'{a.b,c}'}"),
        ('up{x=~"$v"}', Choice(("a+b",), is_expression=True), r'up{x=~"a\\+b"}'),
        ('up{x=~"$v"}', Choice(("a\\b",), is_expression=True), r'up{x=~"a\\\\b"}'),
        ('up{x="$v"}', Choice(('a\\"b',), is_expression=False), r'up{x="a\\\"b"}'),
        ('up{x=~"$v"}', ALL, 'up{x=~".+"}'),
        ('up{x=~"${v:regex}"}', ALL, 'up{x=~".+"}'),
        ("topk($v, up)", Choice(("25",), is_expression=False), "topk(25, up)"),
    ],
)
def test_a_variable_is_written_as_grafana_writes_it(
    expr: str, choice: Choice, expected: str
) -> None:
    assert expected == expanded(expr, {"v": choice}, 15, 3600)


@pytest.mark.parametrize(
    ("name", "interval_s", "expected"),
    [
        ("$__rate_interval", 15, "60s"),
        ("$__rate_interval", 120, "135s"),
        ("${__rate_interval}", 45, "60s"),
        ("$__rate_interval", 46, "61s"),
        ("$__interval", 15, "15s"),
        ("$__interval_ms", 15, "15000"),
        ("$__range", 15, "3600s"),
        ("$__range_s", 15, "3600"),
        ("[[__range_ms]]", 15, "3600000"),
    ],
)
def test_grafanas_own_variables_follow_step_and_time_range(
    name: str, interval_s: float, expected: str
) -> None:
    assert expected == expanded(name, {}, interval_s, 3600)


@pytest.mark.parametrize(
    ("range_s", "scrape_interval_s", "expected"),
    [(3600, 15, 15), (3600, 1, 5), (6 * 3600, 15, 30), (86_400, 15, 120), (300, 15, 15)],
)
def test_the_step_is_a_round_number_and_no_shorter_than_a_scrape(
    range_s: float, scrape_interval_s: float, expected: float
) -> None:
    asked = Asked(uid="d", origin=Origin.PANEL, title="t", expr="up", max_points=500)

    assert expected == asked.step_s(range_s, scrape_interval_s)


@pytest.mark.parametrize("expr", ["$other", "${other}", "[[other]]"])
def test_a_name_that_nothing_is_chosen_for_is_an_error(expr: str) -> None:
    with pytest.raises(UnknownVariableError, match="other"):
        expanded(expr, {"v": ONE}, 15, 3600)


def test_what_is_not_chosen_is_as_the_dashboard_opens() -> None:
    opened = dashboard(
        variable("a", includeAll=True, allValue=".*", current={"value": "$__all"}),
        variable("b", includeAll=True, multi=True, allValue=".+", current={"value": ["$__all"]}),
        variable("c", type="custom", current={"value": "25"}),
        variable("d"),
    )

    assert {
        "a": Choice((), is_expression=True, raw=".*"),
        "b": Choice((), is_expression=True, raw=".+"),
        "c": Choice(("25",), is_expression=False),
    } == choices(opened)


def test_what_is_chosen_is_an_expression_where_the_variable_has_all_or_several() -> None:
    opened = dashboard(variable("a", includeAll=True), variable("b", multi=True), variable("c"))

    chosen = choices(opened, a="x", b=["x", "y"], c="x")

    assert [True, True, False] == [choice.is_expression for choice in chosen.values()]
    assert ("x", "y") == chosen["b"].values


@pytest.mark.parametrize("uid", DOCUMENTS)
def test_every_query_of_a_dashboard_is_found_once(uid: str) -> None:
    """Folded sections included: their panels stand inside of the heading."""
    found = queries(DOCUMENTS[uid], BOARDS[uid].may_be_empty)
    of_panels = [(one.panel_id, one.ref_id) for one in found if one.origin is Origin.PANEL]
    text = str(DOCUMENTS[uid])

    assert len(of_panels) == len(set(of_panels))
    assert text.count("'expr': ") == sum(one.origin is not Origin.VARIABLE for one in found)
    assert text.count("label_values(") == sum(one.origin is Origin.VARIABLE for one in found)
    assert {panel.title for panel in BOARDS[uid].panels()} == {
        panel["title"] for panel in panels(DOCUMENTS[uid])
    }
