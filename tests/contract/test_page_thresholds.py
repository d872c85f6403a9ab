"""The page's thresholds and the alerts' are written alike and mean the same.

The exporter does not import the alerts; this is where the two meet.
"""

from __future__ import annotations

import math

import pytest

from alerts.durations import duration_s as alert_duration_s
from alerts.groups import availability, performance
from alerts.groups.thresholds import group
from alerts.levels import parse_level
from alerts.settings import Settings
from exporter.page.levels import level
from exporter.page.summary import Limits, Name, thresholds
from exporter.settings import SETTINGS, duration_s

N_INSTANCES = 10_000
BY_NAME = {setting.name: setting for setting in SETTINGS}


def test_the_defaults_are_those_of_the_alerts() -> None:
    alerts = Settings().thresholds
    healthy, speed = (
        BY_NAME[name].parse(BY_NAME[name].default)
        for name in ("page.healthy-instances", "page.tokens-per-second")
    )

    assert (alerts.healthy_instances.value, alerts.healthy_instances.is_per_instance) == (
        healthy.value,
        healthy.is_per_instance,
    )
    assert (alerts.tokens_per_second.value, alerts.tokens_per_second.is_per_instance) == (
        speed.value,
        speed.is_per_instance,
    )
    p99 = BY_NAME["page.request-latency-p99"]
    assert alerts.request_latency_p99 == p99.parse(p99.default)


TEXTS = ["9900", "9899.5", "99%", "99.5 %", "33.3%", "40 per instance", "0.5 per instance", "1"]


@pytest.mark.parametrize("text", TEXTS)
def test_levels_that_both_take_are_the_same_number(text: str) -> None:
    theirs = parse_level(text)
    size = N_INSTANCES if theirs.is_per_instance else 1

    assert theirs.value * size == level(text).of(N_INSTANCES)


@pytest.mark.parametrize("text", ["", "0", "0%", "-1", "99 percent", "40 per node", "1e3", "1_0"])
def test_what_is_no_level_is_none_for_both(text: str) -> None:
    for parse in (parse_level, level):
        with pytest.raises(ValueError, match="nor `40 per instance`"):
            parse(text)


@pytest.mark.parametrize("text", ["150ms", "1s", "2m", "1m30s", "1h"])
def test_durations_that_both_take_are_as_long(text: str) -> None:
    assert pytest.approx(alert_duration_s(text)) == duration_s(text)


@pytest.mark.parametrize(("n_instances", "floor"), [(10_000, 9900), (50, 49), (100, 99), (3, 2)])
def test_the_floor_of_healthy_instances_is_rounded_alike(n_instances: int, floor: int) -> None:
    """The alerts' floor is PromQL over what should serve, of which this is what it computes."""
    limits = Limits(level("99%"), 0.15, level("40 per instance"))
    expected = "floor(0.99 * fleet:ollama_instances_expected:sum)"

    assert expected == availability.healthy_floor(Settings())
    assert floor == math.floor(0.99 * n_instances)
    assert floor == thresholds(limits, n_instances)[Name.HEALTHY_INSTANCES]


def test_the_fleets_speed_is_asked_of_the_same_instances() -> None:
    assert "40 * fleet:ollama_instances_expected:sum" == performance.speed_floor(Settings())


def test_the_rules_record_each_threshold_under_the_name_that_the_page_looks_for() -> None:
    recorded = {dict(rule.labels)["name"] for rule in group(Settings()).rules}

    assert set(Name) <= recorded
