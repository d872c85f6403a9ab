"""What shows only beside the same hour of the last weeks: traffic and latency."""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, pi

import pytest

from tests.alerts.fleets import DAY_MIN, GENERATED, Fleet, Steps, requests
from tests.alerts.plays import Play, Scenario

WEEK_MIN = 7 * DAY_MIN
NOON_MIN = DAY_MIN // 2
MONDAY_NOON = 3 * WEEK_MIN + NOON_MIN
PLAY = Play(minutes=4 * WEEK_MIN, before=MONDAY_NOON, interval_s=150, evaluation_s=600)
TRAFFIC, RISING = "OllamaFleetTrafficLost", "OllamaFleetLatencyRising"
LATENCY, FAILING = "OllamaFleetLatencyP99High", "OllamaFleetRequestsFailing"
CREEP: Steps = [
    (PLAY.before, 0.1),
    *[(60, 0.1 + 0.06 * hour / 168) for hour in range(168)],
]


def _days(holiday: int = -1) -> Steps:
    """Return requests a minute: most at noon, a tenth at night, half at weekends."""
    return [(30, _at(n * 30, holiday)) for n in range(28 * 48)]


def _at(minute: int, holiday: int) -> float:
    day, time = divmod(minute, DAY_MIN)
    share = 0.5 if day % 7 >= 5 or day == holiday else 1.0
    return round(1000 * share * (0.55 - 0.45 * cos(2 * pi * time / DAY_MIN)))


def _until_noon(days: Steps) -> Steps:
    return [*days[: PLAY.before // 30], (1, 0)]


def _fleet(days: Steps) -> Fleet:
    return Fleet(
        listed=[(1, 200)],
        counters={
            **requests(days, 0.08),
            GENERATED: [(minutes, 100 * (each or 0)) for minutes, each in days],
        },
    )


SCENARIOS = [
    Scenario(
        "all requests stop at noon while all is healthy",
        [_fleet(_until_noon(_days()))],
        pages={TRAFFIC: 30},
    ),
    Scenario("days and nights", [_fleet(_days())]),
    Scenario("a holiday with half the traffic", [_fleet(_days(holiday=21))]),
    Scenario(
        "the p99 creeps from 100 to 160 ms in a week",
        [Fleet(listed=[(1, 200)], latency_s=CREEP)],
        tickets={RISING: 5 * DAY_MIN},
        # That it has crossed the limit of 150 ms is news by then.
        pages={LATENCY: 7 * DAY_MIN},
    ),
]


NAMES = frozenset({TRAFFIC, RISING, LATENCY, FAILING})


@pytest.mark.nightly
@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_who_hears_of_what_differs_from_the_last_weeks(
    name: str, faults: Mapping[str, list[str]]
) -> None:
    assert not faults[name], "; ".join(faults[name])
