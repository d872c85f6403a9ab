"""Who keeps the fleet as it is to be, where a provisioner does."""

from __future__ import annotations

from dashboards.kit import colours, fields
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Panel, Query, Words, chart
from dashboards.queries import provisioner
from dashboards.queries.select import Ask

NO_PROVISIONER = "Prometheus scrapes no provisioner."
NO_LEADER = "No provisioner leads, or Prometheus scrapes none."


def section(ask: Ask) -> Section:
    """Return the charts of the provisioners."""
    return Section(
        "Provisioner",
        (row(8, (6, _leaders(ask)), (6, _instances(ask)), (6, _nodes(ask)), (6, _ages(ask))),),
    )


def _leaders(ask: Ask) -> Panel:
    words = Words(
        title="Provisioner that leads",
        description="Of the one that leads 1, of those that stand by 0. Good: exactly one is at 1. "
        "None: nothing that fails is replaced. Several: they have different stores. "
        "Series: ollama_provisioner_leader.",
        no_data=NO_PROVISIONER,
        unit="none",
    )
    return chart(words, Query(provisioner.leaders(ask), "{{instance}}")).optional()


def _instances(ask: Ask) -> Panel:
    words = Words(
        title="Instances as wanted",
        description="What the specification asks for, what of it runs, is healthy and up to date, "
        "and what cannot be started. Good: as many as wanted; in a roll-out the line climbs. "
        "Series: ollama_provisioner_wanted_instances, ollama_provisioner_instances_as_wanted, "
        "ollama_provisioner_instances.",
        no_data=NO_LEADER,
        unit="none",
    )
    return chart(
        words,
        Query(provisioner.as_wanted(ask), "as wanted"),
        Query(provisioner.failed(ask), "failed"),
        Query(provisioner.wanted(ask), "wanted"),
        overrides=[
            fields.coloured("as wanted", colours.GOOD),
            fields.coloured("failed", colours.BAD),
            fields.limit_line("wanted"),
        ],
    ).optional()


def _nodes(ask: Ask) -> Panel:
    words = Words(
        title="Nodes out of reach",
        description="Nodes whose runtime does not answer the provisioner that leads. Good: none; "
        "its log names them. Series: ollama_provisioner_unreachable_nodes.",
        no_data=NO_LEADER,
        unit="none",
    )
    return chart(words, Query(provisioner.unreachable_nodes(ask), "nodes")).optional()


def _ages(ask: Ask) -> Panel:
    words = Words(
        title="Since the last pass and the last word of the store",
        description="How long ago the leader looked over the whole fleet, and how old each "
        "provisioner's view of the store is. Good: seconds. Series: "
        "ollama_provisioner_last_pass_timestamp_seconds, "
        "ollama_provisioner_view_timestamp_seconds.",
        no_data=NO_PROVISIONER,
        unit="s",
    )
    return chart(
        words,
        Query(provisioner.pass_age(ask), "last pass"),
        Query(provisioner.view_age(ask), "view of {{instance}}"),
    ).optional()
