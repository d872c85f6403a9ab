from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from exporter import descriptors
from exporter.descriptors import RESERVE


@pytest.fixture
def _limits() -> Iterator[None]:
    """Leave the process as it was."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_limits")
def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

    assert hard == descriptors.raise_limit()
    assert (hard, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)


@pytest.mark.parametrize(
    ("n_instances", "limit", "expected"),
    [
        (0, 1024, None),
        (1024 - RESERVE, 1024, None),
        (1024 - RESERVE + 1, 1024, 1024 - RESERVE),
        (100_000, 1024, 1024 - RESERVE),
        (1, RESERVE, None),
        (2, RESERVE, 1),
        (2, 10, 1),
    ],
)
def test_a_fleet_that_does_not_fit_shares_the_room_there_is(
    n_instances: int, limit: int, expected: int | None
) -> None:
    assert expected == descriptors.n_slots(n_instances, limit)


def test_the_warning_says_which_limit_and_what_helps() -> None:
    text = descriptors.warning(10_000, 1024)

    assert "10,000 instances" in text
    assert "limit of 1,024" in text
    assert f"to {10_000 + RESERVE:,} (ulimit -n, LimitNOFILE=) or use --shard" in text


def test_what_the_warning_asks_for_is_enough() -> None:
    assert descriptors.n_slots(10_000, 10_000 + RESERVE) is None
