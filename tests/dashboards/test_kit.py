"""The parts that dashboards are made of: what they become in Grafana's JSON."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dashboards.kit import controls, fields
from dashboards.kit.board import Board, Section, document, row
from dashboards.kit.finalise import panel_id
from dashboards.kit.panels import (
    Column,
    Panel,
    PanelText,
    Query,
    chart,
    heat_map,
    stat,
    state_timeline,
    table,
)
from tests.conftest import ROOT

Json = dict[str, Any]
DASHBOARDS = ROOT / "dashboards"
WORDS = PanelText(title="Speed", description="How fast.", no_data="None is fast.", unit="s")
QUERY = Query("up", "{{instance}}")


def board(*panels: Panel, **changed: Any) -> Board:
    rows = tuple(row(8, (24, panel)) for panel in panels)
    given: Json = {
        "uid": "fleet",
        "title": "Fleet",
        "description": "All of it.",
        "sections": (Section("", rows),),
        "variables": (),
        "annotations": (),
        "scrape_interval": "15s",
    }
    return Board(**{**given, **changed})


def made(panel: Panel) -> Json:
    """Return a panel as it stands in a dashboard's JSON."""
    found: Json = document(board(panel))["panels"][0]
    return found


def of_variable(variable: Any) -> Json:
    (found,) = document(board(chart(WORDS, QUERY), variables=(variable,)))["templating"]["list"]
    one: Json = found
    return one


