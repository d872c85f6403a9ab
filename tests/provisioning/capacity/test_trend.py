"""Whether daily peaks rise, and when they reach a limit."""

from __future__ import annotations

import random

import pytest

from provisioning.capacity.live import Trend, daily_peaks, trend


def peaks(n_days: int, per_day: float = 0.0, noise: float = 0.0, seed: int = 1) -> dict[int, float]:
    """Return peaks of 1000 on weekdays and 300 on weekends."""
    dice = random.Random(seed)  # noqa: S311
    return {
        day: (300 if day % 7 in (2, 3) else 1000) + per_day * day + dice.gauss(0, noise)
        for day in range(20_000, 20_000 + n_days)
    }


def known(found: Trend | None) -> Trend:
    assert found is not None
    return found


def test_peaks_that_rise_have_a_trend_in_spite_of_weekends() -> None:
    found = known(trend(peaks(28, per_day=5)))

    assert found.is_clear
    assert pytest.approx(35) == found.per_week
    assert pytest.approx(1000 + 5 * 20_027) == found.level


def test_one_day_of_a_sale_changes_nothing() -> None:
    calm = peaks(28, per_day=5)

    found = known(trend(calm | {20_026: 1e6}))

    assert pytest.approx(35, rel=0.05) == found.per_week


@pytest.mark.parametrize("days", [28, 56])
def test_the_range_holds_the_true_change_nearly_always(days: int) -> None:
    ranges = [known(trend(peaks(days, per_day=2, noise=20, seed=seed))) for seed in range(200)]

    assert 180 <= sum(one.low_per_week <= 14 <= one.high_per_week for one in ranges)


def test_noise_is_no_trend_nearly_always() -> None:
    found = [known(trend(peaks(28, noise=100, seed=seed))) for seed in range(200)]

    assert 20 >= sum(one.is_clear for one in found)
    assert all(one.days_until(10_000) is None for one in found if not one.is_clear)


def test_less_than_three_weeks_say_nothing() -> None:
    assert trend({}) is None
    assert trend(peaks(20, per_day=5)) is None
    assert trend(peaks(21, per_day=5)) is not None


def rising(level: float, per_week: float) -> Trend:
    return Trend(
        n_days=28,
        per_week=per_week,
        low_per_week=per_week / 2,
        high_per_week=per_week * 2,
        level=level,
    )


def test_a_limit_is_reached_sooner_or_later() -> None:
    assert (14, 7, 28) == rising(100, 10).days_until(120)
    assert (0, 0, 0) == rising(100, -10).days_until(100)
    assert rising(100, -10).days_until(120) is None
    assert rising(100, 0.001).days_until(120) is None


def test_the_peak_of_a_day_is_its_busiest_hour_if_the_day_is_there() -> None:
    hours = {3600 * hour: float(hour) for hour in range(1, 25 + 19)}

    assert {0: 24.0} == daily_peaks(hours)
    assert {0: 24.0, 1: 44.0} == daily_peaks(hours | {3600 * 44: 44.0})
