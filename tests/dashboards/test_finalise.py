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

from dashboards.kit.finalise import (
    LEGACY_PANEL,
    LEGACY_ROOT,
    LEGACY_TARGET,
    LEGACY_TIME_PICKER,
    LEGACY_VARIABLE,
    MAX_ID,
    finalise,
    panel_id,
)

Json = dict[str, Any]
PLACE = core.GridPos(h=8, w=24, x=0, y=0)
KINDS = (core.Stat, core.Table, core.Heatmap, core.TimeSeries)


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


def test_keys_of_old_grafanas_are_gone() -> None:
    """`__inputs` least of all may stay: file provisioning does not expand them."""
    variables = core.Templating([core.Template(name="node", query="q")])
    written = raw(*(panel_of(kind) for kind in KINDS), templating=variables)
    finished = finalise(written)

    def parts(document: Json) -> dict[tuple[str, ...], list[Json]]:
        return {
            LEGACY_ROOT: [document],
            LEGACY_TIME_PICKER: [document["timepicker"]],
            LEGACY_VARIABLE: document["templating"]["list"],
            LEGACY_PANEL: document["panels"],
            LEGACY_TARGET: [one for panel in document["panels"] for one in panel["targets"]],
        }

    for legacy, found in parts(written).items():
        assert set() == set(legacy) - {key for one in found for key in one}
    for legacy, found in parts(finished).items():
        assert set() == set(legacy) & {key for one in found for key in one}


def test_the_dashboard_has_the_schema_that_all_grafanas_migrate_from_and_is_not_edited() -> None:
    written = raw()

    assert (12, True) == (written["schemaVersion"], written["editable"])
    assert (39, False) == (finalise(written)["schemaVersion"], finalise(written)["editable"])


def test_nothing_is_null_but_the_base_of_thresholds() -> None:
    variables = core.Templating([core.Template(name="node", query="q")])
    written = raw(*(panel_of(kind) for kind in KINDS), templating=variables)

    assert "null" in json.dumps(written)
    assert "null" not in json.dumps(finalise(written))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (core.Threshold("red", 0, 0.0), {"color": "red", "value": None}),
        (core.Threshold("red", 1, 4.5), {"color": "red", "value": 4.5}),
        ({"color": "text", "value": None}, {"color": "text", "value": None}),
    ],
)
def test_a_step_of_thresholds_is_a_colour_and_a_value(given: Any, expected: Json) -> None:
    assert [expected] == steps(both(core.TimeSeries, thresholds=[given])[1])


def test_thresholds_are_no_text_and_those_of_overrides_keep_their_base() -> None:
    written, panel = both(core.Stat)
    value = {"mode": "absolute", "steps": [{"color": "green", "value": None}]}
    properties = [{"id": "thresholds", "value": value}]
    override = {"matcher": {"id": "byName", "options": "a"}, "properties": properties}

    _, overridden = both(core.TimeSeries, overrides=[override])

    assert "" == steps(written)
    assert "thresholds" not in panel["fieldConfig"]["defaults"]
    assert [override] == overridden["fieldConfig"]["overrides"]


def test_a_query_is_for_a_moment_or_for_a_range_with_its_step_if_it_has_one() -> None:
    targets = [target(instant=True), target(interval="15s")]
    written = raw(core.TimeSeries(title="a", gridPos=PLACE, targets=targets))

    first, second = finalise(written)["panels"][0]["targets"]
    assert (True, False) == (first["instant"], first["range"])
    assert (False, True) == (second["instant"], second["range"])
    assert (None, "15s") == (first.get("interval"), second["interval"])


def test_a_heat_map_has_options_and_overrides() -> None:
    written, panel = both(core.Heatmap)

    assert ([], {}) == (written["options"], panel["options"])
    assert "overrides" not in written["fieldConfig"]
    assert [] == panel["fieldConfig"]["overrides"]


def test_a_tables_fields_are_where_grafana_looks_for_them() -> None:
    mapping = {"type": "value", "options": {"1": {"text": "up"}}}
    chosen = {"fieldConfig": {"defaults": {"color": {"mode": "fixed"}}}}

    defaults = both(core.Table, mappings=[mapping])[1]["fieldConfig"]["defaults"]
    own = both(core.Table, extraJson=chosen)[1]["fieldConfig"]["defaults"]

    assert [mapping] == defaults["mappings"]
    assert ("thresholds", "fixed") == (defaults["color"]["mode"], own["color"]["mode"])
    assert {"type": "auto"} == defaults["custom"]["cellOptions"]
    assert "displayMode" not in defaults["custom"]


def test_a_heading_has_nothing_of_a_panel_and_those_in_it_are_finished() -> None:
    table = panel_of(core.Table)
    written = raw(core.RowPanel(title="Speed", gridPos=PLACE, collapsed=True, panels=[table]))

    (heading,) = finalise(written)["panels"]
    (inner,) = heading["panels"]
    assert {"collapsed", "gridPos", "id", "panels", "title", "type"} == set(heading)
    assert "fontSize" not in inner
    assert panel_id("Speed") == inner["id"] != heading["id"]


def test_a_variable_has_a_choice_only_where_something_is_chosen() -> None:
    """Nulls for a choice would be shown as blank until Grafana asks for the values."""
    limit = core.Template(name="limit", query="10,25", type="custom", default="25")
    written = raw(templating=core.Templating([core.Template(name="node", query="q"), limit]))

    node, found = finalise(written)["templating"]["list"]
    assert "current" not in node
    assert {"selected": True, "text": "25", "value": "25"} == found["current"]


def test_panels_have_ids_and_keep_them_when_others_come() -> None:
    other = core.Stat(title="Before", gridPos=PLACE, targets=[target()])

    after = finalise(raw(other, panel_of(core.Table)))

    assert panel_id("Speed") == after["panels"][1]["id"]
    assert all(1 <= panel_id(title) <= MAX_ID for title in ("", "Speed", "Überlast"))


def test_only_a_repeated_panel_speaks_of_repeating() -> None:
    repeated = core.Repeat(direction="h", variable="model", maxPerRow=3)

    assert not {"repeat", "repeatDirection", "maxPerRow"} & set(both(core.TimeSeries)[1])
    _, panel = both(core.TimeSeries, repeat=repeated)
    assert ("model", "h", 3) == (panel["repeat"], panel["repeatDirection"], panel["maxPerRow"])


def test_finalising_twice_changes_nothing_more() -> None:
    once = finalise(raw(*(panel_of(kind) for kind in KINDS)))

    assert "unit" not in once["panels"][-1]["fieldConfig"]["defaults"]
    assert once == finalise(copy.deepcopy(once))
