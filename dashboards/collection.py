"""All dashboards, in the order in which one reads them.

In:   settings.
Out:  Boards: from the fleet down to one instance, and last what watches all of that.
"""

from __future__ import annotations

from dashboards import instance, models, nodes
from dashboards.exporter_health import board as exporter_health
from dashboards.kit.board import Board
from dashboards.overview import board as overview
from dashboards.settings import DashboardSettings

MAKERS = (
    overview.dashboard,
    nodes.dashboard,
    models.dashboard,
    instance.dashboard,
    exporter_health.dashboard,
)


def boards(settings: DashboardSettings) -> tuple[Board, ...]:
    """Return every dashboard under these settings."""
    return tuple(make(settings) for make in MAKERS)
