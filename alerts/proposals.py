"""Decide on a threshold from the history of what its alert compares with it; no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ollama_fleet.durations import duration_text

DAY_S = 86_400.0
LEAST_S = 3 * DAY_S
LEAST_COVERED = 0.2
"""A fleet that is used in office hours has no latency at night and at weekends."""
INCIDENT_EVERY_S = 14 * DAY_S
"""One incident in so long is left out, with the day around it."""
NORMAL = 0.999
MARGIN = 0.15
TREND_S = 7 * DAY_S
"""What is compared to see a trend: whole weeks, which hold as many idle days."""
TREND = 1.15
DIGITS = 2
FINEST = 0.001

Point = tuple[float, float]
"""Seconds since 1970, and the value that held for the alert's `for`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What was seen of one quantity."""

    points: Sequence[Point]
    """In the order of time."""
    step_s: float
    fired_s: Sequence[float]
    """When the alert would have fired under the present threshold."""
    is_floor: bool
    """Whether low values are the bad ones."""
    moves_both_ways: bool
    is_share: bool
    """Whether the threshold must stay below 1."""
    is_seasonal: bool = False
    """Whether the values are about the same hour of other weeks, and so know of no trend."""
    absent: str
    """Why there may be no points."""
    text: Callable[[float], str]
    """How the settings file writes a value."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A threshold, or None to keep the present one, and why."""

    value: float | None
    reason: str
    seen: Mapping[str, float]
    """Median, 99th percentile and worst, counted towards the bad; empty where nothing was seen."""


@dataclass(frozen=True, slots=True)
class Episodes:
    """How often an alert fired, and for how long altogether."""

    count: int
    minutes: int


NEVER = Episodes(0, 0)


def propose(history: History) -> Proposal:
    """Return the threshold that normal times stay clear of."""
    points, ignored = history.points, ""
    if history.is_floor:
        points = [point for point in points if point[1] > 0]
        if idle := len(history.points) - len(points):
            ignored = f"; {idle / len(history.points):.0%} of the time was idle, at 0"
    if why := _insufficient(points, history):
        value, reason = None, f"kept: {why}"
    else:
        value, reason = _decision(points, history)
    return Proposal(value, reason + ignored, _seen(points, history) if points else {})


def episodes(times_s: Sequence[float], step_s: float, keep_firing_for_s: float) -> Episodes:
    """Return how often an alert fired that did at these times, and for how long."""
    return Episodes(
        len(split(times_s, step_s, keep_firing_for_s)), round(len(times_s) * step_s / 60)
    )


def split(times_s: Sequence[float], step_s: float, keep_firing_for_s: float) -> list[list[float]]:
    """Return the times of each episode; breaks shorter than `keep_firing_for` do not end one."""
    found: list[list[float]] = []
    for at_s in times_s:
        if not found or at_s - found[-1][-1] > step_s + keep_firing_for_s:
            found.append([])
        found[-1].append(at_s)
    return found


def readable(value: float, *, is_floor: bool) -> float:
    """Return a value with two digits: rounded down for a floor, otherwise up."""
    if value <= 0:
        return 0.0
    unit = max(10.0 ** (math.floor(math.log10(value)) - DIGITS + 1), FINEST)
    count = math.floor(value / unit + 1e-9) if is_floor else math.ceil(value / unit - 1e-9)
    return round(count * unit, 12)


def _insufficient(points: Sequence[Point], history: History) -> str:
    if not points:
        return history.absent
    span_s = points[-1][0] - points[0][0] + history.step_s
    seen_s = len(points) * history.step_s
    if span_s < LEAST_S:
        return (
            f"the history is too short, {_hours(span_s)}; it takes at least "
            f"{duration_text(LEAST_S)}"
        )
    if seen_s < LEAST_COVERED * span_s:
        return f"the history has gaps, {_hours(seen_s)} of {_hours(span_s)} are there"
    return ""


def _decision(points: Sequence[Point], history: History) -> tuple[float | None, str]:
    text = history.text
    if trend := _trend(points, history):
        before, now = map(text, trend)
        return None, (
            f"kept: it got worse, the median was {before} in the first week and {now} in the last; "
            "find the cause first, or a new threshold hides it"
        )
    normal, left_out = _normal_times(points, history.is_floor)
    if not history.moves_both_ways and _fits(normal, history):
        return None, "kept: it would not have fired in normal times"
    edge = _quantile([value for _, value in normal], NORMAL, is_floor=history.is_floor)
    value = readable(
        edge * (1 - MARGIN if history.is_floor else 1 + MARGIN), is_floor=history.is_floor
    )
    if not 0 < value < (1 if history.is_share else math.inf):
        return None, f"kept: normal times reach {text(edge)}, and no threshold is beyond that"
    # What users can bear does not change because a fleet is always beyond it.
    doubt = "" if history.moves_both_ways else "; a fault that never ended looks the same"
    return value, (
        f"{NORMAL:.1%} of normal times are not worse than {text(edge)}; {MARGIN:.0%} of margin, "
        f"rounded; normal is all but 12h around {', '.join(map(_moment, left_out))}{doubt}"
    )


def _normal_times(points: Sequence[Point], is_floor: bool) -> tuple[list[Point], list[float]]:
    """Return the points without the days around the worst moments, and these moments.

    A day is left out whole, as an incident has a beginning and an aftermath. What comes back each
    day or week is none: it stays.
    """
    rest, left_out = list(points), []
    for _ in range(math.ceil((points[-1][0] - points[0][0]) / INCIDENT_EVERY_S)):
        at_s, _ = (min if is_floor else max)(rest, key=lambda point: point[1])
        left_out.append(at_s)
        rest = [point for point in rest if abs(point[0] - at_s) > DAY_S / 2]
    return rest, left_out


def _fits(normal: Sequence[Point], history: History) -> bool:
    fired = set(history.fired_s).intersection(at_s for at_s, _ in normal)
    return len(fired) <= (1 - NORMAL) * len(normal)


def _trend(points: Sequence[Point], history: History) -> tuple[float, float] | None:
    """Return the medians of the first and the last week, where the last is worse by far."""
    first_s, last_s = points[0][0], points[-1][0]
    if history.is_seasonal or last_s - first_s < 2 * TREND_S - DAY_S / 2:
        return None
    before = _median([value for at_s, value in points if at_s < first_s + TREND_S])
    now = _median([value for at_s, value in points if at_s > last_s - TREND_S])
    low, high = (now, before) if history.is_floor else (before, now)
    return (before, now) if 0 < TREND * low < high else None


def _seen(points: Sequence[Point], history: History) -> dict[str, float]:
    values = [value for _, value in points]
    parts = {"median": 0.5, "99th percentile": 0.99, "worst": 1.0}
    return {name: _quantile(values, q, is_floor=history.is_floor) for name, q in parts.items()}


def _median(values: Sequence[float]) -> float:
    return _quantile(values, 0.5, is_floor=False)


def _quantile(values: Sequence[float], q: float, *, is_floor: bool) -> float:
    """Return what a part of the values is not worse than."""
    ordered = sorted(values, reverse=is_floor)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def _hours(duration_s: float) -> str:
    return duration_text(round(duration_s / 3600) * 3600)


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")
