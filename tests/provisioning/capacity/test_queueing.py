"""How many instances a load takes, against published tables."""

from __future__ import annotations

import pytest

from provisioning.capacity.errors import ImpossibleError
from provisioning.capacity.sizing import concurrency, instances_for

PUBLISHED = [
    (10, 0.001, 3.092), (10, 0.01, 4.461), (15, 0.01, 8.108), (20, 0.01, 12.03),
    (50, 0.01, 37.90), (100, 0.001, 75.24), (100, 0.01, 84.06),
]  # fmt: skip
"""Lines, share of refused calls, and the erlangs that they carry: any Erlang B table."""


@pytest.mark.parametrize(("n", "share", "offered"), PUBLISHED)
def test_instances_are_those_of_published_erlang_tables(
    n: int, share: float, offered: float
) -> None:
    assert n == instances_for(offered * 0.999, share)
    assert n + 1 == instances_for(offered * 1.01, share)


def test_requests_at_once_are_their_rate_times_their_duration() -> None:
    assert pytest.approx(5.952, abs=0.001) == concurrency(0.5, 500 / 42)


def test_a_small_load_on_many_instances_and_a_huge_one_have_answers() -> None:
    assert 1 == instances_for(1e-9, 0.001) == instances_for(100, 1.0)
    assert 999_000 < instances_for(1e6, 0.001) < 1_000_000  # a thousandth goes away
    with pytest.raises(ImpossibleError, match="check --developers"):
        instances_for(1.1e6, 0.001)
