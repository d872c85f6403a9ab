"""Grafana's own schema, as grafana-foundation-sdk has it, knows all that our dashboards hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from dashboards.choices import Uid
from tests.dashboards import sdk
from tests.dashboards.expansion import panels
from tests.dashboards.shipped import document

Json = dict[str, Any]
TITLE = "Token throughput by model"


def changed(change: Callable[[Json], object]) -> Json:
    """Return the overview after a change of one of its charts."""
    dashboard = copy.deepcopy(document(Uid.OVERVIEW))
    change(next(panel for panel in panels(dashboard) if panel["title"] == TITLE))
    return dashboard


@pytest.mark.parametrize("uid", list(Uid))
def test_the_schema_knows_all_that_is_in_our_dashboards(uid: Uid) -> None:
    assert [] == sdk.unknown(document(uid))


def test_every_type_of_panel_that_we_use_has_a_model() -> None:
    used = {panel["type"] for uid in Uid for panel in panels(document(uid))}

    assert set() == {kind for kind in used if not sdk.has_model(kind)}
    assert {"heatmap", "stat", "state-timeline", "table", "timeseries"} <= used


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda panel: panel.update(span=4), ".span"),
        (lambda panel: panel["gridPos"].update(z=1), ".gridPos.z"),
        (lambda panel: panel["options"].update(reduceOptions={}), ".options.reduceOptions"),
        (lambda panel: panel["options"]["legend"].update(a=1), ".options.legend.a"),
        (lambda panel: panel["targets"][0].update(query="up"), ".targets[0].query"),
        (lambda panel: panel["datasource"].update(name="x"), ".datasource.name"),
        (
            lambda panel: panel["fieldConfig"]["defaults"].update(format="s"),
            ".fieldConfig.defaults.format",
        ),
        (
            lambda panel: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0].update(
                op="gt"
            ),
            ".fieldConfig.defaults.thresholds.steps[0].op",
        ),
        (
            lambda panel: panel["fieldConfig"]["defaults"]["custom"].update(displayMode="auto"),
            f"{TITLE}: timeseries has no custom.displayMode",
        ),
        (
            lambda panel: panel["fieldConfig"]["overrides"][0]["properties"].append(
                {"id": "custom.colour", "value": 1}
            ),
            f"{TITLE}: timeseries has no custom.colour",
        ),
        (
            lambda panel: panel["fieldConfig"]["overrides"][0]["properties"].append(
                {"id": "units", "value": "s"}
            ),
            f"{TITLE}: timeseries has no units",
        ),
        (
            lambda panel: panel.update(
                type="stat",
                options={},
                fieldConfig={"defaults": {"custom": {"a": 1}}, "overrides": []},
            ),
            f"{TITLE}: stat has no custom.a",
        ),
    ],
)
def test_what_the_schema_does_not_know_is_found(
    change: Callable[[Json], object], place: str
) -> None:
    assert [] != [found for found in sdk.unknown(changed(change)) if found.endswith(place)]


@pytest.mark.parametrize("key", ["useTags", "tagsQuery"])
def test_what_the_schema_of_variables_does_not_know_is_found(key: str) -> None:
    dashboard = copy.deepcopy(document(Uid.OVERVIEW))
    dashboard["templating"]["list"][0][key] = "x"

    assert [f".templating.list[0].{key}"] == sdk.unknown(dashboard)


def test_a_data_source_that_is_null_has_a_wrong_shape() -> None:
    """As grafanalib writes it of itself."""
    with pytest.raises(TypeError, match="NoneType"):
        sdk.unknown(changed(lambda panel: panel.update(datasource=None)))


@pytest.mark.parametrize(
    ("given", "written", "places"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, []),
        ({"a": 1}, {"a": 2}, [".a"]),
        ({"a": {"b": None}}, {"a": {}}, [".a.b"]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, [".a[1].b"]),
        ({"a": [1]}, {"a": [1, 2]}, [".a"]),
        ({"a": {}}, {"a": []}, [".a"]),
    ],
)
def test_what_is_not_written_back_as_it_was_is_a_difference(
    given: Json, written: Json, places: list[str]
) -> None:
    assert places == list(sdk.differences(given, written))
