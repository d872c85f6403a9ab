"""The variables and marks that several dashboards share.

In:   settings.
Out:  grafanalib's templates, and annotations. The uids of all dashboards are here as well, since
      each links to others.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from alerts import names
from dashboards.kit import colours, variables
from dashboards.kit.fields import Json
from dashboards.kit.links import to_dashboard
from dashboards.kit.marks import marked
from dashboards.queries import fleet
from dashboards.queries.select import Ask


class Uid(StrEnum):
    """The dashboards, by what their addresses end with; alerts link to them."""

    OVERVIEW = "ollama-fleet-overview"
    NODES = "ollama-fleet-nodes"
    MODELS = "ollama-fleet-models"
    INSTANCE = "ollama-fleet-instance"
    EXPORTER = "ollama-fleet-exporter"


def cluster(ask: Ask) -> Any:
    """Return the choice of the fleet; All also where series have no such label."""
    return variables.label_values("cluster", names.INSTANCES, label=ask.cluster)


def node(ask: Ask) -> Any:
    """Return the choice of the node."""
    return variables.label_values("node", ask.series(names.NODE_INSTANCES))


def model(ask: Ask) -> Any:
    """Return the choice of the model."""
    return variables.label_values("model", ask.series(names.MODEL_INSTANCES))


def marks(ask: Ask) -> tuple[Json, ...]:
    """Return what bends lines: alerts, and many instances that start at once."""
    return (
        marked(
            "Critical alerts",
            fleet.alert_marks(ask, "critical"),
            title="{{alertname}}",
            text="critical",
            colour=colours.BAD,
        ),
        marked(
            "Warnings",
            fleet.alert_marks(ask, "warning"),
            title="{{alertname}}",
            text="warning",
            colour=colours.WARNING,
            is_on=False,
        ),
        marked(
            "Rotations and restarts",
            fleet.many_started(ask),
            title="Many instances started",
            text="More than 2 % of the fleet within five minutes",
            colour=colours.PLAIN,
        ),
    )


def node_links() -> list[Json]:
    """Return where the name of a node leads."""
    return [to_dashboard("The node and its instances", Uid.NODES, "node")]


def model_links() -> list[Json]:
    """Return where the name of a model leads."""
    return [to_dashboard("The model", Uid.MODELS, "model")]


def instance_links() -> list[Json]:
    """Return where the id of an instance leads."""
    return [to_dashboard("The instance", Uid.INSTANCE, "node", "instance_id")]


def exporter_links() -> list[Json]:
    """Return where the address of an exporter leads."""
    return [to_dashboard("The exporter", Uid.EXPORTER, "instance")]
