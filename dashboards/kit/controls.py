"""What a reader moves about with: variables, links between dashboards, annotations on charts."""

from __future__ import annotations

from typing import Any

from grafanalib import core

from dashboards.kit.fields import Json
from dashboards.kit.panels import DATA_SOURCE

ON_TIME_RANGE_CHANGE = 2
ALL = {"selected": True, "text": "All", "value": "$__all"}


def data_source() -> Any:
    """Return the choice of the Prometheus; all else asks this one."""
    return core.Template(
        name="datasource",
        type="datasource",
        query="prometheus",
        label="Data source",
        refresh=core.REFRESH_ON_DASHBOARD_LOAD,
    )


def label_values(
    name: str,
    selector: str,
    *,
    label: str | None = None,
    all_value: str | None = ".*",
    is_multi: bool = False,
) -> Any:
    """Return a choice among the values of a series' label.

    Args:
        name: Of the variable; the label's too unless `label` says otherwise.
        selector: The series; may name variables that come before.
        label: Of the series.
        all_value: What All stands for, a regular expression: `.*` also takes series without the
            label. None where All cannot be chosen.
        is_multi: Whether several can be chosen.
    """
    query = f"label_values({selector}, {label or name})"
    template = core.Template(
        name=name,
        label=name,
        query={"query": query, "refId": f"variable-{name}", "qryType": 1},
        dataSource=DATA_SOURCE,
        includeAll=all_value is not None,
        allValue=all_value,
        multi=is_multi,
        refresh=ON_TIME_RANGE_CHANGE,
    )
    if all_value is not None:
        template._current = {**ALL, **({"text": ["All"], "value": ["$__all"]} if is_multi else {})}
    return template


def constant(name: str, value: str) -> Any:
    """Return a value that all queries use and nobody chooses."""
    template = core.Template(
        name=name,
        label=name,
        type="constant",
        query=value,
        hide=core.HIDE_VARIABLE,
        refresh=core.REFRESH_NEVER,
    )
    template._current = {"selected": True, "text": value, "value": value}
    return template


def limit(*choices: int, default: int) -> Any:
    """Return the choice of how many rows tables have."""
    return core.Template(
        name="limit",
        label="limit",
        type="custom",
        query=",".join(str(choice) for choice in choices),
        default=str(default),
        refresh=core.REFRESH_NEVER,
    )


TAG = "ollama-fleet"
CHOSEN_DATA_SOURCE = "${datasource:queryparam}"
CLUSTER = "${cluster:queryparam}"
"""As it is chosen on the dashboard that one leaves."""


def to_dashboard(title: str, uid: str, *columns: str, cluster: str | None = None) -> Json:
    """Return a cell's link to a dashboard.

    Args:
        title: What the pointer shows.
        uid: Of the dashboard.
        columns: Of the same row; each gives the variable of its own name.
        cluster: The column that gives the cluster, where rows are of different ones.
    """
    kept = [CHOSEN_DATA_SOURCE, _chosen("cluster", cluster) if cluster else CLUSTER]
    query = "&".join([*kept, *(_chosen(column, column) for column in columns)])
    return {"title": title, "url": f"/d/{uid}?{query}&${{__url_time_range}}"}


def _chosen(variable: str, column: str) -> str:
    return f"var-{variable}=${{__data.fields.{column}:percentencode}}"


def between_dashboards() -> list[Any]:
    """Return the bar with which one gets from each of our dashboards to any other."""
    return [
        core.DashboardLink(
            title="ollama-fleet",
            type="dashboards",
            tags=[TAG],
            asDropdown=False,
            includeVars=True,
            keepTime=True,
        )
    ]


BUILT_IN: Json = {
    "builtIn": 1,
    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    "enable": True,
    "hide": True,
    "iconColor": "rgba(0, 211, 255, 1)",
    "name": "Annotations & Alerts",
    "type": "dashboard",
}


def annotation(
    name: str, expr: str, *, title: str, text: str, colour: str, is_on: bool = True
) -> dict[str, Any]:
    """Return annotations wherever a query has a value; title and text may use `{{label}}`."""
    return {
        "name": name,
        "datasource": DATA_SOURCE,
        "enable": is_on,
        "hide": False,
        "iconColor": colour,
        "expr": expr,
        "step": "60s",
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": "",
        "useValueForTime": False,
    }
