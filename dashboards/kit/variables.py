"""The variables at the top of a dashboard, with which its queries are narrowed.

In:   names, and the query that lists the choices.
Out:  grafanalib's templates. Choices follow the time range and are never typed by hand.
"""

from __future__ import annotations

from typing import Any

from dashboards.kit.library import core
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
