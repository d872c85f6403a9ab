"""What Prometheus and Alertmanager say of themselves: do rules run, do alerts arrive."""

from __future__ import annotations

from dashboards.exporter_health.words import NO_PROMETHEUS
from dashboards.kit import colours, fields
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Panel, Query, Words, chart
from dashboards.queries import pipeline
from dashboards.queries.select import Ask

NO_ALERTMANAGER = "Prometheus does not scrape an Alertmanager."


def rules(ask: Ask) -> Section:
    """Return the charts of the evaluation of rules."""
    return Section(
        "Evaluation of rules",
        (row(8, (8, _rule_duration(ask)), (8, _rule_failures(ask)), (8, _rules_missed(ask))),),
    )


def _rule_duration(ask: Ask) -> Panel:
    words = Words(
        title="Duration of rule groups",
        description="How long each of our groups took the last time, and the shortest interval "
        "between evaluations. Above: evaluations are left out, and alerts come late. "
        "Series: prometheus_rule_group_last_duration_seconds.",
        no_data=NO_PROMETHEUS,
        unit="s",
    )
    return chart(
        words,
        Query(pipeline.rule_duration(ask), "{{rule_group}}"),
        Query(pipeline.rule_interval(ask), "interval"),
        overrides=[fields.limit_line("interval")],
    ).optional()


def _rule_failures(ask: Ask) -> Panel:
    words = Words(
        title="Failed evaluations",
        description="Of our rules, per second. Good: none. "
        "Series: prometheus_rule_evaluation_failures_total.",
        no_data=NO_PROMETHEUS,
        unit="cps",
    )
    return chart(words, Query(pipeline.rule_failures(ask), "{{rule_group}}")).optional()


def _rules_missed(ask: Ask) -> Panel:
    words = Words(
        title="Evaluations left out",
        description="Of our groups, per second, because the one before had not ended. Good: none; "
        "else Prometheus needs more CPU, or asks too much. "
        "Series: prometheus_rule_group_iterations_missed_total.",
        no_data=NO_PROMETHEUS,
        unit="cps",
    )
    return chart(words, Query(pipeline.rules_missed(ask), "{{rule_group}}")).optional()


def notifications(ask: Ask) -> Section:
    """Return the charts of alerts on their way."""
    return Section(
        "Alerts on their way",
        (row(8, (8, _sent(ask)), (8, _tried(ask)), (8, _undelivered(ask))),),
    )


def _sent(ask: Ask) -> Panel:
    words = Words(
        title="Alerts sent to Alertmanagers",
        description="Per second by Alertmanager, and those lost because none took them. Watchdog "
        "always fires, so never zero. Series: prometheus_notifications_sent_total, "
        "prometheus_notifications_dropped_total.",
        no_data="Prometheus does not scrape itself, or has no Alertmanager.",
        unit="cps",
    )
    return chart(
        words,
        Query(pipeline.alerts_sent(ask), "{{alertmanager}}"),
        Query(pipeline.alerts_lost(ask), "lost"),
        overrides=[fields.coloured("lost", colours.BAD)],
    ).optional()


def _tried(ask: Ask) -> Panel:
    words = Words(
        title="Notifications",
        description="That Alertmanager tried to deliver, per second, by kind of receiver. "
        "Series: alertmanager_notifications_total.",
        no_data=NO_ALERTMANAGER,
        unit="cps",
    )
    return chart(words, Query(pipeline.notifications(ask), "{{integration}}")).optional()


def _undelivered(ask: Ask) -> Panel:
    words = Words(
        title="Notifications that failed",
        description="That could not be delivered, per second, by kind of receiver. Good: none; "
        "Alertmanager's log has the reason. Series: alertmanager_notifications_failed_total.",
        no_data=NO_ALERTMANAGER,
        unit="cps",
    )
    return chart(words, Query(pipeline.notifications_failed(ask), "{{integration}}")).optional()
