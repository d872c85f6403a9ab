"""What grafanalib 0.7.1 writes and Grafana 10.4 to 13 do not take, defect by defect.

Each test looks at what grafanalib writes as well: a defect that a new grafanalib no longer has
fails here, and its step in `finalise` can go.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from grafanalib import core

from dashboards.kit.finalise import MAX_ID, finalise, panel_id

Json = dict[str, Any]
PLACE = core.GridPos(h=8, w=24, x=0, y=0)


def target(**changed: Any) -> Any:
    return core.Target(expr="up", refId="A", **changed)


def panel_of(kind: Any, **changed: Any) -> Any:
    return kind(title="Speed", gridPos=PLACE, targets=[target()], **changed)


def raw(*panels: Any, **changed: Any) -> Json:
    """Return what grafanalib itself makes of a dashboard."""
    dashboard = core.Dashboard(title="Fleet", uid="fleet", panels=list(panels), **changed)
    text = json.dumps(dashboard.to_json_data(), default=lambda value: value.to_json_data())
    plain: Json = json.loads(text)
    return plain


def both(kind: Any, **changed: Any) -> tuple[Json, Json]:
    """Return a panel as grafanalib writes it, and as Grafana gets it."""
    written = raw(panel_of(kind, **changed))
    return written["panels"][0], finalise(written)["panels"][0]


def steps(panel: Json) -> Any:
    return panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps")


def keys(value: Any) -> set[str]:
    """Return all keys anywhere in a value."""
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in keys(item)}
    return {key for item in value for key in keys(item)} if isinstance(value, list) else set()


def test_the_schema_is_one_that_all_grafanas_migrate_from() -> None:
    written = raw()

    assert 12 == written["schemaVersion"]
    assert 39 == finalise(written)["schemaVersion"]


@pytest.mark.parametrize(
    "key", ["__inputs", "rows", "style", "sharedCrosshair", "hideControls", "gnetId", "id"]
)
def test_keys_of_old_grafanas_are_gone_from_the_dashboard(key: str) -> None:
    """`__inputs` least of all may stay: file provisioning does not expand them."""
    written = raw()

    assert key in written
    assert key not in finalise(written)


@pytest.mark.parametrize("key", ["time_options", "nowDelay"])
def test_keys_of_old_grafanas_are_gone_from_the_time_picker(key: str) -> None:
    written = raw()

    assert key in written["timepicker"]
    assert key not in finalise(written)["timepicker"]
    assert "refresh_intervals" in finalise(written)["timepicker"]


def test_nobody_edits_a_dashboard_that_the_next_update_replaces() -> None:
    written = raw()

    assert written["editable"]
    assert finalise(written)["editable"] is False


def test_the_base_of_thresholds_is_null_and_no_text() -> None:
    written, panel = both(core.TimeSeries, thresholds=[core.Threshold("red", 0, 0.0)])

    assert "null" == steps(written)[0]["value"]
    assert [{"color": "red", "value": None}] == steps(panel)


def test_a_step_of_thresholds_has_a_colour_and_a_value_and_no_more() -> None:
    written, panel = both(core.TimeSeries, thresholds=[core.Threshold("red", 1, 4.5)])

    assert {"index", "line", "op", "yaxis"} <= set(steps(written)[0])
    assert [{"color": "red", "value": 4.5}] == steps(panel)


def test_a_base_that_was_given_as_null_stays_so() -> None:
    base = {"color": "text", "value": None}

    assert [base] == steps(both(core.TimeSeries, thresholds=[base])[1])


def test_thresholds_of_a_stat_are_no_text() -> None:
    written, panel = both(core.Stat)

    assert "" == steps(written)
    assert "thresholds" not in panel["fieldConfig"]["defaults"]


def test_thresholds_of_overrides_keep_their_base() -> None:
    value = {"mode": "absolute", "steps": [{"color": "green", "value": None}]}
    properties = [{"id": "thresholds", "value": value}]
    override = {"matcher": {"id": "byName", "options": "a"}, "properties": properties}

    _, panel = both(core.TimeSeries, overrides=[override])

    (kept,) = panel["fieldConfig"]["overrides"][0]["properties"]
    assert [{"color": "green", "value": None}] == kept["value"]["steps"]


def test_nothing_is_null_but_the_base_of_thresholds() -> None:
    panels = [panel_of(kind) for kind in (core.Stat, core.Table, core.Heatmap, core.TimeSeries)]
    variables = core.Templating([core.Template(name="node", query="q")])
    written = raw(*panels, templating=variables)

    assert "null" in json.dumps(written)
    assert "null" not in json.dumps(finalise(written))


@pytest.mark.parametrize("key", ["query", "target", "metric", "intervalFactor", "step"])
def test_a_query_has_no_keys_of_other_data_sources_and_no_halved_resolution(key: str) -> None:
    written, panel = both(core.TimeSeries)

    assert key in written["targets"][0]
    assert key not in panel["targets"][0]
    assert "up" == panel["targets"][0]["expr"]


@pytest.mark.parametrize("is_instant", [True, False])
def test_a_query_is_for_a_moment_or_for_a_range_and_says_which(is_instant: bool) -> None:
    written = raw(core.TimeSeries(title="a", gridPos=PLACE, targets=[target(instant=is_instant)]))

    (found,) = finalise(written)["panels"][0]["targets"]
    assert "range" not in written["panels"][0]["targets"][0]
    assert (is_instant, not is_instant) == (found["instant"], found["range"])


def test_an_empty_step_is_left_out_and_another_one_kept() -> None:
    written = raw(
        core.TimeSeries(title="a", gridPos=PLACE, targets=[target(), target(interval="15s")])
    )

    first, second = finalise(written)["panels"][0]["targets"]
    assert "" == written["panels"][0]["targets"][0]["interval"]
    assert "interval" not in first
    assert "15s" == second["interval"]


@pytest.mark.parametrize(
    "key",
    [
        "xAxis", "yAxis", "dataFormat", "cards", "heatmap", "color", "legend", "tooltip",
        "reverseYBuckets", "highlightCards", "hideZeroBuckets", "xBucketSize", "yBucketBound",
    ],
)  # fmt: skip
def test_a_heat_map_has_no_fields_of_before_grafana_9(key: str) -> None:
    written, panel = both(core.Heatmap)

    assert key in written
    assert key not in panel


def test_options_of_a_heat_map_are_no_list() -> None:
    written, panel = both(core.Heatmap)

    assert [] == written["options"]
    assert {} == panel["options"]


def test_a_tables_mappings_and_colours_are_where_grafana_looks_for_them() -> None:
    mapping = {"type": "value", "options": {"1": {"text": "up"}}}
    written, panel = both(core.Table, mappings=[mapping])

    assert {"mappings", "color"} <= set(written)
    assert not {"mappings", "color", "columns", "fontSize"} & set(panel)
    assert [mapping] == panel["fieldConfig"]["defaults"]["mappings"]
    assert {"mode": "thresholds"} == panel["fieldConfig"]["defaults"]["color"]


def test_a_tables_cells_have_options_and_no_display_mode() -> None:
    written, panel = both(core.Table)

    assert "auto" == written["fieldConfig"]["defaults"]["custom"]["displayMode"]
    assert {"type": "auto"} == panel["fieldConfig"]["defaults"]["custom"]["cellOptions"]
    assert "displayMode" not in panel["fieldConfig"]["defaults"]["custom"]


def test_what_a_table_says_of_its_fields_itself_wins() -> None:
    chosen = {"fieldConfig": {"defaults": {"color": {"mode": "fixed"}}}}

    _, panel = both(core.Table, extraJson=chosen)

    assert {"mode": "fixed"} == panel["fieldConfig"]["defaults"]["color"]


def test_every_panel_has_overrides_if_only_none() -> None:
    written, panel = both(core.Heatmap)

    assert "overrides" not in written["fieldConfig"]
    assert [] == panel["fieldConfig"]["overrides"]


def test_a_heading_has_nothing_of_a_panel() -> None:
    written = raw(core.RowPanel(title="Speed", gridPos=PLACE))

    (heading,) = finalise(written)["panels"]
    assert {"fieldConfig", "targets", "maxDataPoints"} <= set(written["panels"][0])
    assert {"collapsed", "gridPos", "id", "panels", "title", "type"} == set(heading)


def test_panels_in_a_collapsed_heading_are_mended_too() -> None:
    written = raw(
        core.RowPanel(title="Speed", gridPos=PLACE, collapsed=True, panels=[panel_of(core.Table)])
    )

    inner = finalise(written)["panels"][0]["panels"][0]
    assert "fontSize" not in inner
    assert panel_id("Speed") == inner["id"]


@pytest.mark.parametrize("key", ["useTags", "tagsQuery", "tagValuesQuery", "auto", "regex"])
def test_a_variable_has_no_keys_of_old_grafanas(key: str) -> None:
    written = raw(templating=core.Templating([core.Template(name="node", query="q")]))

    assert key in written["templating"]["list"][0]
    assert key not in finalise(written)["templating"]["list"][0]


def test_a_variable_for_which_nothing_is_chosen_says_nothing_of_a_choice() -> None:
    """Nulls for a choice would be shown as blank until Grafana asks for the values."""
    written = raw(templating=core.Templating([core.Template(name="node", query="q")]))

    assert written["templating"]["list"][0]["current"]["value"] is None
    assert "current" not in finalise(written)["templating"]["list"][0]


def test_what_is_chosen_at_first_stays_chosen() -> None:
    variable = core.Template(name="limit", query="10,25", type="custom", default="25")
    written = raw(templating=core.Templating([variable]))

    (found,) = finalise(written)["templating"]["list"]
    assert {"selected": True, "text": "25", "value": "25"} == found["current"]


def test_panels_have_ids_and_keep_them_when_others_come() -> None:
    alone = raw(panel_of(core.Table))
    other = core.Stat(title="Before", gridPos=PLACE, targets=[target()])
    after = raw(other, panel_of(core.Table))

    assert alone["panels"][0]["id"] is None
    assert panel_id("Speed") == finalise(alone)["panels"][0]["id"]
    assert panel_id("Speed") == finalise(after)["panels"][1]["id"]


def test_a_heading_and_a_panel_of_the_same_words_have_ids_of_their_own() -> None:
    written = raw(core.RowPanel(title="Speed", gridPos=PLACE), panel_of(core.Table))

    assert 2 == len({panel["id"] for panel in finalise(written)["panels"]})


@pytest.mark.parametrize("title", ["", "Speed", "$model", "Überlast"])
def test_an_id_is_a_positive_number_of_32_bits(title: str) -> None:
    assert 1 <= panel_id(title) <= MAX_ID
    assert 2**31 - 1 == MAX_ID


def test_a_panel_that_is_not_repeated_says_nothing_of_repeating() -> None:
    repeated = core.Repeat(direction="h", variable="model", maxPerRow=3)

    assert not {"repeat", "repeatDirection", "maxPerRow"} & set(both(core.TimeSeries)[1])
    _, panel = both(core.TimeSeries, repeat=repeated)
    assert ("model", "h", 3) == (panel["repeat"], panel["repeatDirection"], panel["maxPerRow"])


def test_an_empty_unit_is_left_out() -> None:
    written, panel = both(core.TimeSeries)

    assert "" == written["fieldConfig"]["defaults"]["unit"]
    assert "unit" not in panel["fieldConfig"]["defaults"]


@pytest.mark.parametrize("key", ["span", "editable", "error", "height", "minSpan", "cacheTimeout"])
def test_panels_have_no_keys_of_the_grid_before_grafana_5(key: str) -> None:
    written, panel = both(core.TimeSeries)

    assert key in written
    assert key not in panel


@pytest.mark.parametrize("kind", [core.Stat, core.Table, core.Heatmap, core.TimeSeries])
def test_finalising_twice_changes_nothing_more(kind: Any) -> None:
    once = finalise(raw(panel_of(kind)))

    assert once == finalise(copy.deepcopy(once))
