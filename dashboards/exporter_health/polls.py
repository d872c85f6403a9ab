"""The exporters, and how they get round the fleet."""

from __future__ import annotations

from dashboards.exporter_health.words import EXPORTER_NAME, NO_EXPORTER
from dashboards.kit import colours, fields
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Column, Panel, Query, Words, chart, table
from dashboards.queries import pipeline
from dashboards.queries.select import Ask
from exporter import catalogue


def exporters(ask: Ask) -> Panel:
    """Return the table of all exporters."""
    words = Words(
        title="Exporters, one by one",
        description="What each polls, and how it does. Replicas have the same shard and should "
        "have the same version. Series: ollama_exporter_shard_info, ollama_exporter_build_info "
        "and the others of each exporter.",
        no_data=NO_EXPORTER,
    )
    own = pipeline.own
    return table(
        words,
        _each(ask, "last pass", pipeline.age_of_pass(ask), "s"),
        _each(ask, "pass took", own(ask, catalogue.EXPORTER_POLL_CYCLE_DURATION), "s"),
        _each(ask, "late by", own(ask, catalogue.EXPORTER_POLL_LATENESS), "s"),
        _each(ask, "polls/s", pipeline.rate(ask, catalogue.EXPORTER_POLLS), "cps"),
        _each(ask, "connections", own(ask, catalogue.EXPORTER_OPEN_CONNECTIONS), "none"),
        _each(ask, "samples", own(ask, catalogue.EXPORTER_EXPOSITION_SAMPLES), "none"),
        _each(ask, "page age", pipeline.page_age(ask), "s"),
        labels=("instance", "shard", "version", "python"),
        hidden_labels=("job",),
        sort=[("instance", False)],
    )


def _each(ask: Ask, name: str, expr: str, unit: str) -> Column:
    return Column(name=name, expr=pipeline.with_shard(ask, expr), unit=unit)


def section(ask: Ask) -> Section:
    """Return the charts of polls."""
    return Section(
        "Polls",
        (
            row(8, (8, _cycles(ask)), (8, _duration(ask)), (8, _lateness(ask))),
            row(8, (8, _outcomes(ask)), (8, _reasons(ask)), (8, _error_ratio(ask))),
        ),
    )


def _cycles(ask: Ask) -> Panel:
    words = Words(
        title="Passes over the fleet",
        description="Whole passes per minute that each exporter ends. Good: 60 by the poll "
        "interval in seconds, and even. Series: ollama_exporter_poll_cycles_total.",
        no_data=NO_EXPORTER,
        unit="cpm",
    )
    cycles = f"60 * {pipeline.rate(ask, catalogue.EXPORTER_POLL_CYCLES)}"
    return chart(words, Query(cycles, EXPORTER_NAME))


def _duration(ask: Ask) -> Panel:
    words = Words(
        title="Duration of a pass",
        description="From the first to the last answer, and the poll interval over which polls are "
        "spread. Good: about the interval. Series: ollama_exporter_poll_cycle_duration_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(
        words,
        Query(pipeline.own(ask, catalogue.EXPORTER_POLL_CYCLE_DURATION), EXPORTER_NAME),
        Query(pipeline.interval(ask), "interval"),
        overrides=[fields.limit_line("interval")],
    )


def _lateness(ask: Ask) -> Panel:
    words = Words(
        title="Lateness of polls",
        description="By how much the latest poll of a pass began too late, and a tenth of the "
        "interval. Above: the exporter has too many instances or too little CPU, so divide the "
        "fleet into more shards. Series: ollama_exporter_poll_lateness_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(
        words,
        Query(pipeline.own(ask, catalogue.EXPORTER_POLL_LATENESS), EXPORTER_NAME),
        Query(pipeline.lateness_limit(ask), "limit"),
        overrides=[fields.limit_line("limit")],
    )


def _outcomes(ask: Ask) -> Panel:
    words = Words(
        title="Polls by outcome",
        description="Polls per second whose health check was good, and those whose was not. A step "
        "in failures that the fleet does not explain: the exporter's network or its open files. "
        "Series: ollama_exporter_polls_total, ollama_exporter_poll_errors_total.",
        no_data=NO_EXPORTER,
        unit="cps",
    )
    return chart(
        words,
        Query(pipeline.polls_good(ask), "good"),
        Query(pipeline.polls_failed(ask), "failed"),
        overrides=[
            fields.coloured("good", colours.GOOD),
            fields.coloured("failed", colours.BAD),
        ],
        is_stacked=True,
    )


def _reasons(ask: Ask) -> Panel:
    words = Words(
        title="Failed requests to instances by reason",
        description="Per second. health: the instance does not count as healthy; metrics: it does, "
        "but its figures are missing. no_descriptor is the exporter's own: raise its limit of open "
        "files. Series: ollama_exporter_poll_errors_total.",
        no_data="No request to an instance fails.",
        unit="reqps",
    )
    errors = Query(pipeline.poll_errors(ask), "{{request}}: {{reason}}")
    return chart(words, errors, is_stacked=True).optional()


def _error_ratio(ask: Ask) -> Panel:
    words = Words(
        title="Failed polls, share",
        description="Of all polls, those whose health check failed. Good: as the share of "
        "instances that are down. Series: ollama_exporter_polls_total, "
        "ollama_exporter_poll_errors_total.",
        no_data="No exporter polls.",
        unit="percentunit",
    )
    failed = Query(pipeline.poll_error_ratio(ask), "failed")
    return chart(words, failed, overrides=[fields.coloured("failed", colours.BAD)])
