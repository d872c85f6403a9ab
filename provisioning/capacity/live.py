"""Ask a Prometheus what a fleet has, what it uses at peak, and when that is no longer enough."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from ollama_fleet.durations import duration_text
from ollama_fleet.prometheus import PrometheusClient, PrometheusError, quoted
from ollama_fleet.urls import without_password
from provisioning.capacity.errors import CannotAskError, PrometheusLacksError

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


# The rules record these; provisioning does not import them, so a test holds the names equal.
INSTANCES = "fleet:ollama_instances:sum"
CAPACITY = "fleet:ollama_tokens_per_second:estimate"
SPEED = "fleet:ollama_tokens_per_second:sum"
GENERATED = "fleet:ollama_generated_tokens:rate"
NODE_INSTANCES = "node:ollama_instances:sum"
NODE_SPEED = "ollama_node_tokens_per_second"

LEAST_SINCE_S, MOST_SINCE_S = 86_400.0, 12 * 604_800.0
HOUR_S, DAY_S = 3600, 86_400
LEAST_HOURS = 20
"""Of a day that counts: the peak of half a day may not be the day's."""
NORMAL = 0.95
RECENT = "10m"
TIMEOUT_S, DEADLINE_S = 60.0, 300.0
MAX_BODY_BYTES = 8 * 2**20

Hours = Mapping[int, float]
"""A value for the hour that ends at a time."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Which of the fleets in a Prometheus."""

    label: str = "cluster"
    name: str | None = None

    def select(self, series: str, *matchers: str) -> str:
        """Return the selector of a series."""
        own = () if self.name is None else (f"{self.label}={quoted(self.name)}",)
        return f"{series}{{{', '.join((*matchers, *own))}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestNode:
    """What the fleet would lose with its largest node."""

    node: str
    n_instances: int
    share: float
    """Of the capacity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a fleet has and uses, in tokens/s."""

    n_healthy: int
    capacity: float
    """Sum of what each instance generates alone, extrapolated to those that were not measured."""
    peak: float
    peak_at_s: float
    busiest_hour: float
    """The mean of that hour."""
    busiest_hour_at_s: float
    """Its end."""
    busiest_hour_share: float
    """Of the capacity of that hour."""
    normal_hour: float
    """95 of 100 hours are not busier."""
    n_hours: int
    trend: Trend | None
    largest: LargestNode | None

    @property
    def capacity_without_largest(self) -> float | None:
        """Return what remains without the largest node."""
        return None if self.largest is None else self.capacity * (1 - self.largest.share)


async def ask(url: str, fleet: Fleet, *, since_s: float, now_s: float) -> Live:
    """Ask a Prometheus.

    Raises:
        CannotAskError: It gives no answer.
        PrometheusLacksError: It lacks what it takes, or has several fleets.
    """
    client = PrometheusClient(url.rstrip("/"), timeout_s=TIMEOUT_S, max_body_bytes=MAX_BODY_BYTES)
    shown = without_password(client.url)
    try:
        async with client, asyncio.timeout(DEADLINE_S):
            return await _Questions(client, fleet, shown, now_s, since_s).live()
    except PrometheusError as error:
        raise CannotAskError(
            f"{shown} {error}; is --prometheus.url the address of a Prometheus that runs?"
        ) from error
    except TimeoutError as error:
        raise CannotAskError(
            f"{shown} did not answer everything within {duration_text(DEADLINE_S)}; a shorter "
            "--since asks for less"
        ) from error


