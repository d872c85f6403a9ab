"""Fleets during four simulated weeks as promtool's input series: days, nights and weekends."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

JOB = 'job="ollama-fleet-exporter",instance="exporter:11440"'
STEP_MIN = 5
DAY_H, WEEK_H = 24, 168
PEAK = 50.0
"""Requests per second by day."""
NOISE = 0.2
Shape = Callable[[float], float]
"""Returns a factor at a time in hours."""


def rhythm(hour: float) -> float:
    """Return the traffic of an ordinary week: by day, at night, on weekends; 1 at most."""
    day = hour % DAY_H
    by_day = 1 / (1 + math.exp(-2 * (day - 8))) - 1 / (1 + math.exp(-2 * (day - 18)))
    is_weekend = hour % WEEK_H >= 5 * DAY_H
    return 0.1 + (0.2 if is_weekend else 0.9) * by_day


def always(_: float) -> float:
    """Return 1: nothing happens."""
    return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Weeks:
    """A fleet during some weeks."""

    cluster: str
    traffic: Shape = always
    """Times the ordinary rhythm."""
    latency_s: Shape = lambda _: 0.1

    def series(self, n_steps: int) -> Iterator[dict[str, str]]:
        """Yield what promtool is fed."""
        dice = random.Random(self.cluster)  # noqa: S311
        hours = [step * STEP_MIN / 60 for step in range(n_steps + 1)]
        each = [round(self._rate(hour, dice) * STEP_MIN * 60) for hour in hours]
        latency = [f"{self.latency_s(hour) * dice.uniform(0.95, 1.05):.4f}" for hour in hours]
        labels = f'{{{JOB},cluster="{self.cluster}",shard="0"'
        yield {
            "series": f'ollama_fleet_requests_total{labels},model="a"}}',
            "values": _text(accumulate(each)),
        }
        p99 = f"ollama_fleet_request_latency_p99_seconds{labels}}}"
        yield {"series": p99, "values": " ".join(latency)}

    def _rate(self, hour: float, dice: random.Random) -> float:
        noise = dice.uniform(1 - NOISE, 1 + NOISE)
        return PEAK * rhythm(hour) * self.traffic(hour) * noise


def _text(values: Iterator[int]) -> str:
    return " ".join(map(str, values))
