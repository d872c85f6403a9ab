"""The overview, as the on-call opens it."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import Uid
from dashboards.kit import variables
from dashboards.kit.board import Board
from dashboards.overview import capacity, changes, now, requests, where
from dashboards.queries.select import Ask
from dashboards.settings import DashboardSettings


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard that the pages of the on-call link to."""
    ask = Ask.of(settings)
    return Board(
        uid=Uid.OVERVIEW,
        title="Overview",
        description="Whether the fleet is well: instances, speed, latency, errors, alerts.",
        scrape_interval=settings.scrape_interval,
        variables=(variables.data_source(), choices.cluster(ask)),
        marks=choices.marks(ask),
        since="now-3h",
        sections=(
            now.section(ask),
            capacity.section(ask),
            requests.section(ask),
            where.section(ask),
            changes.section(ask),
        ),
    )
