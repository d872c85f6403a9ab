"""The web UI's thresholds and the alerts' mean the same."""

from __future__ import annotations

import math

import pytest

from alerts.groups import availability, performance
from alerts.groups.thresholds import group
from alerts.settings import Settings
from exporter.settings import SETTINGS
from exporter.ui.summary import Limits, Name, thresholds
from ollama_fleet.levels import parse_level

N_INSTANCES = 10_000
BY_NAME = {setting.name: setting for setting in SETTINGS}


def test_the_defaults_are_those_of_the_alerts() -> None:
    alerts = Settings().thresholds
    healthy, speed = (
        BY_NAME[name].parse(BY_NAME[name].default)
        for name in ("ui.healthy-instances", "ui.tokens-per-second")
    )

    assert (alerts.healthy_instances, alerts.tokens_per_second) == (healthy, speed)
    p99 = BY_NAME["ui.request-latency-p99"]
    assert alerts.request_latency_p99 == p99.parse(p99.default)


@pytest.mark.parametrize(("n_instances", "floor"), [(10_000, 9900), (50, 49), (100, 99), (3, 2)])
def test_the_floor_of_healthy_instances_is_rounded_alike(n_instances: int, floor: int) -> None:
    """The alerts' floor is PromQL over what should serve, of which this is what it computes."""
    limits = Limits(parse_level("99%"), 0.15, parse_level("40 per instance"))
    expected = "floor(0.99 * fleet:ollama_instances_expected:sum)"

    assert expected == availability.healthy_floor(Settings())
    assert floor == math.floor(0.99 * n_instances)
    assert floor == thresholds(limits, n_instances)[Name.HEALTHY_INSTANCES]


def test_the_fleets_speed_is_asked_of_the_same_instances() -> None:
    assert "40 * fleet:ollama_instances_expected:sum" == performance.speed_floor(Settings())


def test_the_rules_record_each_threshold_under_the_name_that_the_page_looks_for() -> None:
    recorded = {dict(rule.labels)["name"] for rule in group(Settings()).rules}

    assert set(Name) <= recorded
