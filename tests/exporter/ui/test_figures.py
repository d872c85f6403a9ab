from __future__ import annotations

from collections import Counter

import pytest

from exporter.model import Status
from exporter.ui.cells import Totals
from exporter.ui.summary import (
    Bound,
    Limits,
    Name,
    is_met,
    n_expected,
    thresholds,
    throughput,
    values,
)
from ollama_fleet.levels import Level, parse_level
from tests.exporter.ui.building import LIMITS


def totals(speed: float = 0.0, n_measured: int = 0, **instances: int) -> Totals:
    counts = Counter({Status(name): n for name, n in instances.items()})
    return Totals(counts, speed, n_measured, [])


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (totals(400.0, 10, healthy=10), 400.0),
        (totals(400.0, 8, healthy=10), 500.0),  # the two others are taken to do 50 each
        (totals(250.0, 5, healthy=10), 500.0),  # half of them are just enough
        (totals(200.0, 4, healthy=10), None),
        (totals(0.0, 0, healthy=10), None),
        (totals(0.0, 0, healthy=0), None),
        (totals(0.0, 10, healthy=10), 0.0),
    ],
)
def test_throughput_is_extrapolated_to_instances_of_unknown_speed(
    of: Totals, expected: float | None
) -> None:
    assert expected == throughput(of)


def test_what_is_drained_or_provisioned_is_not_expected_to_serve() -> None:
    assert (
        6
        == n_expected(totals(healthy=1, unhealthy=1, unreachable=1, loading=2, unknown=1))
        == n_expected(
            totals(
                healthy=1,
                unhealthy=1,
                unreachable=1,
                loading=2,
                unknown=1,
                draining=4,
                provisioning=9,
            )
        )
    )


@pytest.mark.parametrize(
    ("text", "n_instances", "expected"),
    [
        ("99%", 10_000, 9900),
        ("99%", 50, 49),  # 49.5: rounded down
        ("99%", 1, 0),
        ("9900", 10, 9900.0),
        ("0.5", 10, 0.5),
    ],
)
def test_a_share_of_the_instances_is_rounded_down(
    text: str, n_instances: int, expected: float
) -> None:
    limits = Limits(parse_level(text), 0.15, Level(1.0))

    assert expected == thresholds(limits, n_instances)[Name.HEALTHY_INSTANCES]


def test_the_default_thresholds_of_ten_thousand_are_the_articles() -> None:
    assert {
        Name.HEALTHY_INSTANCES: 9900,
        Name.REQUEST_LATENCY_P99: 0.15,
        Name.TOKENS_PER_SECOND: 400_000.0,
    } == thresholds(LIMITS, 10_000)


@pytest.mark.parametrize(
    ("value", "bound", "expected"),
    [
        (9.9, Bound.FLOOR, False),
        (10.0, Bound.FLOOR, True),
        (10.1, Bound.FLOOR, True),
        (9.9, Bound.CEILING, True),
        (10.0, Bound.CEILING, True),
        (10.1, Bound.CEILING, False),
        (None, Bound.FLOOR, None),
        (None, Bound.CEILING, None),
    ],
)
def test_at_its_threshold_a_figure_is_still_good(
    value: float | None, bound: Bound, expected: bool | None
) -> None:
    assert expected is is_met(value, 10.0, bound)


VALUES = values(totals(4000.0, 100, healthy=98, unhealthy=2), 0.2)
