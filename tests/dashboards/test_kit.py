"""The parts that dashboards are made of: what they become in Grafana's JSON."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dashboards.kit import colours, controls, fields
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


def test_a_heat_map_shows_the_unit_on_its_axis() -> None:
    assert "s" == made(heat_map(WORDS, QUERY))["options"]["yAxis"]["unit"]
    assert made(heat_map(WORDS, QUERY))["targets"][0]["format"] == "heatmap"


def test_a_stack_is_filled_and_its_tooltip_in_the_order_of_the_stack() -> None:
    plain = made(chart(WORDS, QUERY))
    stacked = made(chart(WORDS, QUERY, is_stacked=True))

    modes = [
        panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] for panel in (plain, stacked)
    ]
    assert ["none", "normal"] == modes
    assert ["desc", "none"] == [panel["options"]["tooltip"]["sort"] for panel in (plain, stacked)]
    assert 0 == plain["fieldConfig"]["defaults"]["custom"]["fillOpacity"]
    assert 60 == stacked["fieldConfig"]["defaults"]["custom"]["fillOpacity"]


def test_a_chart_begins_at_zero_and_shows_gaps_as_gaps() -> None:
    defaults = made(chart(WORDS, QUERY, max=1))["fieldConfig"]["defaults"]

    assert (0, 1) == (defaults["min"], defaults["max"])
    assert defaults["custom"]["spanNulls"] is False
    assert defaults["custom"]["insertNulls"] is False


def test_bars_are_drawn_where_they_were_asked_for() -> None:
    custom = made(chart(WORDS, QUERY, is_bars=True))["fieldConfig"]["defaults"]["custom"]

    assert "bars" == custom["drawStyle"]


def test_a_chart_can_be_repeated_for_each_value_of_a_variable() -> None:
    found = made(chart(WORDS, QUERY, repeat="model"))

    assert ("model", "h", 3) == (found["repeat"], found["repeatDirection"], found["maxPerRow"])


def test_a_stat_has_the_colour_of_text_where_nothing_judges_it() -> None:
    defaults = made(stat(WORDS, QUERY, decimals=1))["fieldConfig"]["defaults"]

    assert [{"color": "text", "value": None}] == defaults["thresholds"]["steps"]
    assert 1 == defaults["decimals"]


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


def test_a_panel_that_may_be_empty_is_the_same_panel() -> None:
    panel = chart(WORDS, QUERY)

    assert not panel.may_be_empty
    assert panel.optional().may_be_empty
    assert panel.body is panel.optional().body


# Looks of series


def test_steps_begin_with_the_base_and_go_up() -> None:
    assert [
        {"color": colours.GOOD, "value": None},
        {"color": "orange", "value": 1},
        {"color": "red", "value": 5},
    ] == fields.steps((1, "orange"), (5, "red"))


def test_a_legend_with_labels_is_of_all_its_series() -> None:
    """Grafana leaves out a label that a series lacks, and keeps the space before it."""
    matcher = fields.coloured("p99 (of {{node}}) {{cluster}}", "red")["matcher"]
    pattern = matcher["options"].removeprefix("/").removesuffix("/")

    assert ("byRegexp", r"/^p99 \(of .*\) .*$/") == (matcher["id"], matcher["options"])
    assert re.search(pattern, "p99 (of n1) eu")
    assert re.search(pattern, "p99 (of n1) ")
    assert not re.search(pattern, "the p99 (of n1) eu")


def test_a_figure_turns_at_its_value() -> None:
    assert {
        "matcher": {"id": "byName", "options": "down"},
        "properties": [
            {
                "id": "thresholds",
                "value": {
                    "mode": "absolute",
                    "steps": [
                        {"color": colours.GOOD, "value": None},
                        {"color": "red", "value": 3},
                    ],
                },
            }
        ],
    } == fields.turning("down", 3, "red")


def test_a_band_is_filled_down_to_the_lower_line() -> None:
    found = {each["id"]: each["value"] for each in fields.band("p99", "p50", "red")["properties"]}

    assert "p50" == found["custom.fillBelowTo"]
    assert {"mode": "fixed", "fixedColor": "red"} == found["color"]


# Variables, links, annotations


def test_all_is_chosen_at_first_and_stands_for_an_expression_of_its_own() -> None:
    found = of_variable(controls.label_values("node", "up"))

    assert {"query": "label_values(up, node)", "qryType": 1, "refId": "variable-node"} == found[
        "query"
    ]
    assert (True, ".*", False) == (found["includeAll"], found["allValue"], found["multi"])
    assert {"selected": True, "text": "All", "value": "$__all"} == found["current"]
    assert 2 == found["refresh"]


def test_where_several_can_be_chosen_all_is_a_list_of_one() -> None:
    found = of_variable(
        controls.label_values("job", "up", all_value=".+", is_multi=True)
    )  # fmt: skip

    assert (".+", True) == (found["allValue"], found["multi"])
    assert {"selected": True, "text": ["All"], "value": ["$__all"]} == found["current"]


def test_a_variable_without_all_has_nothing_chosen_until_grafana_knows_the_values() -> None:
    found = of_variable(controls.label_values("instance_id", "up", all_value=None))

    assert not found["includeAll"]
    assert not {"allValue", "current"} & set(found)


def test_a_variable_can_have_another_name_than_its_label() -> None:
    found = of_variable(controls.label_values("cluster", "up", label="region"))

    assert "cluster" == found["name"]
    assert "label_values(up, region)" == found["query"]["query"]


def test_the_limit_offers_its_choices_and_has_one_chosen() -> None:
    found = of_variable(controls.limit(10, 25, default=25))

    assert ("custom", "10,25") == (found["type"], found["query"])
    assert [("10", False), ("25", True)] == [
        (option["value"], option["selected"]) for option in found["options"]
    ]
    assert "25" == found["current"]["value"]


def test_a_link_keeps_data_source_cluster_and_time_and_takes_values_from_the_row() -> None:
    found = controls.to_dashboard("The node", "ollama-fleet-nodes", "node", "model")

    assert {
        "title": "The node",
        "url": "/d/ollama-fleet-nodes?${datasource:queryparam}&${cluster:queryparam}"
        "&var-node=${__data.fields.node:percentencode}"
        "&var-model=${__data.fields.model:percentencode}&${__url_time_range}",
    } == found


def test_a_link_can_take_the_cluster_from_the_row_and_then_keeps_no_other() -> None:
    found = controls.to_dashboard("The node", "ollama-fleet-nodes", "node", cluster="region")

    assert (
        "/d/ollama-fleet-nodes?${datasource:queryparam}"
        "&var-cluster=${__data.fields.region:percentencode}"
        "&var-node=${__data.fields.node:percentencode}&${__url_time_range}"
    ) == found["url"]


def test_marks_stand_beside_those_that_grafana_has_of_itself() -> None:
    mark = controls.annotation("Alerts", "ALERTS", title="{{alertname}}", text="", colour="red")
    found = document(board(chart(WORDS, QUERY), annotations=(mark,)))["annotations"]["list"]

    assert [1, None] == [one.get("builtIn") for one in found]
    assert ("ALERTS", True) == (found[1]["expr"], found[1]["enable"])


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


def test_a_dashboard_is_found_by_its_tag_and_says_who_made_it() -> None:
    found = document(board(chart(WORDS, QUERY)))

    assert "ollama-fleet / Fleet" == found["title"]
    assert found["description"].startswith("All of it. Made by `ollama-fleet dashboards build`")
    assert ["ollama-fleet", "generated"] == found["tags"]
    assert {"from": "now-6h", "to": "now"} == found["time"]


def test_the_same_board_gives_the_same_document_again() -> None:
    same = board(chart(WORDS, QUERY), variables=(controls.data_source(),))

    assert document(same) == document(same)
