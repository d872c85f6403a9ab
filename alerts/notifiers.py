"""Write receivers as alertmanager.yml wants them, with our texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alerts.model import Severity
from alerts.receivers import (
    DeadMansSwitch,
    Email,
    Opsgenie,
    PagerDuty,
    Receiver,
    Slack,
    Webhook,
)

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
