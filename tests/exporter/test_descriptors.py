from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from exporter import app
from exporter.app import RESERVE


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

    assert hard == app.raise_limit()
    assert (hard, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)


@pytest.mark.parametrize(
    ("n_instances", "limit", "expected"),
    [
        (0, 1024, None),
        (1024 - RESERVE - 9, 1024, None),
        (1024 - RESERVE - 8, 1024, 1024 - RESERVE - 9),
        (100_000, 1024, 1024 - RESERVE - 9),
        (1, RESERVE, None),
        (2, RESERVE, 1),
        (2, 10, 1),
    ],
)
def test_a_fleet_that_does_not_fit_shares_the_room_there_is(
    n_instances: int, limit: int, expected: int | None
) -> None:
    assert expected == app.instance_connections(n_instances, limit, n_clients=9)


def test_the_warning_says_which_limit_and_what_helps() -> None:
    text = app.descriptor_shortage(10_000, 1024, max_clients=200)

    assert "10,000 instances" in text
    assert "limit of 1,024" in text
    assert f"to {10_000 + RESERVE + 200:,} (ulimit -n, LimitNOFILE=) or use --shard" in text
