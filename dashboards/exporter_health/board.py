"""The exporters and the pipeline behind them, for whoever doubts the other dashboards."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import Uid
from dashboards.exporter_health import alerting, figures, inventory, polls, provisioners, serving
from dashboards.kit import variables
from dashboards.kit.board import Board
from dashboards.kit.grid import Section, row
from dashboards.queries.select import Ask
from dashboards.settings import DashboardSettings
from exporter import catalogue

ALL_EXPORTERS = ".+"


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard for whoever doubts the others."""
    ask = Ask.of(settings)
    return Board(
        uid=Uid.EXPORTER,
        title="Exporter and pipeline",
        description="Whether the fleet's figures are fresh and whole, and whether alerts arrive.",
        scrape_interval=settings.scrape_interval,
        variables=_variables(ask),
        marks=choices.marks(ask)[:2],
        sections=(
            Section("", (row(4, *((4, panel) for panel in figures.panels(ask))),)),
            Section("Exporters", (row(7, (24, polls.exporters(ask))),)),
            polls.section(ask),
            inventory.section(ask),
            provisioners.section(ask),
            serving.page(ask),
            serving.process(ask),
            alerting.rules(ask),
            alerting.notifications(ask),
        ),
    )


def _variables(ask: Ask) -> tuple[object, ...]:
    known = ask.series(catalogue.EXPORTER_BUILD_INFO)
    of_job = ask.series(catalogue.EXPORTER_BUILD_INFO, 'job=~"$job"')
    return (
        variables.data_source(),
        choices.cluster(ask),
        variables.label_values("job", known, all_value=ALL_EXPORTERS, is_multi=True),
        variables.label_values("instance", of_job, all_value=ALL_EXPORTERS, is_multi=True),
    )
