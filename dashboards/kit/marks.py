"""What is marked on every chart of a dashboard: alerts, and whatever explains a bend in a line."""

from __future__ import annotations

from typing import Any

from dashboards.kit.fields import Json
from dashboards.kit.panels import DATA_SOURCE

BUILT_IN: Json = {
    "builtIn": 1,
    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    "enable": True,
    "hide": True,
    "iconColor": "rgba(0, 211, 255, 1)",
    "name": "Annotations & Alerts",
    "type": "dashboard",
}


def marked(
    name: str, expr: str, *, title: str, text: str, colour: str, is_on: bool = True
) -> dict[str, Any]:
    """Return marks wherever a query has a value; title and text may use `{{label}}`."""
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
