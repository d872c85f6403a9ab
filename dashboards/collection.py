"""All dashboards, from the fleet down to the exporters, and their list for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dashboards import exporter_health, instance, models, nodes, overview, traffic
from dashboards.kit.board import Board, document
from dashboards.settings import DashboardSettings
from ollama_fleet.tables import table

MAKERS = (
    overview.dashboard,
    nodes.dashboard,
    models.dashboard,
    instance.dashboard,
    traffic.dashboard,
    exporter_health.dashboard,
)


def boards(settings: DashboardSettings) -> tuple[Board, ...]:
    """Return every dashboard under these settings."""
    return tuple(make(settings) for make in MAKERS)


def text(settings: DashboardSettings) -> str:
    """Return a line per dashboard."""
    rows = [
        (
            one["uid"],
            one["title"],
            str(len(one["panels"])),
            str(sum(len(panel["queries"]) for panel in one["panels"])),
        )
        for one in as_json(settings)
    ]
    return table(("UID", "TITLE", "PANELS", "QUERIES"), rows)


def as_json(settings: DashboardSettings) -> list[dict[str, Any]]:
    """Return each dashboard with its panels and their queries."""
    return [_described(board) for board in boards(settings)]


def _described(board: Board) -> dict[str, Any]:
    content = document(board)
    return {
        "uid": content["uid"],
        "title": content["title"],
        "description": board.description,
        "variables": [variable["name"] for variable in content["templating"]["list"]],
        "panels": [
            {
                "title": panel["title"],
                "description": panel["description"],
                "queries": [target["expr"] for target in panel["targets"]],
            }
            for panel in _shown(content["panels"])
        ],
    }


def _shown(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the panels that show something, those of collapsed sections too."""
    for panel in panels:
        if panel["type"] == "row":
            yield from _shown(panel["panels"])
        else:
            yield panel
