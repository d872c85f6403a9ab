"""What changed: starts, rotation, versions."""

from __future__ import annotations

from dashboards.kit import colours, fields
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Panel, Query, Words, chart, stat
from dashboards.overview.words import NO_FLEET
from dashboards.queries import fleet
from dashboards.queries.select import Ask


def section(ask: Ask) -> Section:
    """Return what may explain a bend in a line."""
    return Section(
        "What changed",
        (
            row(
                7,
                (6, _started(ask)),
                (6, _on_purpose(ask)),
                (7, _versions(ask)),
                (5, _rotation(ask)),
            ),
        ),
    )


def _started(ask: Ask) -> Panel:
    words = Words(
        title="Instances started",
        description="That started within the five minutes before. Even and low is rotation; a peak "
        "is a rollout, or a crash of many. Series: node:ollama_instances_started:count.",
        no_data="None started, or no instance tells when it did.",
        unit="none",
    )
    return chart(words, Query(fleet.started(ask), "started"), is_bars=True).optional()


def _on_purpose(ask: Ask) -> Panel:
    words = Words(
        title="Provisioning and draining",
        description="Instances that are missing on purpose. Provisioning that does not end: the "
        "provisioner is stuck. Series: fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    statuses = ("provisioning", "draining")
    return chart(
        words,
        *(Query(fleet.instances(ask, status), status) for status in statuses),
        overrides=[fields.coloured(status, colours.STATUSES[status]) for status in statuses],
    )


def _versions(ask: Ask) -> Panel:
    words = Words(
        title="Versions",
        description="Instances by engine and version. Good: one version, or one that takes over "
        "from another. Series: engine_version:ollama_instances:count.",
        no_data="No instance tells its version.",
        unit="none",
    )
    versions = Query(fleet.versions(ask), "{{engine}} {{version}}")
    return chart(words, versions, is_stacked=True).optional()


def _rotation(ask: Ask) -> Panel:
    words = Words(
        title="Overdue for rotation",
        description="Instances older than they should get, and those so old that they leak memory. "
        "Good: none. Series: fleet:ollama_instances_overdue:count and …_old:count.",
        no_data=NO_FLEET,
        unit="none",
    )
    return stat(
        words,
        Query(fleet.overdue(ask), "overdue"),
        Query(fleet.old(ask), "far too old"),
        overrides=[
            fields.turning("overdue", 1, colours.WARNING),
            fields.turning("far too old", 1, colours.BAD),
        ],
    )
