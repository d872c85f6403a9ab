"""Dividing a fleet among exporters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.inventory import Shard


@given(st.text(max_size=300), st.integers(1, 50))
def test_every_instance_belongs_to_exactly_one_shard(instance_id: str, count: int) -> None:
    holders = [index for index in range(count) if Shard(index, count).holds(instance_id)]

    assert 1 == len(holders)


@pytest.mark.parametrize("count", [2, 3, 7, 16])
def test_shards_are_of_nearly_equal_size(count: int) -> None:
    """Five standard deviations of a fair draw."""
    ids = [f"node-{i // 800:03d}-{i:05d}" for i in range(20_000)]

    for index in range(count):
        size = sum(map(Shard(index, count).holds, ids))
        assert len(ids) / count == pytest.approx(size, abs=5 * (len(ids) / count) ** 0.5)


def test_the_division_is_the_same_on_every_machine_and_after_every_restart() -> None:
    """Values from the first release: another hash would move every instance at an upgrade."""
    ids = ["a", "b", "10.0.0.1:11434", "node-001/🦙"]

    found = [next(i for i in range(1_000) if Shard(i, 1_000).holds(id_)) for id_ in ids]

    assert [343, 333, 650, 246] == found


@pytest.mark.parametrize(
    "text", ["", "1", "4/4", "5/4", "0/0", "-1/4", "a/b", "1/2/3", " 0/1", "0/1\n", "٠/١", "0/1e9"]
)
def test_a_shard_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="shard"):
        Shard.parse(text)
