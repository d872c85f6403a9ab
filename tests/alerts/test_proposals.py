"""What is proposed from four weeks of days and nights; every point is ten minutes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from alerts.proposals import DAY_S, Episodes, History, Point, episodes, propose, readable

STEP_S = 600.0
MONDAY_S = 4 * DAY_S
HOUR_S = 3600.0
Value = Callable[[float], float | None]


def is_weekend(at_s: float) -> bool:
    return (at_s - MONDAY_S) % (7 * DAY_S) >= 5 * DAY_S


def busy(at_s: float) -> float:
    """Return how busy the fleet is, 0 to 1: by day, less on weekends, most on Monday's noon."""
    load = max(0.0, math.sin(math.pi * (at_s % DAY_S / HOUR_S - 6) / 14))
    if is_weekend(at_s):
        return 0.3 * load
    return load if (at_s - MONDAY_S) % (7 * DAY_S) < DAY_S else 0.9 * load


def latency(at_s: float) -> float | None:
    """Return 0.5 s to 1.5 s by load; an idle fleet has no latency."""
    return 0.5 + busy(at_s) if busy(at_s) else None


def speed(at_s: float) -> float:
    """Return tokens/s per instance; what generates nothing has none."""
    return 187 - 10 * busy(at_s) if busy(at_s) else 0.0


def during(value: Value, incident: float, start_s: float, length_s: float) -> Value:
    """Return a value that is another one during an incident."""
    return lambda at_s: incident if 0 <= at_s - start_s < length_s else value(at_s)


def points(value: Value, days: float = 28) -> list[Point]:
    times = (MONDAY_S + n * STEP_S for n in range(round(days * DAY_S / STEP_S)))
    return [(at_s, seen) for at_s in times if (seen := value(at_s)) is not None]


def history(seen: Iterable[Point], *, fired_s: Iterable[float] = ()) -> History:
    return History(
        points=list(seen),
        step_s=STEP_S,
        fired_s=list(fired_s),
        is_floor=False,
        moves_both_ways=True,
        is_share=False,
        absent="nobody measures it",
        text="{:g}".format,
    )


def one_way(seen: list[Point], *, above: float) -> History:
    fired_s = [at_s for at_s, value in seen if value > above]
    return replace(history(seen, fired_s=fired_s), moves_both_ways=False)


@pytest.mark.parametrize("days", [14, 28])
def test_a_ceiling_is_above_the_busiest_hour_of_the_week(days: float) -> None:
    proposal = propose(history(points(latency, days)))

    assert 1.8 == proposal.value
    assert 0.5 < proposal.seen["median"] < proposal.seen["99th percentile"]
    assert 1.5 == pytest.approx(proposal.seen["worst"])


@pytest.mark.parametrize("start_h", [12, 18])
def test_one_incident_does_not_raise_a_ceiling(start_h: float) -> None:
    """By day, or over midnight."""
    start_s = MONDAY_S + 9 * DAY_S + start_h * HOUR_S

    proposal = propose(history(points(during(latency, 30.0, start_s, 10 * HOUR_S))))

    assert 1.8 == proposal.value
    assert 30 == proposal.seen["worst"]
    assert "12h around 1970-01-14" in proposal.reason


def test_a_floor_is_below_the_slowest_hour_and_idle_nights_do_not_count() -> None:
    incident = during(speed, 60.0, MONDAY_S + 9 * DAY_S + 12 * HOUR_S, 2 * HOUR_S)

    proposal = propose(replace(history(points(incident)), is_floor=True))

    assert 150 == proposal.value
    assert 60 == proposal.seen["worst"] < proposal.seen["99th percentile"]
    assert "42% of the time was idle" in proposal.reason


@pytest.mark.parametrize("is_floor", [False, True])
@pytest.mark.parametrize("days", [14, 28])
def test_a_creeping_trend_is_told_and_not_hidden_by_a_new_threshold(
    is_floor: bool, days: float
) -> None:
    def creeping(at_s: float) -> float | None:
        growth = 1 + 0.6 * (at_s - MONDAY_S) / (days * DAY_S)
        seen = latency(at_s)
        return seen and (seen / growth if is_floor else seen * growth)

    seen = replace(history(points(creeping, days)), is_floor=is_floor)
    proposal = propose(seen)

    assert proposal.value is None
    assert proposal.reason.startswith("kept: it got worse, the median was ")
    # Against the same hour of the last weeks the alert itself is about the trend.
    assert propose(replace(seen, is_seasonal=True)).value is not None


def test_a_fleet_that_gets_better_has_no_harmful_trend() -> None:
    proposal = propose(history(points(lambda at_s: 9.0 - 4.0 * at_s / (32 * DAY_S))))

    assert proposal.value is not None


def test_what_users_can_bear_is_kept_where_only_an_incident_was_beyond_it() -> None:
    incident = during(busy, 7.0, MONDAY_S + 9 * DAY_S, 5 * HOUR_S)

    proposal = propose(one_way(points(incident), above=2))

    assert (None, "kept: it would not have fired in normal times") == (
        proposal.value,
        proposal.reason,
    )


def test_what_is_beyond_it_each_day_gets_a_threshold_and_a_doubt() -> None:
    proposal = propose(one_way(points(lambda at_s: 5 * busy(at_s)), above=2))

    assert 5.8 == proposal.value
    assert "a fault that never ended looks the same" in proposal.reason


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ([], "nobody measures it"),
        (points(latency, 2.5), "too short, 2d6h; it takes at least 3d"),
        (points(latency, 7)[::9], "has gaps, 11h of 6d14h are there"),
    ],
)
def test_without_enough_history_the_present_value_is_kept(seen: list[Point], why: str) -> None:
    proposal = propose(history(seen))

    assert proposal.value is None
    assert proposal.reason.startswith("kept: ")
    assert why in proposal.reason
    assert bool(seen) == bool(proposal.seen)


def test_a_share_stays_below_the_whole() -> None:
    seen = points(lambda _: 0.97)

    assert propose(replace(history(seen), is_share=True)).value is None
    assert 1.2 == propose(history(seen)).value


def test_nothing_is_proposed_where_nothing_was_ever_seen() -> None:
    assert propose(history(points(lambda _: 0.0))).value is None


@pytest.mark.parametrize(
    ("value", "up", "down"),
    [
        (1.7825, 1.8, 1.7),
        (0.0143, 0.015, 0.014),
        (152.15, 160, 150),
        (0.0001, 0.001, 0),
        (30, 30, 30),
    ],
)
def test_values_are_rounded_away_from_what_is_normal(value: float, up: float, down: float) -> None:
    assert (up, down) == (readable(value, is_floor=False), readable(value, is_floor=True))


@pytest.mark.parametrize(
    ("times_s", "keep_s", "expected"),
    [
        ([], 0, Episodes(0, 0)),
        ([0, 60, 120], 0, Episodes(1, 3)),
        ([0, 60, 240], 0, Episodes(2, 3)),
        ([0, 60, 240], 300, Episodes(1, 3)),
    ],
)
def test_a_break_that_an_alert_fires_through_ends_no_episode(
    times_s: list[float], keep_s: float, expected: Episodes
) -> None:
    assert expected == episodes(times_s, 60, keep_s)
