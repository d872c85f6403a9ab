"""The figures that say whether anything is wrong at all."""

from __future__ import annotations

from dashboards.exporter_health.words import NO_EXPORTER, NO_PROMETHEUS
from dashboards.kit import colours, fields
from dashboards.kit.panels import Panel, Query, Words, stat
from dashboards.queries import pipeline
from dashboards.queries.select import Ask


def panels(ask: Ask) -> tuple[Panel, ...]:
    """Return the figures that say whether anything is wrong at all."""
    return (
        _up(ask),
        _shards(ask),
        _last_pass(ask),
        _inventory_failing(ask),
        _rules_failing(ask),
        _alerts_lost(ask),
    )


def _figure(words: Words, *queries: Query, bad_from: float, colour: str = colours.BAD) -> Panel:
    """Return a stat whose first figure is green until it reaches a value."""
    judged = fields.turning(queries[0].legend, bad_from, colour)
    return stat(words, *queries, overrides=[judged])


def _up(ask: Ask) -> Panel:
    words = Words(
        title="Exporters",
        description="Exporters that Prometheus can scrape, and how many do not answer. Good: none "
        "down. One of two replicas down loses nothing yet. Series: up.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    down, up = Query(pipeline.down_count(ask), "down"), Query(pipeline.up_count(ask), "up")
    return _figure(words, down, up, bad_from=1)


def _shards(ask: Ask) -> Panel:
    words = Words(
        title="Shards that nobody polls",
        description="Parts of the fleet without an exporter whose polls go on: their instances are "
        "missing from every total. Good: none. Series: ollama_exporter_shards, "
        "exporter:ollama_exporter_shard:fresh.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    return _figure(words, Query(pipeline.shards_missing(ask), "missing"), bad_from=1)


def _last_pass(ask: Ask) -> Panel:
    words = Words(
        title="Since the last whole pass",
        description="In poll intervals, of the chosen exporters the worst; of one that has ended "
        "none, since it started. Good: up to about two. More: an exporter hangs, or has more "
        "instances than it can poll; red where the rules no longer count what it says. "
        "Series: ollama_exporter_poll_last_completed_timestamp_seconds.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    worst = Query(pipeline.intervals_since_pass(ask), "intervals")
    return _figure(words, worst, bad_from=pipeline.STALE_INTERVALS)


def _inventory_failing(ask: Ask) -> Panel:
    words = Words(
        title="Inventory sources that fail",
        description="That could not be read the last time; their last good list is kept and gets "
        "old. Good: none. Series: ollama_exporter_inventory_last_reload_successful.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    failing = Query(pipeline.inventory_failing(ask), "failing")
    return _figure(words, failing, bad_from=1, colour=colours.WARNING)


def _rules_failing(ask: Ask) -> Panel:
    words = Words(
        title="Rules that fail",
        description="Failed evaluations of our rules within the time range. Good: none. Any: see "
        "Prometheus's page of rules for the reason; alerts of that group may stay silent. "
        "Series: prometheus_rule_evaluation_failures_total.",
        no_data=NO_PROMETHEUS,
        unit="none",
    )
    failures = Query(pipeline.rule_failures_count(ask), "failures")
    return _figure(words, failures, bad_from=1).optional()


def _alerts_lost(ask: Ask) -> Panel:
    words = Words(
        title="Alerts lost",
        description="That Prometheus could not bring to any Alertmanager within the time range. "
        "Good: none. Any: somebody may not have been told. "
        "Series: prometheus_notifications_dropped_total.",
        no_data="Prometheus does not scrape itself.",
        unit="none",
    )
    return _figure(words, Query(pipeline.alerts_lost_count(ask), "lost"), bad_from=1).optional()