@dataclass(frozen=True, slots=True)
class _Questions:
    client: PrometheusClient
    fleet: Fleet
    shown: str
    now_s: float
    since_s: float

    async def live(self) -> Live:
        healthy = await self._now(self.fleet.select(INSTANCES, 'status="healthy"'), INSTANCES)
        capacity = await self._now(self.fleet.select(CAPACITY), CAPACITY)
        used = await self._hours("avg", GENERATED)
        peaks = await self._hours("max", GENERATED)
        capacities = await self._hours("avg", CAPACITY)
        peak_at_s = max(peaks, key=lambda at_s: peaks[at_s])
        busiest_at_s = max(used, key=lambda at_s: used[at_s])
        return Live(
            n_healthy=round(healthy),
            capacity=capacity,
            peak=peaks[peak_at_s],
            peak_at_s=peak_at_s,
            busiest_hour=used[busiest_at_s],
            busiest_hour_at_s=busiest_at_s,
            busiest_hour_share=used[busiest_at_s] / (capacities.get(busiest_at_s) or capacity),
            normal_hour=quantile(sorted(used.values()), NORMAL),
            n_hours=len(used),
            trend=trend(daily_peaks(used)),
            largest=await self._largest(),
        )

    async def _now(self, selector: str, name: str) -> float:
        """Return the value that a series has, or had a few minutes ago."""
        answer = await self.client.query(f"last_over_time({selector}[{RECENT}])")
        values = [one.number for one in answer.series if math.isfinite(one.number)]
        if not values:
            raise self._lacks(name, f"the last {RECENT}")
        self._check_is_one([one.metric for one in answer.series])
        if values[0] <= 0:
            raise PrometheusLacksError(f"{self.shown} says that {name} is 0: nothing is healthy")
        return values[0]

    async def _hours(self, function: str, name: str) -> Hours:
        """Return the mean or maximum of a series in each hour."""
        end_s = self.now_s // HOUR_S * HOUR_S
        answer = await self.client.query_range(
            f"{function}_over_time({self.fleet.select(name)}[1h])",
            start_s=end_s - self.since_s // HOUR_S * HOUR_S + HOUR_S,
            end_s=end_s,
            step_s=HOUR_S,
        )
        self._check_is_one([one.metric for one in answer])
        found = {
            int(at_s): value
            for one in answer
            for at_s, value in one.numbers
            if math.isfinite(value)
        }
        if not found:
            raise self._lacks(name, f"the last {duration_text(self.since_s)}")
        return found

    async def _largest(self) -> LargestNode | None:
        """Return the node with the largest capacity; None where nodes are not known."""
        label = self.fleet.label
        speed = self.fleet.select(NODE_SPEED, 'node!=""')
        each = (
            f"sum by ({label}, node) (max by ({label}, shard, node, model, engine) "
            f"(last_over_time({speed}[{RECENT}])))"
        )
        total = f"last_over_time({self.fleet.select(SPEED)}[{RECENT}])"
        top = await self.client.query(f"topk(1, {each} / on ({label}) group_left () {total})")
        if not top.series or not math.isfinite(top.series[0].number):
            return None
        node = top.series[0].metric.get("node", "")
        selector = self.fleet.select(NODE_INSTANCES, 'status="healthy"', f"node={quoted(node)}")
        count = await self.client.query(f"sum(last_over_time({selector}[{RECENT}]))")
        n_instances = sum(round(one.number) for one in count.series if math.isfinite(one.number))
        return LargestNode(node=node, n_instances=n_instances, share=top.series[0].number)

    def _lacks(self, name: str, when: str) -> PrometheusLacksError:
        return PrometheusLacksError(
            f"{self.shown} has no {self.fleet.select(name).removesuffix('{}')} in {when}: load the "
            "rules of `ollama-fleet alerts build` there; servers that report neither speed nor "
            "tokens need canaries (--canary.period of the exporter)"
        )

    def _check_is_one(self, found: list[dict[str, str]]) -> None:
        names = sorted({metric.get(self.fleet.label, "") for metric in found})
        if len(names) > 1:
            raise PrometheusLacksError(
                f"{self.shown} has {len(names)} fleets, by the label {self.fleet.label}: name one "
                f"with --cluster, such as {names[-1]}"
            )


def daily_peaks(used: Hours) -> dict[int, float]:
    """Return the busiest hour of each day that is there, in UTC."""
    hours = defaultdict[int, list[float]](list)
    for at_s, value in used.items():
        hours[(at_s - 1) // DAY_S].append(value)
    return {day: max(values) for day, values in hours.items() if len(values) >= LEAST_HOURS}
