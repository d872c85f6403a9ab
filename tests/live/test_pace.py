"""The shipped pace is what is shipped, and the short one is made from it."""

from __future__ import annotations

from typing import Any

from alerts import explain
from alerts.settings import Settings
from exporter.settings import SETTINGS
from tests.live.pace import SHIPPED, SHORT, settings

ALERTS = explain.as_json(Settings())


def told(pace_settings: dict[str, Any]) -> Settings:
    return Settings.model_validate(pace_settings)


def test_the_shipped_pace_is_that_of_the_rules_as_shipped() -> None:
    shipped = Settings()
    routing = shipped.routing

    assert shipped == told(settings(SHIPPED, ALERTS, routing={}))
    assert (SHIPPED.scrape_s, SHIPPED.scrape_timeout_s, SHIPPED.evaluation_s) == (
        shipped.prometheus.scrape_interval,
        shipped.prometheus.scrape_timeout,
        shipped.prometheus.evaluation_interval,
    )
    assert (SHIPPED.group_wait_s, SHIPPED.ticket_group_wait_s, SHIPPED.group_interval_s) == (
        routing.group_wait,
        routing.ticket_group_wait,
        routing.group_interval,
    )


def test_a_short_pace_keeps_every_alert_and_threshold_and_no_hold_of_minutes() -> None:
    short = told(settings(SHORT, ALERTS, routing={}))
    held = {alert["name"]: alert["for_seconds"] for alert in explain.as_json(short)}

    assert Settings().thresholds == short.thresholds
    assert [alert["name"] for alert in ALERTS] == [one["name"] for one in explain.as_json(short)]
    assert 3 == held["OllamaFleetInventoryLost"]
    assert held["OllamaFleetHealthyInstancesLow"] < held["OllamaFleetTokenThroughputLow"]
    assert SHORT.poll_s + SHORT.scrape_s < held["OllamaFleetHealthyInstancesLow"]
    assert 15 == held["OllamaNodeSlowerThanFleet"]
    assert 6 == held["OllamaFleetLatencyP99High"], "5 s, at the second evaluation"
    kept = {one["name"]: one["keep_firing_for_seconds"] for one in explain.as_json(short)}
    assert kept["OllamaFleetTokenThroughputLow"] < kept["OllamaFleetHealthyInstancesLow"]
    assert 24 * 3600 == held["OllamaFleetVersionSkew"]
    assert 60.0 == short.windows.inventory
    assert 15.0 == short.windows.drop, "five scrapes"


def test_the_pollers_defaults_are_those_of_the_shipped_pace() -> None:
    defaults = {setting.option: setting.default for setting in SETTINGS}

    assert f"{SHIPPED.poll_s}s" == defaults["--poll.interval"]
    assert f"{SHIPPED.refresh_s}s" == defaults["--inventory.refresh-interval"]
