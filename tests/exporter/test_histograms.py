"""Histograms of any boundaries, merged; what is sure of their quantiles."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.histograms import (
    MAX_LAYOUTS,
    MAX_UNION,
    MergedHistograms,
    RecentBounds,
    gained,
    onto,
    quantile_bounds,
)
from exporter.model import Histogram

LATENCIES_S = st.lists(st.integers(1, 99).map(float), min_size=1, max_size=40)
BOUNDARIES_S = st.sets(st.integers(1, 99).map(float), min_size=1, max_size=8).map(sorted).map(tuple)


def histogram_of(latencies_s: list[float], boundaries_s: tuple[float, ...]) -> Histogram:
    upto = [sum(latency <= edge for latency in latencies_s) for edge in boundaries_s]
    cumulative = tuple(map(float, (*upto, len(latencies_s))))
    return Histogram(cumulative, sum(latencies_s), boundaries_s)


SERVERS = st.lists(st.tuples(LATENCIES_S, BOUNDARIES_S), min_size=1, max_size=5)


@given(SERVERS)
def test_merged_counts_are_never_above_the_truth_and_exact_where_all_have_the_boundary(
    servers: list[tuple[list[float], tuple[float, ...]]],
) -> None:
    merged = MergedHistograms()
    for latencies_s, boundaries_s in servers:
        merged.add("m", histogram_of(latencies_s, boundaries_s))

    total = merged.by_model["m"]
    latencies_s = [latency for latencies_s, _ in servers for latency in latencies_s]
    truth = histogram_of(latencies_s, total.boundaries_s)
    shared = set.intersection(*[set(boundaries_s) for _, boundaries_s in servers])
    assert sorted({edge for _, edges in servers for edge in edges}) == list(total.boundaries_s)
    assert (truth.cumulative[-1], truth.sum_s) == (total.cumulative[-1], total.sum_s)
    assert all(low <= high for low, high in pairwise((0.0, *total.cumulative)))
    for edge, seen, true in zip(
        total.boundaries_s, total.cumulative, truth.cumulative, strict=False
    ):
        assert seen == true if edge in shared else seen <= true


@given(SERVERS, st.randoms(use_true_random=False))
def test_what_is_merged_does_not_depend_on_the_order(
    servers: list[tuple[list[float], tuple[float, ...]]], random: object
) -> None:
    def merge(histograms: list[Histogram]) -> Histogram:
        merged = MergedHistograms()
        for histogram in histograms:
            merged.add("m", histogram)
        return merged.by_model["m"]

    histograms = [histogram_of(*server) for server in servers]

    assert merge(histograms) == merge(histograms[::-1])


@given(SERVERS, st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_within_its_bounds(
    servers: list[tuple[list[float], tuple[float, ...]]], q: float
) -> None:
    bounds = quantile_bounds(q, [histogram_of(*server) for server in servers])

    ordered = sorted(latency for latencies_s, _ in servers for latency in latencies_s)
    true_s = next(latency for n, latency in enumerate(ordered, 1) if n >= q * len(ordered) - 1e-9)
    assert bounds is not None
    lower_s, upper_s = bounds
    assert lower_s < true_s
    assert upper_s is None or true_s <= upper_s


def test_the_bounds_of_equal_histograms_are_the_edges_of_one_bucket() -> None:
    one = histogram_of([0.2] * 99 + [3.0], (0.1, 0.5, 1.0))

    assert (0.1, 0.5) == quantile_bounds(0.99, [one, one])
    assert (1.0, None) == quantile_bounds(0.999, [one])
    assert quantile_bounds(0.99, []) is None


def test_boundaries_beyond_the_limit_are_counted_at_those_that_are_there() -> None:
    full = tuple(map(float, range(1, MAX_UNION + 1)))
    merged = MergedHistograms()
    merged.add("m", histogram_of([3.0], full))
    merged.add("m", histogram_of([0.2, 2.2], (0.5, 2.5)))

    assert full == merged.boundaries_s
    assert (1.0, 1.0, 3.0) == merged.by_model["m"].cumulative[:3]


def test_models_have_the_same_boundaries_and_their_own_counts() -> None:
    merged = MergedHistograms()
    assert {} == merged.by_model
    merged.add("a", histogram_of([1.0], (1.0,)))
    merged.add("b", histogram_of([1.0, 2.0], (2.0,)))

    expected = {"a": Histogram((1.0, 1.0, 1.0), 1.0, (1.0, 2.0))}
    assert {**expected, "b": Histogram((0.0, 2.0, 2.0), 3.0, (1.0, 2.0))} == merged.by_model
    assert Histogram((1.0, 3.0, 3.0), 4.0, (1.0, 2.0)) == merged.total()
    assert 3.0 == merged.total().cumulative[-1]


def test_only_some_layouts_are_told_apart() -> None:
    merged = MergedHistograms()
    for edge in range(1, MAX_LAYOUTS + 10):
        merged.add("m", histogram_of([1.0], (float(edge),)))

    assert MAX_LAYOUTS == len(merged.by_layout)
    assert MAX_LAYOUTS + 9.0 == merged.total().cumulative[-1]


def test_a_server_whose_boundaries_changed_sets_new_marks() -> None:
    before, now = histogram_of([1.0], (1.0,)), histogram_of([1.0, 1.0], (1.0, 2.0))

    assert Histogram((0.0, 0.0, 0.0), 0.0, (1.0, 2.0)) == gained(before, now)
    assert gained(now, histogram_of([1.0, 1.0], (1.0, 2.0))) is None


def test_a_histogram_onto_its_own_boundaries_is_itself() -> None:
    one = histogram_of([1.0], (1.0,))

    assert one is onto(one, (1.0,))


def test_the_bounds_are_those_of_the_last_minutes() -> None:
    merged, recent = MergedHistograms(), RecentBounds()

    def bounds(now_s: float) -> tuple[float, float | None] | None:
        return recent.update(0.99, merged.by_layout, now_s)

    assert bounds(0.0) is None
    merged.add("m", histogram_of([9.0] * 100, (1.0, 5.0)))
    assert (5.0, None) == bounds(30.0)
    for minute in range(1, 7):
        bounds(60.0 * minute)
    merged.add("m", histogram_of([3.0], (1.0, 5.0)))
    merged.add("m", histogram_of([3.0], (2.0, 4.0)))

    assert (2.0, 5.0) == bounds(370.0)


@pytest.mark.parametrize("idle", [1, 5])
def test_without_requests_of_late_there_are_no_bounds(idle: int) -> None:
    merged, recent = MergedHistograms(), RecentBounds()
    merged.add("m", histogram_of([9.0], (1.0,)))

    seen = [recent.update(0.99, merged.by_layout, 60.0 * minute) for minute in range(idle)]

    assert [None] * idle == seen
