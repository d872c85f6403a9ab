"""Where clicks lead: from a table's cell to another dashboard, and between all of ours.

In:   the uid of a dashboard, and which columns give its variables.
Out:  links that keep data source, cluster and time range.
"""

from __future__ import annotations

from typing import Any

from dashboards.kit.fields import Json
from dashboards.kit.library import core

TAG = "ollama-fleet"
DATA_SOURCE = "${datasource:queryparam}"
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
    kept = [DATA_SOURCE, _chosen("cluster", cluster) if cluster else CLUSTER]
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
