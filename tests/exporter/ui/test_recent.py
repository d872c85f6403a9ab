from __future__ import annotations

import asyncio

import pytest

from exporter.canary_counters import CanaryCounters
from exporter.catalogue import (
    BOUNDARIES_S,
    FLEET_CANARY_DURATION,
    FLEET_CANARY_TIME_TO_FIRST_TOKEN,
    FLEET_CANARY_WAITING,
    FLEET_REQUEST_DURATION,
)
from exporter.counters import Delta, FleetCounters
from exporter.model import CanaryOutcome, Generation, Histogram
from exporter.steps import run_with_pauses
from exporter.ui.recent import SAMPLE_INTERVAL_S, SAMPLES_KEPT, RecentHistory, histogram_quantile
from tests.exporter.ui.building import FakePoller, HeldClock, cell

N_BUCKETS = len(BOUNDARIES_S) + 1


class Past:
    """An exporter's memory of the last minutes, and what it is about."""

    def __init__(self) -> None:
        self.clock = HeldClock()
        self.poller = FakePoller()
        self.fleet_counters = FleetCounters()
        self.recent = RecentHistory(self.poller, self.fleet_counters, self.clock)  # type: ignore[arg-type]

    async def minute(self, **errors: float | None) -> dict[str, int | None]:
        """Let instances have had so many errors in all; sample, and return the recent ones."""
        told = self.now(**errors)
        await self.recent.sample()
        return told

    def now(self, **errors: float | None) -> dict[str, int | None]:
        self.poller.show(*[cell(id_, errors=total) for id_, total in errors.items()])
        return {
            row.target.id: self.recent.errors_of(row) for row in run_with_pauses(self.poller.rows())
        }

    def finish(self, model: str, **requests_upto: int) -> None:
        """Record requests; `le3` of them are at or below the third boundary, and so on."""
        cumulative = [0.0] * N_BUCKETS
        for name, n in requests_upto.items():
            for place in range(int(name.removeprefix("le")) - 1, N_BUCKETS):
                cumulative[place] += n
        delta = Delta(durations=Histogram(tuple(cumulative), 1.0))
        self.fleet_counters.record("n1", model, delta)


@pytest.fixture
def past() -> Past:
    return Past()


# Errors


async def test_what_an_instance_brings_along_is_not_recent(past: Past) -> None:
    await past.minute(a=500.0, b=0.0)

    assert {"a": 0, "b": 0} == past.now(a=500.0, b=0.0)
    assert {"a": 3, "b": 2} == past.now(a=503.0, b=2.0)


async def test_errors_count_for_five_minutes(past: Past) -> None:
    told = [await past.minute(a=10.0)]
    told += [await past.minute(a=14.0) for _ in range(SAMPLES_KEPT + 1)]

    # The first sample to hold all four is the oldest one only once five more have followed.
    assert [None, 4, 4, 4, 4, 4, 4, 0] == [each["a"] for each in told]


async def test_an_instance_that_comes_later_begins_with_what_it_brings(past: Past) -> None:
    await past.minute(a=1.0)

    assert {"a": 0, "b": 0} == past.now(a=1.0, b=800.0)
    assert {"a": 0, "b": 5} == past.now(a=1.0, b=805.0)
    await past.minute(a=1.0, b=806.0)
    assert {"a": 0, "b": 7} == past.now(a=1.0, b=807.0)


async def test_an_instance_that_comes_back_with_less_has_none(past: Past) -> None:
    await past.minute(a=500.0)

    assert {"a": 0} == past.now(a=3.0)


async def test_samples_are_taken_once_the_fleet_was_seen_and_then_every_minute(
    past: Past,
) -> None:
    past.poller.show(cell("a", errors=10.0))
    running = asyncio.create_task(past.recent.run())
    await _turns()
    assert {"a": None} == past.now(a=10.0)

    past.poller.has_seen_all.set()
    await _turns()
    assert {"a": 4} == past.now(a=14.0)
    for _ in range(SAMPLES_KEPT - 1):
        past.clock.move(SAMPLE_INTERVAL_S)
        await _turns()
    assert {"a": 4} == past.now(a=14.0)
    past.clock.move(SAMPLE_INTERVAL_S)
    await _turns()

    assert {"a": 0} == past.now(a=14.0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# Latency


async def test_the_fleets_p99_is_of_the_requests_since_the_oldest_sample(past: Past) -> None:
    past.finish("m1", le16=1000)  # slow ones, long ago
    await past.recent.sample()
    past.finish("m1", le3=60)
    past.finish("m2", le3=39, le5=1)

    # The 99th of 100 is the last of the 99 in the third bucket, which is 0.075 to 0.1.
    assert {FLEET_REQUEST_DURATION: pytest.approx(0.1)} == past.recent.p99s_s()


async def test_a_time_that_was_not_counted_of_late_has_no_p99(past: Past) -> None:
    past.finish("m", le5=10)
    assert {} == past.recent.p99s_s()
    await past.recent.sample()

    assert {} == past.recent.p99s_s()


async def test_canaries_have_p99s_apart_from_those_of_requests(past: Past) -> None:
    past.fleet_counters.canary = canaries = CanaryCounters()
    await past.recent.sample()
    answered = Generation(8.0, time_to_first_token_s=0.06, waiting_s=0.01)

    canaries.record("m", CanaryOutcome.OK, answered, 1.2)

    assert {
        FLEET_CANARY_DURATION: pytest.approx(2.485),
        FLEET_CANARY_TIME_TO_FIRST_TOKEN: pytest.approx(0.07475),
        FLEET_CANARY_WAITING: pytest.approx(0.0495),
    } == past.recent.p99s_s()


def quantile_of(q: float, **n_by_bucket: int) -> float:
    """Return a quantile; `b1` is the first bucket, `b17` what is above the last boundary."""
    counts = [n_by_bucket.get(f"b{place}", 0) for place in range(1, N_BUCKETS + 1)]
    cumulative = tuple([float(sum(counts[: place + 1])) for place in range(N_BUCKETS)])
    return histogram_quantile(q, Histogram(cumulative, 1.0))


@pytest.mark.parametrize(
    ("q", "n_by_bucket", "expected_s"),
    [
        (0.99, {"b1": 100}, 0.0495),  # from nothing to 0.05
        (0.5, {"b5": 100}, 0.1375),  # halfway from 0.125 to 0.15
        (0.99, {"b4": 98, "b6": 2}, 0.1625),  # rank 99: one of two, from 0.15 to 0.175
        (0.99, {"b4": 99, "b6": 1}, 0.125),  # rank 99: the end of the fourth
        (0.99, {"b3": 1, "b17": 99}, 120.0),  # above the last boundary there is no telling
        (0.99, {"b16": 10}, 119.4),
    ],
)
def test_quantiles_are_interpolated_as_prometheus_does(
    q: float, n_by_bucket: dict[str, int], expected_s: float
) -> None:
    assert pytest.approx(expected_s) == quantile_of(q, **n_by_bucket)
