"""Make the alertmanager.yml document: routes, receivers, inhibition, mute windows.

Only our alerts and our Watchdog are sent; everything else ends at the null receiver. All routes,
receivers and inhibitions name what is ours, so they can join those of an existing Alertmanager.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alerts.inhibition import OUR_WATCHDOG, OURS, ROTATION_CAUSES, RULES, Inhibition, named
from alerts.model import Severity
from alerts.receivers import (
    DeadMansSwitch,
    Email,
    Opsgenie,
    PagerDuty,
    Receiver,
    RoutingSettings,
    Slack,
    Webhook,
)
from ollama_fleet.durations import duration_text

TEMPLATES = "templates/ollama-fleet.tmpl"
"""The texts of notifications, relative to alertmanager.yml."""

NULL = "ollama-fleet-null"
"""Sends nothing."""
PAGE, TICKET, INFO = "ollama-fleet-page", "ollama-fleet-ticket", "ollama-fleet-info"
SWITCH = "ollama-fleet-dead-mans-switch"
ROTATION = "ollama-fleet-rotation"

Document = dict[str, object]


def document(settings: RoutingSettings, *, cluster_label: str = "cluster") -> Document:
    """Return alertmanager.yml. Receivers that are not set up are left out of it."""
    root = _node(settings, cluster_label) | {"routes": _routes(settings, cluster_label)}
    return {"route": root, **lists(settings, cluster_label=cluster_label)}


def subtree(settings: RoutingSettings, *, cluster_label: str = "cluster") -> list[Document]:
    """Return what the root of another Alertmanager needs as its first children."""
    watchdog, *routes = _routes(settings, cluster_label)
    ours = {"matchers": [OURS], **_node(settings, cluster_label), "routes": routes}
    return [watchdog, ours]


def lists(settings: RoutingSettings, *, cluster_label: str = "cluster") -> dict[str, list[Any]]:
    """Return what stands beside the routes, each a list that may be part of a longer one."""
    made: dict[str, list[Any]] = {
        "inhibit_rules": [_inhibit_rule(rule, cluster_label) for rule in RULES],
        "receivers": _receivers(settings),
        "templates": [TEMPLATES],
    }
    if settings.rotation_windows:
        made["time_intervals"] = [{"name": ROTATION, "time_intervals": _intervals(settings)}]
    return made


def _node(settings: RoutingSettings, cluster_label: str) -> Document:
    return {
        "receiver": NULL,
        "group_by": ["alertname", cluster_label],
        "group_wait": duration_text(settings.group_wait),
        "group_interval": duration_text(settings.group_interval),
        "repeat_interval": duration_text(settings.page_repeat_interval),
    }


def _routes(settings: RoutingSettings, cluster_label: str) -> list[Document]:
    return [
        _watchdog(settings.dead_mans_switch),
        _page(settings),
        _ticket(settings, cluster_label),
        _info(settings),
    ]


def _watchdog(settings: DeadMansSwitch | None) -> Document:
    own = [f'{label}="{value}"' for label, value in OUR_WATCHDOG.items()]
    route: Document = {"matchers": [named("Watchdog"), *own], "receiver": NULL}
    if settings is None:
        return route
    # Alertmanager repeats at the first look after repeat_interval. The look exactly at its end
    # comes some milliseconds too early, so a message goes out at every other look.
    half = duration_text(settings.interval / 2)
    return route | {
        "receiver": SWITCH,
        "group_wait": "0s",
        "group_interval": half,
        "repeat_interval": half,
    }


def _page(settings: RoutingSettings) -> Document:
    # No page is ever muted by a window: a rotation that goes wrong wakes somebody.
    return _by_severity(Severity.CRITICAL, PAGE, settings.page)


def _ticket(settings: RoutingSettings, cluster_label: str) -> Document:
    route = _by_severity(Severity.WARNING, TICKET, settings.ticket) | _patience(settings)
    route["group_by"] = ["alertname", cluster_label, "node"]
    return route | _muted_by_rotation(settings)


def _info(settings: RoutingSettings) -> Document:
    route = _by_severity(Severity.INFO, INFO, settings.info) | _patience(settings)
    return route | _muted_by_rotation(settings)


def _by_severity(severity: Severity, name: str, receivers: tuple[Receiver, ...]) -> Document:
    return {
        "matchers": [OURS, f'severity="{severity}"'],
        "receiver": name if receivers else NULL,
    }


def _patience(settings: RoutingSettings) -> Document:
    return {
        "group_wait": duration_text(settings.ticket_group_wait),
        "repeat_interval": duration_text(settings.ticket_repeat_interval),
    }


def _muted_by_rotation(settings: RoutingSettings) -> Document:
    if not settings.rotation_windows:
        return {}
    muted = {"matchers": [named(*ROTATION_CAUSES)], "mute_time_intervals": [ROTATION]}
    return {"routes": [muted]}


def _inhibit_rule(rule: Inhibition, cluster_label: str) -> Document:
    return {
        "source_matchers": list(rule.sources),
        "target_matchers": list(rule.targets),
        "equal": [cluster_label, *rule.equal],
    }


def _receivers(settings: RoutingSettings) -> list[Document]:
    by_name = (
        (PAGE, settings.page, Severity.CRITICAL),
        (TICKET, settings.ticket, Severity.WARNING),
        (INFO, settings.info, Severity.INFO),
    )
    made = [receiver(name, items, severity) for name, items, severity in by_name if items]
    if settings.dead_mans_switch:
        made.append(switch(SWITCH, settings.dead_mans_switch))
    return [{"name": NULL}, *made]


def _intervals(settings: RoutingSettings) -> list[Document]:
    intervals = []
    for window in settings.rotation_windows:
        spans = [span.split("-") for span in window.times]
        interval: Document = {
            "times": [{"start_time": start, "end_time": end} for start, end in spans],
            "location": window.location,
        }
        if window.weekdays:
            interval["weekdays"] = [str(day) for day in window.weekdays]
        intervals.append(interval)
    return intervals


PRIORITY = {Severity.CRITICAL: "P1", Severity.WARNING: "P3", Severity.INFO: "P5"}
"""Opsgenie's."""

