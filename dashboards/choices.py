"""The variables, annotations and links that several dashboards share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

from alerts import names
from dashboards.kit import colours, controls
from dashboards.kit.controls import annotation, to_dashboard
from dashboards.kit.fields import Json
from dashboards.kit.panels import Column, Panel, PanelText, table
from dashboards.queries import fleet
from dashboards.queries.selectors import Selectors
from dashboards.settings import DashboardSettings

DISAGREEING = (
    "While replicas disagree, each status shows the highest count, so the sum can exceed the "
    "number of instances."
)
"""What is to be said wherever the rules' counts by status are stacked or added up."""


CANARY = "switch on the canary (--canary.period)"
"""What to do where servers do not report what a panel shows."""


class Uid(StrEnum):
    """The dashboards, by what their addresses end with; alerts link to them."""

    OVERVIEW = "ollama-fleet-overview"
    NODES = "ollama-fleet-nodes"
    MODELS = "ollama-fleet-models"
    INSTANCE = "ollama-fleet-instance"
    TRAFFIC = "ollama-fleet-traffic"
    EXPORTER = "ollama-fleet-exporter"


def common(settings: DashboardSettings, select: Selectors) -> tuple[Any, ...]:
    """Return what every dashboard begins with: the data source, the scrape job, the fleet."""
    return (
        controls.data_source(),
        controls.constant("job", settings.prometheus_job),
        cluster(select),
    )


def cluster(select: Selectors) -> Any:
    """Return the choice of the fleet; All also where series have no such label."""
    return controls.label_values("cluster", names.INSTANCES, label=select.cluster)


def node(select: Selectors) -> Any:
    """Return the choice of the node."""
    return controls.label_values("node", select.series(names.NODE_INSTANCES))


def model(select: Selectors) -> Any:
    """Return the choice of the model."""
    return controls.label_values("model", select.series(names.MODEL_INSTANCES))


def event_annotations(select: Selectors) -> tuple[Json, ...]:
    """Return what bends lines: alerts, and many instances that start at once."""
    return (
        annotation(
            "Critical alerts",
            fleet.annotated_alerts(select, "critical"),
            title="{{alertname}}",
            text="critical",
            colour=colours.BAD,
        ),
        annotation(
            "Warnings",
            fleet.annotated_alerts(select, "warning"),
            title="{{alertname}}",
            text="warning",
            colour=colours.WARNING,
            is_on=False,
        ),
        annotation(
            "Rotations and restarts",
            fleet.many_started(select),
            title="Many instances started",
            text="More than 2 % of the fleet within five minutes",
            colour=colours.PLAIN,
        ),
    )


def rows_by_cluster(
    select: Selectors,
    text: PanelText,
    *columns: Column,
    labels: Sequence[str],
    **more: Any,
) -> Panel:
    """Return a table whose rows are of one cluster each, so that their links can choose it.

    Grafana leaves the name of a column that is not there in the address: the first query gives
    every row one.
    """
    leading, *others = columns
    return table(
        text,
        replace(leading, expr=select.with_cluster(leading.expr)),
        *others,
        labels=(*labels, select.cluster),
        **more,
    )


def node_links(select: Selectors) -> list[Json]:
    """Return where the name of a node leads, from a row of one cluster."""
    return [to_dashboard("The node and its instances", Uid.NODES, "node", cluster=select.cluster)]


def model_links(select: Selectors) -> list[Json]:
    """Return where the name of a model leads, from a row of one cluster."""
    return [to_dashboard("The model", Uid.MODELS, "model", cluster=select.cluster)]


def instance_links(select: Selectors) -> list[Json]:
    """Return where the id of an instance leads, from a row of one cluster."""
    columns = ("node", "instance_id")
    return [to_dashboard("The instance", Uid.INSTANCE, *columns, cluster=select.cluster)]


def pipeline_links(select: Selectors) -> list[Json]:
    """Return where the address of an exporter or a provisioner leads, from a row of one cluster.

    It is not chosen there: the choice is among exporters, and an alert may name a provisioner.
    """
    title = "The exporters and provisioners"
    return [to_dashboard(title, Uid.EXPORTER, cluster=select.cluster)]
