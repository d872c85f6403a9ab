"""When a drain will be over."""

from __future__ import annotations

import math

import pytest

from provisioning.controller import MARGIN_S, next_wakeup_s
from provisioning.model import Instance, Phase, Rotation
from provisioning.spec_index import SpecIndex
from tests.provisioning.making import NOW_S, fleet, instance, pool

ROSTER = SpecIndex(fleet(pool(3, rotation=Rotation(drain_s=30.0))))


def approx(value_s: float) -> object:
    """Return what equals a difference of times of today, which are rounded."""
    return pytest.approx(value_s, abs=1e-6)


def draining(for_s: float, **fields: object) -> Instance:
    return instance(1, phase=Phase.DRAINING, since_s=NOW_S - for_s, **fields)


def left_s(*instances: Instance) -> float:
    return next_wakeup_s(ROSTER, instances, since_s=NOW_S)


def test_the_first_that_ends_counts() -> None:
    assert 10.0 + MARGIN_S == approx(left_s(draining(5.0), draining(20.0), draining(0.0)))


@pytest.mark.parametrize("phase", [one for one in Phase if one is not Phase.DRAINING])
def test_only_drains_count(phase: Phase) -> None:
    assert math.inf == left_s(instance(1, phase=phase, since_s=NOW_S - 5.0))


def test_one_that_was_over_before_is_held_up_by_something_else() -> None:
    assert math.inf == left_s(draining(31.0))
    assert 10.0 + MARGIN_S == approx(left_s(draining(31.0), draining(20.0)))


def test_one_that_has_no_time_is_over_at_once() -> None:
    spec_index = SpecIndex(fleet(pool(3, rotation=Rotation(drain_s=0.0))))

    assert MARGIN_S == approx(next_wakeup_s(spec_index, [draining(0.0)], since_s=NOW_S))


def test_without_its_pool_an_instance_drains_as_long_as_decide_lets_it() -> None:
    expected_s = Rotation().drain_s - 5.0 + MARGIN_S

    assert expected_s == approx(left_s(draining(5.0, pool="gone")))
