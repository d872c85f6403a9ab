"""The web UI's thresholds and the alerts' mean the same."""

from __future__ import annotations

import math

import pytest

from alerts.groups import availability, performance
from alerts.groups.thresholds import group
from alerts.settings import Settings
from exporter.settings import SETTINGS
from exporter.ui.summary import RECORDED, Limits, Name, thresholds
from ollama_fleet.levels import parse_level

EXPECTED = "fleet:ollama_instances_expected:sum"
BY_NAME = {setting.name: setting for setting in SETTINGS}


def test_the_defaults_are_those_of_the_alerts() -> None:
    alerts = Settings().thresholds
    for name in ("healthy-instances", "tokens-per-second", "request-latency-p99"):
        setting = BY_NAME[f"ui.{name}"]
        assert getattr(alerts, name.replace("-", "_")) == setting.parse(setting.default), name


@pytest.mark.parametrize(("n_instances", "floor"), [(10_000, 9900), (50, 49), (100, 99), (3, 2)])
def test_the_floor_of_healthy_instances_is_rounded_alike(n_instances: int, floor: int) -> None:
    """The alerts' floor is PromQL over what should serve, of which this is what it computes."""
    limits = Limits(parse_level("99%"), 0.15, parse_level("40 per instance"))

    assert f"floor(0.99 * {EXPECTED})" == availability.healthy_floor(Settings())
    assert f"40 * {EXPECTED}" == performance.speed_floor(Settings())
    assert floor == math.floor(0.99 * n_instances)
    assert floor == thresholds(limits, n_instances)[Name.HEALTHY_INSTANCES]


def test_the_rules_record_each_threshold_as_the_series_that_the_web_ui_looks_for() -> None:
    assert set(Name) == set(RECORDED)
    assert {*RECORDED.values()} <= {rule.name for rule in group(Settings()).rules}
