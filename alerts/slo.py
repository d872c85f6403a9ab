"""Judge a period by the service level: what was kept, what is left of the budget, the worst hours.

Hours without data are neither good nor bad: what is measured is of the minutes that are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

HOUR_S = 3600
DAY_S = 86_400
LEAST_COVERED = 0.5
"""Hours with less are shown as without data: after a crash the last value stays for minutes."""
MAX_WORST = 10
LEAST_OF_BUDGET = 0.01
"""An hour that takes less of the budget is not among the worst."""


class Verdict(StrEnum):
    """Whether an objective was kept."""

    MET = "met"
    MISSED = "missed"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """One hour; what is None was not measured."""

    start_s: int
    covered: float = 0.0
    """Share of the hour in which availability was recorded, 0 to 1."""
    available: float | None = None
    """Mean share of the instances that should serve and do."""
    requests: float | None = None
    failed: float | None = None

    @property
    def missing_hours(self) -> float:
        """Return the part of an hour in which the whole fleet would have to be away for this."""
        return 0.0 if self.available is None else self.covered * max(1 - self.available, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """An objective, and what was measured."""

    objective: float
    measured: float | None

    @property
    def verdict(self) -> Verdict:
        """Return whether it was kept."""
        if self.measured is None:
            return Verdict.UNKNOWN
        return Verdict.MET if self.measured >= self.objective else Verdict.MISSED

    @property
    def budget_used(self) -> float | None:
        """Return which share of the error budget is gone; above 1 it was not enough."""
        if self.measured is None:
            return None
        return (1 - self.measured) / (1 - self.objective) if self.objective < 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """An alert that fired in an hour, or soon after it."""

    alert: str
    severity: str
    minutes: int
    summary: str = ""
    """Of an alert of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """An hour that took much of a budget, and what is known of its causes."""

    hour: Hour
    of_availability: float
    """The share of the period's budget that this hour took."""
    of_requests: float
    fired: tuple[Fired, ...] = ()
    nodes: tuple[str, ...] = ()
    """With missing instances, the most first."""

    @property
    def of_budget(self) -> float:
        """Return the share that ranks it."""
        return max(self.of_availability, self.of_requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The service level of one fleet in a period."""

    cluster: str
    hours: tuple[Hour, ...]
    availability: Level
    at_worst: float
    """Availability, were every minute without data an outage of the whole fleet."""
    requests: Level
    n_requests: float | None
    n_failed: float | None
    worst: tuple[Worst, ...]

    @property
    def start_s(self) -> int:
        """Return the beginning of the period."""
        return self.hours[0].start_s

    @property
    def end_s(self) -> int:
        """Return its end."""
        return self.hours[-1].start_s + HOUR_S

    @property
    def covered_hours(self) -> float:
        """Return how much of the period there are data of."""
        return sum(hour.covered for hour in self.hours)

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Return begin and end of the times of which at least half of the data are missing."""
        return tuple(_gaps(self.hours))


def judge(cluster: str, hours: Sequence[Hour], *, availability: float, requests: float) -> Report:
    """Return the report of some hours, without the causes of the worst."""
    covered, missing = (sum(values) for values in zip(*map(_minutes, hours), strict=True))
    counted = [hour for hour in hours if hour.requests is not None]
    n_requests = sum(hour.requests or 0.0 for hour in counted)
    n_failed = sum(hour.failed or 0.0 for hour in counted)
    available = Level(objective=availability, measured=1 - missing / covered if covered else None)
    succeeded = Level(
        objective=requests, measured=1 - n_failed / n_requests if n_requests else None
    )
    return Report(
        cluster=cluster,
        hours=tuple(hours),
        availability=available,
        at_worst=(covered - missing) / len(hours),
        requests=succeeded,
        n_requests=n_requests if counted else None,
        n_failed=n_failed if counted else None,
        worst=tuple(_worst(hours, covered * (1 - availability), n_requests * (1 - requests))),
    )


def _minutes(hour: Hour) -> tuple[float, float]:
    return hour.covered, hour.missing_hours


def _worst(hours: Sequence[Hour], budget_hours: float, budget_requests: float) -> Iterator[Worst]:
    shares = (
        Worst(
            hour=hour,
            of_availability=hour.missing_hours / budget_hours if budget_hours else 0.0,
            of_requests=(hour.failed or 0.0) / budget_requests if budget_requests else 0.0,
        )
        for hour in hours
    )
    bad = (one for one in shares if one.of_budget >= LEAST_OF_BUDGET)
    yield from sorted(bad, key=lambda one: (-one.of_budget, one.hour.start_s))[:MAX_WORST]


def with_causes(
    worst: Worst, fired: Sequence[Fired], nodes: Sequence[str], *, summaries: dict[str, str]
) -> Worst:
    """Return an hour with what is known of its causes; alerts that page come first."""
    known = (replace(one, summary=summaries.get(one.alert, "")) for one in fired)
    ranked = sorted(known, key=lambda one: (one.severity, -one.minutes, one.alert))
    return replace(worst, fired=tuple(ranked), nodes=tuple(nodes))


def _gaps(hours: Sequence[Hour]) -> Iterator[tuple[int, int]]:
    begin_s = None
    for hour in hours:
        is_gap = hour.covered < LEAST_COVERED
        if is_gap and begin_s is None:
            begin_s = hour.start_s
        if not is_gap and begin_s is not None:
            yield begin_s, hour.start_s
            begin_s = None
    if begin_s is not None:
        yield begin_s, hours[-1].start_s + HOUR_S


def days(hours: Sequence[Hour]) -> list[tuple[int, list[Hour]]]:
    """Return the hours of each day (UTC) by its beginning."""
    found: dict[int, list[Hour]] = {}
    for hour in hours:
        found.setdefault(hour.start_s // DAY_S * DAY_S, []).append(hour)
    return list(found.items())
