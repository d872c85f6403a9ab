"""How many instances there are, and what they can do."""

from __future__ import annotations

from dashboards.choices import DISAGREEING
from dashboards.kit import fields
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Panel, Query, Words, chart
from dashboards.overview.words import NO_FLEET
from dashboards.queries import fleet
from dashboards.queries.select import Ask


def section(ask: Ask) -> Section:
    """Return the charts of instances and of speed."""
    return Section(
        "Instances and speed",
        (
            row(8, (12, _by_status(ask)), (12, _failing(ask))),
            row(8, (12, _speed_by_model(ask)), (12, _asked(ask))),
        ),
    )


def _by_status(ask: Ask) -> Panel:
    words = Words(
        title="Instances by status",
        description="Stacked by status, and how many must be healthy. Good: nearly all healthy. "
        f"{DISAGREEING} Series: fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    return chart(
        words,
        Query(fleet.by_status(ask), "{{status}}"),
        Query(fleet.healthy_floor(ask), "floor"),
        overrides=[*fields.by_status(), fields.limit_line("floor")],
        is_stacked=True,
    )


def _failing(ask: Ask) -> Panel:
    words = Words(
        title="Instances that fail",
        description="Those that should serve and do not; the line is how many may fail before the "
        "floor is reached. A step is a node, a rack or a switch; a slope is a bad rollout. "
        f"{DISAGREEING} Series: fleet:ollama_instances:sum.",
        no_data=NO_FLEET,
        unit="none",
    )
    return chart(
        words,
        Query(fleet.failing_by_status(ask), "{{status}}"),
        Query(fleet.may_fail(ask), "may fail"),
        overrides=[*fields.by_status(), fields.limit_line("may fail")],
        is_stacked=True,
    )


def _speed_by_model(ask: Ask) -> Panel:
    words = Words(
        title="Token throughput by model",
        description="Tokens per second that healthy instances can generate, by model. A model that "
        "gets thinner has lost instances or slowed down: see the models dashboard. "
        "Series: model:ollama_tokens_per_second:sum.",
        no_data="No instance tells how fast it generates.",
        unit="short",
    )
    return chart(
        words,
        Query(fleet.speed_by_model(ask), "{{model}}"),
        Query(fleet.speed_floor(ask), "floor"),
        overrides=[fields.limit_line("floor")],
        is_stacked=True,
    )


def _asked(ask: Ask) -> Panel:
    words = Words(
        title="Tokens generated",
        description="Tokens per second that were really generated: what is asked of the fleet, not "
        "what it can do. Near the throughput, the fleet is full. "
        "Series: fleet:ollama_generated_tokens:rate.",
        no_data="No instance counts its tokens.",
        unit="short",
    )
    return chart(words, Query(fleet.generated(ask), "generated")).optional()
