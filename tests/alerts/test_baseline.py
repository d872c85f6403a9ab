"""Traffic and latency against the same hour of the last weeks, over simulated days and nights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.alerts.weeks import DAY_H, WEEK_H, Shape, Weeks, said

LOST, RISING, HIGH = (
    "OllamaFleetTrafficLost",
    "OllamaFleetLatencyRising",
    "OllamaFleetLatencyP99High",
)
TOKENS = "ollama_fleet_generated_tokens_total"
WEDNESDAY_H = 3 * WEEK_H + 2 * DAY_H
"""In the fourth week."""
NOON_H = WEDNESDAY_H + 12


def without(start_h: float, end_h: float, left: float = 0.0) -> Shape:
    """Return the shape of a time with little or no traffic."""
    return lambda hour: left if start_h <= hour < end_h else 1.0


def from_the_fourth_week(value: float) -> Shape:
    """Return a shape that changes after three weeks."""
    return lambda hour: value if hour >= 3 * WEEK_H else 0.0


def creeping(start_h: float, end_h: float) -> Shape:
    """Return a p99 that goes from 100 to 160 ms."""
    return lambda hour: 0.1 + 0.06 * min(max((hour - start_h) / (end_h - start_h), 0), 1)


def test_traffic_that_stops_at_noon_pages_within_a_quarter_of_an_hour_and_a_holiday_does_not(
    promtool_binary: Path, tmp_path: Path
) -> None:
    """After two weeks, the least that is compared."""
    noon_h = 2 * WEEK_H + 12
    fleets = [
        Weeks(cluster="stops", traffic=without(noon_h, noon_h + 3)),
        Weeks(cluster="holiday", traffic=without(noon_h - 7, noon_h + 12, 0.1)),
    ]
    lost = [("stops", LOST)]

    wrong = said(
        promtool_binary,
        tmp_path,
        fleets,
        until_h=2 * WEEK_H + 16,
        names={LOST},
        firing={noon_h: [], noon_h + 0.25: lost, noon_h + 3.5: []},
        ever=lost,
    )

    assert not wrong, wrong


@pytest.mark.nightly
def test_four_weeks_with_days_nights_and_weekends_page_only_for_traffic_that_is_lost(
    promtool_binary: Path, tmp_path: Path
) -> None:
    """Half the traffic, a night, a weekend, and a clock that is changed are ordinary."""
    stops, night_h = without(NOON_H, NOON_H + 3), WEDNESDAY_H + 2
    saturday_h = 3 * WEEK_H + 5 * DAY_H
    fleets = [
        Weeks(cluster="ordinary"),
        Weeks(cluster="stops", traffic=stops),
        Weeks(cluster="stops generating", traffic=stops, counter=TOKENS),
        Weeks(cluster="less", traffic=without(NOON_H, NOON_H + 3, 0.5)),
        Weeks(cluster="holiday", traffic=without(WEDNESDAY_H + 5, WEDNESDAY_H + 24, 0.1)),
        Weeks(cluster="holiday before", traffic=without(WEEK_H, WEEK_H + 5 * DAY_H, 0.1)),
        Weeks(cluster="weekend", traffic=without(saturday_h, 4 * WEEK_H)),
        Weeks(cluster="night", traffic=without(night_h, night_h + 3)),
        Weeks(cluster="young", traffic=without(NOON_H - 2 * WEEK_H, NOON_H)),
        Weeks(cluster="summer time", earlier_h=from_the_fourth_week(1)),
        Weeks(cluster="winter time", earlier_h=from_the_fourth_week(-1)),
    ]
    lost = [("stops", LOST), ("stops generating", LOST)]

    wrong = said(
        promtool_binary,
        tmp_path,
        fleets,
        until_h=4 * WEEK_H,
        names={LOST, RISING, HIGH},
        firing={NOON_H: [], NOON_H + 0.25: lost, NOON_H + 3: lost, NOON_H + 3.5: []},
        ever=lost,
    )

    assert not wrong, wrong


@pytest.mark.nightly
def test_a_p99_that_creeps_up_within_a_week_is_a_ticket_before_it_pages(
    promtool_binary: Path, tmp_path: Path
) -> None:
    fleets = [Weeks(cluster="creeps", latency_s=creeping(3 * WEEK_H, 4 * WEEK_H))]
    rising, high = ("creeps", RISING), ("creeps", HIGH)

    wrong = said(
        promtool_binary,
        tmp_path,
        fleets,
        until_h=4 * WEEK_H,
        names={RISING, HIGH},
        firing={3 * WEEK_H + 80: [], 3 * WEEK_H + 100: [rising]},
        ever=[rising, high],
    )

    assert not wrong, wrong
