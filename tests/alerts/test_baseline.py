"""Traffic that is lost pages, against weeks with noise; what only looks like it does not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from alerts import config
from tests.alerts.fleets import DAY_MIN, GENERATED, Fleet, Steps
from tests.alerts.plays import Play, Scenario, played
from tests.alerts.weeks import NOISE, rhythm

LOST = "OllamaFleetTrafficLost"
REQUESTS = 'ollama_fleet_requests_total{model="a"}'
STEP_MIN = 5
HOUR_MIN, WEEK_MIN = 60, 7 * DAY_MIN
PEAK = 3000.0
"""Requests a minute by day."""
TOKENS = 200
"""Of a request."""

Share = Callable[[float], float]
"""Returns what is left of the traffic, by the minute."""


def _all(_: float) -> float:
    return 1.0


def _without(start: float, end: float, left: float = 0.0) -> Share:
    """Return the share of a time with little or no traffic."""
    return lambda minute: left if start <= minute < end else 1.0


def _weeks(play: Play, share: Share = _all, earlier_min: float = 0) -> Steps:
    """Return requests a minute; from a day before the fault on, all happens so much earlier."""
    dice = random.Random(f"{share(play.before)}")  # noqa: S311
    changes = play.before - DAY_MIN
    minutes = range(0, play.minutes + STEP_MIN, STEP_MIN)
    return [
        (
            STEP_MIN,
            PEAK
            * rhythm((minute + (earlier_min if minute >= changes else 0)) / HOUR_MIN)
            * share(minute)
            * dice.uniform(1 - NOISE, 1 + NOISE),
        )
        for minute in minutes
    ]


def _fleet(requests: Steps) -> Fleet:
    return Fleet(listed=[(1, 200)], counters={REQUESTS: requests})


def _faults(promtool: Path, folder: Path, play: Play, scenarios: Sequence[Scenario]) -> list[str]:
    faults = played(promtool, folder, play, config.load(), scenarios, names={LOST})
    return [f"{name}: {fault}" for name, found in faults.items() for fault in found]


def test_traffic_that_stops_at_noon_pages_within_a_quarter_of_an_hour_and_a_holiday_does_not(
    promtool_binary: Path, tmp_path: Path
) -> None:
    """After two weeks, the least that is compared."""
    noon = 2 * WEEK_MIN + DAY_MIN // 2
    play = Play(minutes=noon + 240, before=noon, interval_s=300, evaluation_s=300)
    stops, holiday = _without(noon, noon + 180), _without(noon - 420, noon + 240, 0.1)

    faults = _faults(
        promtool_binary,
        tmp_path,
        play,
        [
            Scenario("stops", [_fleet(_weeks(play, stops))], pages={LOST: 15}),
            Scenario("holiday", [_fleet(_weeks(play, holiday))]),
        ],
    )

    assert not faults


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_in_four_weeks_of_days_nights_and_weekends_only_lost_traffic_pages(
    promtool_binary: Path, tmp_path: Path
) -> None:
    """Half the traffic, a night, a weekend, a holiday, and a clock that is changed are ordinary."""
    wednesday = 3 * WEEK_MIN + 2 * DAY_MIN
    noon, night, saturday = wednesday + 720, wednesday + 120, wednesday + 3 * DAY_MIN
    play = Play(minutes=4 * WEEK_MIN, before=noon, interval_s=300, evaluation_s=300)
    stops = _without(noon, noon + 180)
    tokens: Steps = [(minutes, TOKENS * (each or 0)) for minutes, each in _weeks(play, stops)]
    ordinary = {
        "nothing": _all,
        "half": _without(noon, noon + 180, 0.5),
        "holiday": _without(wednesday + 300, wednesday + DAY_MIN, 0.1),
        "holidays two weeks before": _without(WEEK_MIN, WEEK_MIN + 5 * DAY_MIN, 0.1),
        "weekend": _without(saturday, 4 * WEEK_MIN),
        "night": _without(night, night + 180),
        "second week": _without(noon - 2 * WEEK_MIN, noon - 2 * WEEK_MIN + 180),
    }

    faults = _faults(
        promtool_binary,
        tmp_path,
        play,
        [
            Scenario("stops", [_fleet(_weeks(play, stops))], pages={LOST: 15}),
            Scenario(
                "stops generating",
                [Fleet(listed=[(1, 200)], counters={GENERATED: tokens})],
                pages={LOST: 15},
            ),
            *(Scenario(name, [_fleet(_weeks(play, share))]) for name, share in ordinary.items()),
            Scenario("summer time", [_fleet(_weeks(play, earlier_min=60))]),
            Scenario("winter time", [_fleet(_weeks(play, earlier_min=-60))]),
        ],
    )

    assert not faults
