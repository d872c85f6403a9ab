"""The panels that our dashboards are made of, each from its queries and texts."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grafanalib import core

from dashboards.kit import fields
from dashboards.kit.fields import Json

DATA_SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
MAX_POINTS = 500
"""More than a screen shows apart; each costs Prometheus as much as the first."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question to Prometheus."""

    expr: str
    legend: str = ""
    """Name of the series; `{{label}}` where there are several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelText:
    """What a panel says of itself."""

    title: str
    description: str
    no_data: str
    """What it means that there is nothing to show."""
    unit: str = "short"
    """An id of Grafana's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table: one instant query."""

    name: str
    expr: str
    unit: str = "none"
    overrides: Json = field(default_factory=dict)
    """Further properties, such as `mappings`."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel, not yet placed."""

    body: Any
    """grafanalib's panel."""
    may_be_empty: bool = False
    """Whether a healthy fleet may have nothing to show here."""

    @property
    def title(self) -> str:
        """Return the title, unique within a dashboard."""
        return str(self.body.title)

    def optional(self) -> Panel:
        """Return the same panel, for which it is no fault to be empty."""
        return replace(self, may_be_empty=True)


def stat(
    text: PanelText, *queries: Query, overrides: Sequence[Json] = (), **defaults: Any
) -> Panel:
    """Return the last value of each query, large, with its name."""
    body = core.Stat(
        **_common(text, _targets(queries, is_instant=True)),
        format=text.unit,
        noValue=text.no_data,
        reduceCalc="lastNotNull",
        graphMode="none",
        textMode="value_and_name",
        orientation="horizontal",
        thresholds=fields.steps(base="text"),
        overrides=list(overrides),
        extraJson={
            "fieldConfig": {"defaults": {"color": {"mode": "thresholds"}, **defaults}},
            "options": {
                "wideLayout": True,
                "showPercentChange": False,
                "percentChangeColorMode": "standard",
            },
        },
    )
    return Panel(body)


def chart(
    text: PanelText,
    *queries: Query,
    overrides: Sequence[Json] = (),
    is_stacked: bool = False,
    is_bars: bool = False,
    repeat: str | None = None,
    **defaults: Any,
) -> Panel:
    """Return series over time; the values of all at the pointer, the highest first."""
    body = core.TimeSeries(
        **_common(text, _targets(queries)),
        unit=text.unit,
        drawStyle="bars" if is_bars else "line",
        fillOpacity=60 if is_stacked or is_bars else 0,
        stacking={"mode": "normal" if is_stacked else "none", "group": "A"},
        showPoints="never",
        tooltipMode="multi",
        tooltipSort="none" if is_stacked else "desc",
        overrides=list(overrides),
        repeat=core.Repeat(direction="h", variable=repeat, maxPerRow=3)
        if repeat
        else core.Repeat(),
        extraJson={
            "fieldConfig": {
                "defaults": {
                    "noValue": text.no_data,
                    "min": 0,
                    "thresholds": {"mode": "absolute", "steps": fields.steps()},
                    "custom": {"insertNulls": False, "axisColorMode": "text"},
                    **defaults,
                }
            },
            "options": {"legend": {"showLegend": True}},
        },
    )
    return Panel(body)


