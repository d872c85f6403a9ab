"""Who is told of what, and how often: the document, proven by amtool."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from alerts import inhibition, routing
from alerts.receivers import RoutingSettings
from tests.alerts.alertmanager import Labels, labels_of, write
from tests.conftest import program

EVERYTHING: dict[str, Any] = {
    "page": [
        {"pagerduty": {"routing_key_file": "/secrets/pagerduty"}},
        {"opsgenie": {"api_key_file": "/secrets/opsgenie", "api_url": "https://ops.example.org"}},
        {"webhook": {"url_file": "/secrets/hook"}},
    ],
    "ticket": [
        {"slack": {"api_url_file": "/secrets/slack", "channel": "#llm", "title": "LLM fleet"}},
        {"slack": {"api_url_file": "/secrets/slack-2"}},
        {"webhook": {"url": "https://tickets.example.org", "credentials_file": "/secrets/token"}},
    ],
    "info": [
        {
            "email": {
                "to": "fleet@example.org",
                "from": "alerts@example.org",
                "smarthost": "mail.example.org:587",
                "auth_username": "alerts",
                "auth_password_file": "/secrets/mail",
                "hello": "alerts.example.org",
            }
        }
    ],
    "dead_mans_switch": {"url_file": "/secrets/switch"},
    "rotation_windows": [
        {"weekdays": ["saturday", "sunday"], "times": ["02:00-06:00"], "location": "Europe/Berlin"},
        {"times": ["22:00-24:00", "00:00-01:30"]},
    ],
}


def amtool(*arguments: str) -> str:
    """Return what amtool says; fail where it finds a fault."""
    done = subprocess.run(
        [str(program("amtool")), *arguments], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


# The document, by amtool


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["none", "everything"])
def test_alertmanager_accepts_the_document(tmp_path: Path, settings: dict[str, Any]) -> None:
    said = amtool("check-config", str(write(tmp_path, settings)))

    assert "SUCCESS" in said
    assert f"{len(inhibition.RULES)} inhibit rules" in said
    assert "1 templates" in said


@pytest.mark.parametrize(
    ("receiver", "labels"),
    [
        ("ollama-fleet-page", labels_of("OllamaFleetLatencyP99High")),
        ("ollama-fleet-page", labels_of("OllamaFleetHealthyInstancesLow")),
        ("ollama-fleet-ticket", labels_of("OllamaNodeSlowerThanFleet", "warning", node="n1")),
        ("ollama-fleet-ticket", labels_of("OllamaFleetQueueSaturated", "warning")),
        ("ollama-fleet-info", labels_of("OllamaFleetVersionSkew", "info")),
        ("ollama-fleet-info", labels_of("OllamaSomething", "info")),
        ("ollama-fleet-dead-mans-switch", labels_of("Watchdog", "none", component="ollama-fleet")),
        ("ollama-fleet-null", labels_of("Watchdog", "none")),
        ("ollama-fleet-null", labels_of("OllamaSomething", "none")),
        ("ollama-fleet-null", labels_of("NodeFilesystemFull")),
        ("ollama-fleet-null", labels_of("NotOllamaFleet", "warning")),
    ],
)
def test_each_severity_has_its_receiver_and_foreign_alerts_none(
    tmp_path: Path, receiver: str, labels: Labels
) -> None:
    config = write(tmp_path, EVERYTHING)
    pairs = [f"{key}={value}" for key, value in labels.items()]

    said = amtool("config", "routes", "test", f"--config.file={config}", *pairs)

    assert receiver == said.strip()


@pytest.mark.parametrize("severity", ["critical", "warning", "info", "none"])
def test_without_receivers_nothing_goes_anywhere(tmp_path: Path, severity: str) -> None:
    config = write(tmp_path, {})

    for name in ("OllamaFleetLatencyP99High", "Watchdog"):
        said = amtool(
            *("config", "routes", "test", f"--config.file={config}"),
            *(f"alertname={name}", f"severity={severity}", "component=ollama-fleet"),
        )

        assert "ollama-fleet-null" == said.strip()


def test_info_goes_nowhere_by_default(tmp_path: Path) -> None:
    config = write(tmp_path, EVERYTHING | {"info": []})

    said = amtool(
        *("config", "routes", "test", f"--config.file={config}"),
        *("alertname=OllamaFleetVersionSkew", "severity=info"),
    )

    assert "ollama-fleet-null" == said.strip()


# The document, by itself


def routes(settings: dict[str, Any], **options: str) -> list[dict[str, Any]]:
    document = routing.document(RoutingSettings.model_validate(settings), **options)
    root = document["route"]
    assert isinstance(root, dict)
    return [root, *root["routes"]]


def test_defaults_keep_notifications_few() -> None:
    root, watchdog, _, ticket, info = routes(EVERYTHING)

    assert ("30s", "5m", "4h") == tuple(
        root[name] for name in ("group_wait", "group_interval", "repeat_interval")
    )
    assert ("10m", "1d") == (ticket["group_wait"], ticket["repeat_interval"])
    assert ("10m", "1d") == (info["group_wait"], info["repeat_interval"])
    assert "0s" == watchdog["group_wait"]


def test_groups_are_by_alert_and_cluster_and_tickets_by_node_too() -> None:
    root, _, page, ticket, info = routes(EVERYTHING, cluster_label="fleet")

    assert ["alertname", "fleet"] == root["group_by"]
    assert "group_by" not in page
    assert "group_by" not in info
    assert ["alertname", "fleet", "node"] == ticket["group_by"]


def test_every_inhibition_stays_within_its_cluster() -> None:
    document = routing.document(RoutingSettings(), cluster_label="fleet")

    rules = document["inhibit_rules"]
    assert isinstance(rules, list)
    assert len(inhibition.RULES) == len(rules)
    assert all("fleet" == rule["equal"][0] for rule in rules)


def test_a_chat_may_have_a_title_of_its_own() -> None:
    document = routing.document(RoutingSettings.model_validate(EVERYTHING))

    receivers = document["receivers"]
    assert isinstance(receivers, list)
    (ticket,) = (made for made in receivers if "ollama-fleet-ticket" == made["name"])
    assert "LLM fleet" == ticket["slack_configs"][0]["title"]
    assert "ollama_fleet.slack.title" in ticket["slack_configs"][1]["title"]


def test_no_window_mutes_pages_or_the_dead_mans_switch() -> None:
    _, watchdog, page, ticket, info = routes(EVERYTHING)

    assert "ollama-fleet-rotation" in str(ticket)
    assert "ollama-fleet-rotation" in str(info)
    assert "mute_time_intervals" not in str(page)
    assert "mute_time_intervals" not in str(watchdog)


def test_without_windows_nothing_is_muted_by_time() -> None:
    document = routing.document(RoutingSettings())

    assert "time_intervals" not in str(document)
