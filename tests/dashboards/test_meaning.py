"""What a reader takes from a panel beside the value: its unit, its words and colours, its order.

Each table of `meanings` is of the whole collection, so that a panel that nobody wrote down there is
a failure as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from dashboards.choices import Uid
from dashboards.kit.colours import BAD, PLAIN, WARNING
from dashboards.queries import fleet
from dashboards.settings import DashboardSettings
from tests.dashboards.expansion import panels
from tests.dashboards.meanings import (
    COLOURS,
    COLUMN_UNITS,
    JUDGED,
    LINKS,
    ORDERS,
    STEPS,
    UNITS,
    WORDS,
    Key,
)
from tests.dashboards.shipped import document
from tests.dashboards.values.case import ASK

Json = dict[str, Any]
PANELS = {(uid, panel["title"]): panel for uid in Uid for panel in panels(document(uid))}


def overridden(panel: Json, key: str) -> Iterator[tuple[str, Any]]:
    """Yield (series or column, value) of every override of one property."""
    for override in panel["fieldConfig"]["overrides"]:
        for each in override["properties"]:
            if key == each["id"]:
                yield override["matcher"]["options"], each["value"]


def words(mappings: Sequence[Json]) -> dict[str, tuple[str, str]]:
    return {
        value: (shown["text"], shown["color"])
        for mapping in mappings
        for value, shown in mapping["options"].items()
    }


def of_all(read: Any) -> dict[Key, Any]:
    """Return what is read of each panel, where it is anything."""
    found = {key: read(panel) for key, panel in PANELS.items()}
    return {key: value for key, value in found.items() if value}


@pytest.mark.parametrize("uid", list(Uid))
def test_every_panel_has_the_unit_of_its_values(uid: Uid) -> None:
    expected = {title: unit for unit, titles in UNITS[uid].items() for title in titles}

    assert expected == {
        title: panel["fieldConfig"]["defaults"]["unit"]
        for (of, title), panel in PANELS.items()
        if uid == of and panel["type"] != "table"
    }


def test_every_column_has_the_unit_of_its_values() -> None:
    assert COLUMN_UNITS == of_all(lambda panel: dict(overridden(panel, "unit")))


def test_every_table_is_in_an_order_that_puts_first_what_matters() -> None:
    tables = {key: panel for key, panel in PANELS.items() if panel["type"] == "table"}

    assert ORDERS == {
        key: [(one["displayName"], one["desc"]) for one in panel["options"].get("sortBy", [])]
        for key, panel in tables.items()
    }


def test_severities_sort_with_the_critical_ones_first() -> None:
    """As text, which is how Grafana sorts that column."""
    severities = WORDS[Uid.OVERVIEW, "Alerts that fire"]["severity"]

    assert "critical" == min(severities)


def test_values_are_called_what_they_mean() -> None:
    def read(panel: Json) -> Json:
        own = panel["fieldConfig"]["defaults"].get("mappings", [])
        named = {name: words(value) for name, value in overridden(panel, "mappings")}
        return {**named, **({"": words(own)} if own else {})}

    assert WORDS == of_all(read)


def test_figures_turn_where_they_are_bad() -> None:
    assert STEPS == of_all(
        lambda panel: {
            name: [(step["value"], step["color"]) for step in value["steps"]]
            for name, value in overridden(panel, "thresholds")
        }
    )


@pytest.mark.parametrize("title", JUDGED)
def test_the_good_side_of_a_figure_is_green_and_the_bad_one_red(title: str) -> None:
    judged, unit, (good, bad) = JUDGED[title]
    panel = PANELS[Uid.OVERVIEW, title]
    asked = {target["legendFormat"]: target["expr"] for target in panel["targets"]}

    assert judged.good == asked[good]
    assert judged.bad == asked[bad]
    assert judged.unknown == asked[f"{good}, no limit known"]
    assert unit == panel["fieldConfig"]["defaults"]["unit"]


def test_colours_say_what_is_well() -> None:
    for key, expected in COLOURS.items():
        found = {name: value["fixedColor"] for name, value in overridden(PANELS[key], "color")}
        assert expected == {name: found[name] for name in expected}, key


def test_links_lead_from_a_name_to_what_it_names() -> None:
    def read(panel: Json) -> Json:
        return {
            name: (
                Uid(link["url"].partition("?")[0].removeprefix("/d/")),
                tuple(re.findall(r"&var-(?!cluster)\w+=\$\{__data\.fields\.(\w+)", link["url"])),
            )
            for name, found in overridden(panel, "links")
            for link in found
        }

    assert LINKS == of_all(read)


def test_what_counts_per_minute_is_asked_for_per_minute() -> None:
    (target,) = PANELS[Uid.EXPORTER, "Passes over the fleet"]["targets"]

    assert target["expr"].startswith("60 * sum by (cluster, job, instance) (rate(")


def test_shares_go_up_to_one() -> None:
    for key in ((Uid.MODELS, "Healthy share by model"), (Uid.EXPORTER, "Open files")):
        assert 1 == PANELS[key]["fieldConfig"]["defaults"]["max"]


def test_the_series_of_a_band_are_asked_for_by_their_quantiles() -> None:
    expected: Mapping[Key, Mapping[str, str]] = {
        (Uid.OVERVIEW, "Latency, p99"): {
            "p99 of instances": "0.99", "p90 of instances": "0.9", "p50 of instances": "0.5",
        },
        (Uid.MODELS, "Speed per instance, median"): {"{{model}}": "0.5"},
        (Uid.MODELS, "Speed per instance, slowest tenth"): {"{{model}}": "0.1"},
        (Uid.MODELS, "Latency, p99 of the slowest instances"): {"{{model}}": "0.99"},
        (Uid.MODELS, "Speed of $model"): {
            "median": "0.5", "slowest tenth": "0.1", "slowest hundredth": "0.01",
        },
        (Uid.MODELS, "Latency of $model"): {
            "slowest hundredth": "0.99", "slowest tenth": "0.9", "median": "0.5",
        },
    }  # fmt: skip
    found = {
        key: {
            target["legendFormat"]: quantile[1]
            for target in PANELS[key]["targets"]
            if (quantile := re.search(r'quantile="([\d.]+)"', target["expr"]))
        }
        for key in expected
    }

    assert expected == found


def test_the_marks_are_the_queries_of_their_names() -> None:
    annotations = {one["name"]: one for one in document(Uid.OVERVIEW)["annotations"]["list"]}

    assert fleet.annotated_alerts(ASK, "critical") == annotations["Critical alerts"]["expr"]
    assert fleet.annotated_alerts(ASK, "warning") == annotations["Warnings"]["expr"]
    assert fleet.many_started(ASK) == annotations["Rotations and restarts"]["expr"]
    assert (BAD, WARNING, PLAIN) == tuple(
        annotations[name]["iconColor"]
        for name in ("Critical alerts", "Warnings", "Rotations and restarts")
    )


def test_all_of_this_is_of_the_default_settings() -> None:
    assert DashboardSettings().scope == ASK.scope
