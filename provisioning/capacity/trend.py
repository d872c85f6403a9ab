"""Say whether daily peaks rise, and when they reach a limit, in spite of outliers and weekends."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

WEEK_DAYS = 7
LEAST_WEEKS = 3
CONFIDENCE_Z = 1.96
"""Of a normal distribution: 95% lie within."""
BUSY_DAYS = 0.9
"""The share of the days that stay below the line which is followed into the future."""
MAX_DAYS = 5 * 365
"""No trend of some weeks says anything about a later time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """How daily peaks change, with the range that holds the true change in 95 of 100 cases."""

    n_days: int
    per_week: float
    low_per_week: float
    high_per_week: float
    level: float
    """Of a busy day at the end: nine in ten are below."""

    @property
    def is_clear(self) -> bool:
        """Return whether the peaks rise or fall for sure."""
        return not self.low_per_week <= 0 <= self.high_per_week

    def days_until(self, limit: float) -> tuple[float, float, float] | None:
        """Return in how many days a busy day reaches a limit: expected, earliest and latest.

        None where the peaks do not rise for sure, or do not get there in five years.
        """
        if self.level >= limit:
            return 0.0, 0.0, 0.0
        if not self.is_clear or self.per_week < 0:
            return None
        rates = (self.per_week, self.high_per_week, self.low_per_week)
        expected, earliest, latest = ((limit - self.level) / rate * WEEK_DAYS for rate in rates)
        return (expected, earliest, latest) if expected <= MAX_DAYS else None


def trend(peak_by_day: Mapping[int, float]) -> Trend | None:
    """Return how the peaks of numbered days change; None with less than three weeks of them.

    The slope is the median of the slopes between any two days of the same weekday (Sen), so that
    weekends are no fall and one day of a sale is no rise; its range is Kendall's.
    """
    weekdays = Counter(day % WEEK_DAYS for day in peak_by_day)
    slopes = sorted(
        (peak_by_day[late] - peak_by_day[early]) / (late - early)
        for late in peak_by_day
        for early in peak_by_day
        if early < late and (late - early) % WEEK_DAYS == 0
    )
    if len(weekdays) < WEEK_DAYS or min(weekdays.values()) < LEAST_WEEKS:
        return None
    variance = sum(n * (n - 1) * (2 * n + 5) / 18 for n in weekdays.values())
    half = CONFIDENCE_Z * math.sqrt(variance) / 2
    low = slopes[max(math.floor(len(slopes) / 2 - half) - 1, 0)]
    high = slopes[min(math.ceil(len(slopes) / 2 + half), len(slopes) - 1)]
    slope, last = median(slopes), max(peak_by_day)
    today = sorted(peak + slope * (last - day) for day, peak in peak_by_day.items())
    return Trend(
        n_days=len(peak_by_day),
        per_week=slope * WEEK_DAYS,
        low_per_week=low * WEEK_DAYS,
        high_per_week=high * WEEK_DAYS,
        level=quantile(today, BUSY_DAYS),
    )


def quantile(ordered: list[float], share: float) -> float:
    """Return what a share of some ordered values does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