Config = dict[str, object]


def receiver(name: str, receivers: tuple[Receiver, ...], severity: Severity) -> Config:
    """Return one receiver that notifies all of the given ones."""
    made: dict[str, Any] = {"name": name}
    for item in receivers:
        for kind, write in WRITERS.items():
            if settings := getattr(item, kind):
                made.setdefault(f"{kind}_configs", []).append(write(settings, severity))
    return made


def switch(name: str, settings: DeadMansSwitch) -> Config:
    """Return the receiver of Watchdog."""
    return {"name": name, "webhook_configs": [_hook(settings) | {"max_alerts": 1}]}


def _pagerduty(settings: PagerDuty, severity: Severity) -> Config:
    details = ("firing", "resolved", "num_firing", "num_resolved", "since", "runbook", "dashboard")
    return _given(
        send_resolved=settings.send_resolved,
        routing_key_file=settings.routing_key_file,
        url=settings.url,
        severity=str(severity),
        description=_ours("pagerduty.description"),
        details={name: _ours(f"detail.{name}") for name in details},
    )


def _opsgenie(settings: Opsgenie, severity: Severity) -> Config:
    return _given(
        send_resolved=settings.send_resolved,
        api_key_file=settings.api_key_file,
        api_url=settings.api_url,
        message=_ours("title"),
        description=_ours("text"),
        priority=PRIORITY[severity],
        tags=f"ollama-fleet,{severity}",
    )


def _slack(settings: Slack, severity: Severity) -> Config:
    return _given(
        send_resolved=settings.send_resolved,
        api_url_file=settings.api_url_file,
        channel=settings.channel,
        title=settings.title or _ours("slack.title"),
        fallback=_ours("slack.title"),
        text=_ours("slack.text"),
    )


def _email(settings: Email, severity: Severity) -> Config:
    return _given(
        send_resolved=settings.send_resolved,
        to=settings.to,
        **{"from": settings.sender},
        smarthost=settings.smarthost,
        auth_username=settings.auth_username,
        auth_password_file=settings.auth_password_file,
        require_tls=settings.require_tls,
        hello=settings.hello,
        headers={"Subject": _ours("title")},
        html=_ours("email.html"),
        text=_ours("text"),
    )


def _webhook(settings: Webhook, severity: Severity) -> Config:
    return _hook(settings) | {"max_alerts": settings.max_alerts}


def _hook(settings: Webhook | DeadMansSwitch) -> Config:
    config = _given(
        send_resolved=settings.send_resolved, url=settings.url, url_file=settings.url_file
    )
    if path := settings.credentials_file:
        config["http_config"] = {"authorization": {"type": "Bearer", "credentials_file": path}}
    return config


def _ours(template: str) -> str:
    """Return the call of one of our templates."""
    return f'{{{{ template "ollama_fleet.{template}" . }}}}'


def _given(**options: object) -> Config:
    """Return the options that have a value; Alertmanager has defaults for the others."""
    return {name: value for name, value in options.items() if value is not None}


WRITERS: dict[str, Callable[[Any, Severity], Config]] = {
    "pagerduty": _pagerduty,
    "opsgenie": _opsgenie,
    "slack": _slack,
    "email": _email,
    "webhook": _webhook,
}
"""By the setting's name."""
