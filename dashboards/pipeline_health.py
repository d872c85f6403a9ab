"""What stands behind the exporters: sections on provisioners, rules and notifications."""

from __future__ import annotations

from dashboards.kit import colours, fields
from dashboards.kit.board import Section, row, section
from dashboards.kit.panels import Panel, PanelText, Query, chart
from dashboards.queries import pipeline
from dashboards.queries.selectors import Selectors

NO_PROVISIONER = "Prometheus scrapes no provisioner."
NO_LEADER = "No provisioner leads, or Prometheus scrapes none."
NO_ALERTMANAGER = "Prometheus does not scrape an Alertmanager."
NO_PROMETHEUS = "Prometheus does not scrape itself, or has no rules of ollama-fleet."


def provisioners(select: Selectors) -> Section:
    """Return the charts of the provisioners."""
    return section(
        "Provisioner",
        row(8, _leaders(select), _ready_instances(select), _nodes(select), _ages(select)),
    )


def _leaders(select: Selectors) -> Panel:
    text = PanelText(
        title="Leading provisioner",
        description="The leader is 1, standbys are 0. Good: exactly one leader. None: failed "
        "instances are not replaced. Several: they have different stores. Series: "
        "ollama_provisioner_leader.",
        no_data=NO_PROVISIONER,
        unit="none",
    )
    return chart(text, Query(pipeline.leaders(select), "{{instance}}")).optional()


def _ready_instances(select: Selectors) -> Panel:
    text = PanelText(
        title="Ready instances",
        description="Instances that the specification asks for, those that run, healthy and up to "
        "date, and those that cannot be started. Good: as many as wanted; during a rollout the "
        "line climbs. Series: ollama_provisioner_wanted_instances, "
        "ollama_provisioner_ready_instances, ollama_provisioner_instances.",
        no_data=NO_LEADER,
        unit="none",
    )
    return chart(
        text,
        Query(pipeline.ready_instances(select), "ready"),
        Query(pipeline.failed_instances(select), "failed"),
        Query(pipeline.wanted_instances(select), "wanted"),
        overrides=[
            fields.coloured("ready", colours.GOOD),
            fields.coloured("failed", colours.BAD),
            fields.limit_line("wanted"),
        ],
    ).optional()


def _nodes(select: Selectors) -> Panel:
    text = PanelText(
        title="Unreachable nodes",
        description="Nodes whose runtime does not answer the leading provisioner. Good: none; its "
        "log names them. Series: ollama_provisioner_unreachable_nodes.",
        no_data=NO_LEADER,
        unit="none",
    )
    return chart(text, Query(pipeline.unreachable_nodes(select), "nodes")).optional()


def _ages(select: Selectors) -> Panel:
    text = PanelText(
        title="Age of the last reconcile and of the store view",
        description="Time since the leader last reconciled, and age of each provisioner's view of "
        "the store. Good: seconds. Series: ollama_provisioner_last_reconcile_timestamp_seconds, "
        "ollama_provisioner_view_timestamp_seconds.",
        no_data=NO_PROVISIONER,
        unit="s",
    )
    return chart(
        text,
        Query(pipeline.reconcile_age(select), "last reconcile"),
        Query(pipeline.view_age(select), "view of {{instance}}"),
    ).optional()


def rules(select: Selectors) -> Section:
    """Return the charts of the evaluation of rules."""
    return section(
        "Rule evaluation",
        row(8, _rule_duration(select), _rule_failures(select), _rules_missed(select)),
    )


def _rule_duration(select: Selectors) -> Panel:
    text = PanelText(
        title="Duration of rule groups",
        description="Last duration of each of our groups, and the shortest evaluation interval. "
        "Above: evaluations are missed and alerts are late. Series: "
        "prometheus_rule_group_last_duration_seconds.",
        no_data=NO_PROMETHEUS,
        unit="s",
    )
    return chart(
        text,
        Query(pipeline.rule_duration(select), "{{rule_group}}"),
        Query(pipeline.rule_interval(select), "interval"),
        overrides=[fields.limit_line("interval")],
    ).optional()


def _rule_failures(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed evaluations",
        description="Failed evaluations of our rules per second. Good: none. Series: "
        "prometheus_rule_evaluation_failures_total.",
        no_data=NO_PROMETHEUS,
        unit="cps",
    )
    return chart(text, Query(pipeline.rule_failures(select), "{{rule_group}}")).optional()


def _rules_missed(select: Selectors) -> Panel:
    text = PanelText(
        title="Missed evaluations",
        description="Missed evaluations of our groups per second, because the previous one had "
        "not finished. Good: none. Otherwise Prometheus needs more CPU. Series: "
        "prometheus_rule_group_iterations_missed_total.",
        no_data=NO_PROMETHEUS,
        unit="cps",
    )
    return chart(text, Query(pipeline.rules_missed(select), "{{rule_group}}")).optional()


def notifications(select: Selectors) -> Section:
    """Return the charts of alerts on their way."""
    return section("Alert delivery", row(8, _sent(select), _tried(select), _undelivered(select)))


def _sent(select: Selectors) -> Panel:
    text = PanelText(
        title="Alerts sent to Alertmanagers",
        description="Alerts per second and Alertmanager, and those lost because none accepted "
        "them. Never zero, as Watchdog always fires. Series: prometheus_notifications_sent_total, "
        "prometheus_notifications_dropped_total.",
        no_data="Prometheus does not scrape itself, or has no Alertmanager.",
        unit="cps",
    )
    return chart(
        text,
        Query(pipeline.alerts_sent(select), "{{alertmanager}}"),
        Query(pipeline.alerts_lost(select), "lost"),
        overrides=[fields.coloured("lost", colours.BAD)],
    ).optional()


def _tried(select: Selectors) -> Panel:
    text = PanelText(
        title="Notifications",
        description="Notifications per second by kind of receiver. Series: "
        "alertmanager_notifications_total.",
        no_data=NO_ALERTMANAGER,
        unit="cps",
    )
    return chart(text, Query(pipeline.notifications(select), "{{integration}}")).optional()


def _undelivered(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed notifications",
        description="Failed notifications per second by kind of receiver. Good: none; "
        "Alertmanager's log has the reason. Series: alertmanager_notifications_failed_total.",
        no_data=NO_ALERTMANAGER,
        unit="cps",
    )
    return chart(text, Query(pipeline.notifications_failed(select), "{{integration}}")).optional()
