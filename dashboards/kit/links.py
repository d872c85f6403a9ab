"""Where clicks lead: from a table's cell to another dashboard, and between all of ours.

In:   the uid of a dashboard, and which columns give its variables.
Out:  links that keep data source, cluster and time range.
"""

from __future__ import annotations

from typing import Any

from dashboards.kit.fields import Json
from dashboards.kit.library import core

TAG = "ollama-fleet"
KEPT = "${datasource:queryparam}&${cluster:queryparam}"


def to_dashboard(title: str, uid: str, *columns: str, **variables: str) -> Json:
    """Return a cell's link to a dashboard.

    Args:
        title: What the pointer shows.
        uid: Of the dashboard.
        columns: Of the same row; each gives the variable of its own name.
        variables: Further ones, and what they are set to.
    """
    values = {column: f"${{__data.fields.{column}:percentencode}}" for column in columns}
    query = "&".join(f"var-{name}={value}" for name, value in {**values, **variables}.items())
    return {"title": title, "url": f"/d/{uid}?{KEPT}&{query}&${{__url_time_range}}"}


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