def imported(path: Path) -> set[str]:
    """Return the first part of the name of each module that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_only_the_kit_imports_grafanalib() -> None:
    importers = {path.parent for path in DASHBOARDS.rglob("*.py") if "grafanalib" in imported(path)}

    assert {DASHBOARDS / "kit"} == importers


def test_queries_know_nothing_of_how_they_are_shown() -> None:
    for path in (DASHBOARDS / "queries").glob("*.py"):
        tree = ast.parse(path.read_text())
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert set() == {name for name in modules if name.startswith("dashboards.kit")}


# Panels


@pytest.mark.parametrize(
    ("panel", "kind"),
    [
        (chart(WORDS, QUERY), "timeseries"),
        (stat(WORDS, QUERY), "stat"),
        (table(WORDS, Column(name="up", expr="up"), labels=("node",)), "table"),
        (heat_map(WORDS, QUERY), "heatmap"),
        (state_timeline(WORDS, QUERY, mappings=[]), "state-timeline"),
    ],
)
def test_every_kind_of_panel_says_what_its_words_say(panel: Panel, kind: str) -> None:
    found = made(panel)

    assert kind == found["type"]
    assert ("Speed", "How fast.") == (found["title"], found["description"])
    assert "None is fast." == found["fieldConfig"]["defaults"]["noValue"]
    assert "s" == found["fieldConfig"]["defaults"]["unit"]
    assert {"type": "prometheus", "uid": "${datasource}"} == found["datasource"]
    assert 500 == found["maxDataPoints"]
    assert "up" == found["targets"][0]["expr"]


def test_a_chart_begins_at_zero_and_shows_gaps_as_gaps() -> None:
    defaults = made(chart(WORDS, QUERY, max=1))["fieldConfig"]["defaults"]

    assert (0, 1) == (defaults["min"], defaults["max"])
    assert defaults["custom"]["spanNulls"] is False
    assert defaults["custom"]["insertNulls"] is False


def test_a_table_has_a_column_for_each_query_after_its_labels() -> None:
    columns = (Column(name="up", expr="up"), Column(name="speed", expr="speed", unit="short"))
    found = made(
        table(
            WORDS,
            *columns,
            labels=("node", "model"),
            hidden_labels=("job",),
            sort=[("up", False), ("node", True)],
        )
    )

    merge, organize = found["transformations"]
    assert ["A", "B"] == [target["refId"] for target in found["targets"]]
    assert {"table"} == {target["format"] for target in found["targets"]}
    assert "merge" == merge["id"]
    assert {"Time": True, "job": True} == organize["options"]["excludeByName"]
    assert {"Value #A": "up", "Value #B": "speed", "Value": "up"} == organize["options"][
        "renameByName"
    ]
    assert ["node", "model", "Value #A", "Value #B", "Value"] == sorted(
        organize["options"]["indexByName"], key=organize["options"]["indexByName"].__getitem__
    )
    assert [
        {"displayName": "up", "desc": False},
        {"displayName": "node", "desc": True},
    ] == found["options"]["sortBy"]


def test_a_tables_columns_have_their_units_looks_and_links() -> None:
    up = Column(
        name="up", expr="up", unit="none", overrides=fields.coloured_cell({"1": ("up", "red")})
    )
    to = controls.to_dashboard("The node", "nodes", "node")
    found = made(table(WORDS, up, labels=("node",), links={"node": [to]}))

    by_name = {
        one["matcher"]["options"]: {each["id"]: each["value"] for each in one["properties"]}
        for one in found["fieldConfig"]["overrides"]
    }
    assert {"links": [to]} == by_name["node"]
    assert "none" == by_name["up"]["unit"]
    assert {"type": "color-text"} == by_name["up"]["custom.cellOptions"]
    assert {"1": {"text": "up", "color": "red", "index": 0}} == by_name["up"]["mappings"][0][
        "options"
    ]


# Looks of series


def test_a_legend_with_labels_is_of_all_its_series() -> None:
    """Grafana leaves out a label that a series lacks, and keeps the space before it."""
    matcher = fields.coloured("p99 (of {{node}}) {{cluster}}", "red")["matcher"]
    pattern = matcher["options"].removeprefix("/").removesuffix("/")

    assert ("byRegexp", r"/^p99 \(of .*\) .*$/") == (matcher["id"], matcher["options"])
    assert re.search(pattern, "p99 (of n1) eu")
    assert re.search(pattern, "p99 (of n1) ")
    assert not re.search(pattern, "the p99 (of n1) eu")


# Variables, links, annotations


def test_all_is_chosen_at_first_and_stands_for_an_expression_of_its_own() -> None:
    found = of_variable(controls.label_values("node", "up"))

    assert {"query": "label_values(up, node)", "qryType": 1, "refId": "variable-node"} == found[
        "query"
    ]
    assert (True, ".*", False) == (found["includeAll"], found["allValue"], found["multi"])
    assert {"selected": True, "text": "All", "value": "$__all"} == found["current"]
    assert 2 == found["refresh"]


def test_a_variable_without_all_has_nothing_chosen_until_grafana_knows_the_values() -> None:
    found = of_variable(controls.label_values("instance_id", "up", all_value=None))

    assert not found["includeAll"]
    assert not {"allValue", "current"} & set(found)


def test_the_limit_offers_its_choices_and_has_one_chosen() -> None:
    found = of_variable(controls.limit(10, 25, default=25))

    assert ("custom", "10,25") == (found["type"], found["query"])
    assert [("10", False), ("25", True)] == [
        (option["value"], option["selected"]) for option in found["options"]
    ]
    assert "25" == found["current"]["value"]


def test_a_link_can_take_the_cluster_from_the_row_and_then_keeps_no_other() -> None:
    found = controls.to_dashboard("The node", "ollama-fleet-nodes", "node", cluster="region")

    assert (
        "/d/ollama-fleet-nodes?${datasource:queryparam}"
        "&var-cluster=${__data.fields.region:percentencode}"
        "&var-node=${__data.fields.node:percentencode}&${__url_time_range}"
    ) == found["url"]


# Boards


def test_two_panels_of_one_title_are_an_error() -> None:
    """Their ids would be the same, and a link to one could show the other."""
    panels = (chart(WORDS, QUERY), stat(WORDS, QUERY))

    with pytest.raises(ValueError, match="fleet: panels share a title: Speed; rename one"):
        document(board(*panels))


def test_a_board_knows_the_ids_of_the_panels_that_may_be_empty() -> None:
    other = PanelText(title="Errors", description="It is.", no_data="None.")

    found = board(chart(WORDS, QUERY), chart(other, QUERY).optional())

    assert frozenset({panel_id("Errors")}) == found.may_be_empty


def test_every_query_has_the_scrape_interval_for_its_shortest_step() -> None:
    folded = Section("More", (row(8, (24, chart(WORDS, QUERY))),), is_collapsed=True)
    other = PanelText(title="Errors", description="It is.", no_data="None.")
    sections = (Section("", (row(8, (24, stat(other, QUERY))),)), folded)

    text = json.dumps(document(board(sections=sections, scrape_interval="1m")))

    assert 2 == text.count('"expr": ') == text.count('"interval": "1m"')