def table(
    text: PanelText,
    *columns: Column,
    labels: Sequence[str],
    facts: Sequence[str] = (),
    links: Mapping[str, Sequence[Json]] | None = None,
    hidden_labels: Sequence[str] = (),
    further: Sequence[Json] = (),
    sort: Sequence[tuple[str, bool]] = (),
) -> Panel:
    """Return one row per set of labels and one column per query, all of one moment.

    Args:
        text: What it says of itself; the unit is of columns that have none of their own.
        columns: The first leads: where it has no row, neither has any other.
        labels: Columns of names, in this order.
        facts: Queries whose labels alone are shown, in the rows that share their others.
        links: By label, where a click leads.
        hidden_labels: Labels that are no columns.
        further: Overrides, of columns of names for instance.
        sort: Columns, and whether the highest value of each comes first; the first counts most.
    """
    queries = [
        *(Query(column.expr, column.name) for column in columns),
        *(Query(fact, f"facts {number}") for number, fact in enumerate(facts, 1)),
    ]
    names = dict(zip(string.ascii_uppercase, (column.name for column in columns), strict=False))
    unnamed = string.ascii_uppercase[len(columns) : len(queries)]
    hidden = (*hidden_labels, *(f"Value #{ref_id}" for ref_id in unnamed))
    transformations = fields.joined_table(labels, names, hidden)
    body = core.Table(
        **_common(text, _targets(queries, is_instant=True, form="table")),
        unit=text.unit,
        transformations=transformations,
        overrides=[*_table_overrides(columns, links or {}), *further],
        sortBy=[core.TableSortByField(*one) for one in sort],
        extraJson={
            "fieldConfig": {
                "defaults": {
                    "noValue": text.no_data,
                    "thresholds": {"mode": "absolute", "steps": fields.steps(base="text")},
                    "custom": {"inspect": False},
                }
            },
            "options": {"cellHeight": "sm", "frameIndex": 0},
        },
    )
    return Panel(body)


def _table_overrides(columns: Sequence[Column], links: Mapping[str, Sequence[Json]]) -> list[Json]:
    linked = [fields.override(label, {"links": list(to)}) for label, to in links.items()]
    return linked + [
        fields.override(column.name, {"unit": column.unit, **column.overrides})
        for column in columns
    ]


def heat_map(text: PanelText, query: Query) -> Panel:
    """Return how a histogram's counts move over time; colour says how many."""
    target = _targets([query], form="heatmap")
    options = {
        "calculate": False,
        "yAxis": {"unit": text.unit, "axisPlacement": "left", "reverse": False},
        "rowsFrame": {"layout": "auto"},
        "color": {"mode": "scheme", "scheme": "Viridis", "steps": 64, "exponent": 0.5,
                  "reverse": False, "scale": "exponential", "fill": "dark-orange"},
        "cellGap": 1,
        "cellValues": {"unit": "reqps"},
        "filterValues": {"le": 1e-9},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": True},
        "legend": {"show": True},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
    }  # fmt: skip
    body = core.Heatmap(
        **_common(text, target),
        extraJson={
            "fieldConfig": {"defaults": {"noValue": text.no_data, "unit": text.unit}},
            "options": options,
        },
    )
    return Panel(body)


def state_timeline(text: PanelText, *queries: Query, mappings: Sequence[Json]) -> Panel:
    """Return which state each query was in, over time, as bars."""
    body = core.StateTimeline(
        **_common(text, _targets(queries)),
        mappings=list(mappings),
        showValue="never",
        extraJson={
            "fieldConfig": {
                "defaults": {
                    "noValue": text.no_data,
                    "unit": text.unit,
                    "thresholds": {"mode": "absolute", "steps": fields.steps(base="text")},
                },
                "overrides": [],
            },
            "options": {
                "legend": {"showLegend": True, "calcs": []},
                "tooltip": {"sort": "none"},
            },
        },
    )
    return Panel(body)


def _common(text: PanelText, targets: list[Any]) -> Json:
    return {
        "title": text.title,
        "description": text.description,
        "dataSource": DATA_SOURCE,
        "targets": targets,
        "maxDataPoints": MAX_POINTS,
    }


def _targets(
    queries: Sequence[Query], *, is_instant: bool = False, form: str = "time_series"
) -> list[Any]:
    return [
        core.Target(
            expr=query.expr,
            legendFormat=query.legend or "__auto",
            instant=is_instant,
            format=form,
            refId=ref_id,
            datasource=DATA_SOURCE,
        )
        for ref_id, query in zip(string.ascii_uppercase, queries, strict=False)
    ]
