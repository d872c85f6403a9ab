"""Where to look: the alerts that fire, the nodes with most errors."""

from __future__ import annotations

from dashboards import choices
from dashboards.kit import colours, fields
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Column, Panel, Words
from dashboards.queries import fleet, nodes
from dashboards.queries.select import Ask

TOP_NODES = "10"


def section(ask: Ask) -> Section:
    """Return the tables that name what is wrong."""
    return Section("Where", (row(9, (13, _firing(ask)), (11, _worst_nodes(ask))),))


def _firing(ask: Ask) -> Panel:
    words = Words(
        title="Alerts that fire",
        description="Critical ones first, of each severity those that have been active longest, "
        f"{fleet.MAX_ALERTS} at most. Each has a runbook of its name. "
        "Series: ALERTS, ALERTS_FOR_STATE.",
        no_data="No alert fires.",
    )
    severity = {name: (name, colour) for name, colour in colours.SEVERITIES.items()}
    panel = choices.rows_by_cluster(
        ask,
        words,
        Column(name="active since", expr=fleet.alerts_since(ask), unit="dateTimeFromNow"),
        labels=("severity", "alertname", "node", "model", "instance"),
        links={
            "node": choices.node_links(ask),
            "model": choices.model_links(ask),
            "instance": choices.pipeline_links(ask),
        },
        further=[fields.override("severity", fields.coloured_cell(severity))],
        sort=[("severity", False), ("active since", False)],
    )
    return panel.optional()


def _worst_nodes(ask: Ask) -> Panel:
    words = Words(
        title="Nodes with most errors",
        description="Failed requests per second, and which share of the fleet's that is. One node "
        "with a large share is broken; many with small ones are not the cause. "
        "Series: node:ollama_errors:rate5m.",
        no_data="No node has failed requests.",
    )
    panel = choices.rows_by_cluster(
        ask,
        words,
        Column(name="errors/s", expr=nodes.errors_most(ask, TOP_NODES), unit="reqps"),
        Column(name="share", expr=nodes.errors_share(ask, TOP_NODES), unit="percentunit"),
        labels=("node",),
        links={"node": choices.node_links(ask)},
        sort=[("errors/s", True)],
    )
    return panel.optional()
