from __future__ import annotations

from tests.bench.rules import words


def test_the_middle_evaluation_is_held_against_the_target_and_the_slowest_group_named() -> None:
    told = words({"nodes": 0.2, "counts": 0.01}, [0.3, 0.9, 0.21])

    assert (
        "alert rules: all 2 groups together take Prometheus 0.300 s per evaluation (median of 3; "
        "worst 0.900 s); the slowest is nodes with 0.200 s. Target of at most 0.5 s: met"
    ) == told


def test_a_target_that_is_missed_is_told() -> None:
    assert words({"nodes": 0.6}, [0.6, 0.6, 0.1]).endswith("Target of at most 0.5 s: missed")
