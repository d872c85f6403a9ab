from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from ollama_fleet import descriptors


@pytest.fixture
def _limits() -> Iterator[None]:
    """Leave the process as it was."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("limit", "expected"), [(1_000_000, 500), (200, 50), (3, 1), (resource.RLIM_INFINITY, 500)]
)
def test_one_use_takes_a_quarter_of_a_low_limit(
    monkeypatch: pytest.MonkeyPatch, limit: int, expected: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))

    assert expected == descriptors.share(500)


@pytest.mark.usefixtures("_limits")
def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

    assert [hard, hard] == [descriptors.raise_limit() for _ in range(2)]
    assert (hard, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
