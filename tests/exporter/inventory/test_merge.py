"""What changed between two lists, and which part of a fleet a shard has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.inventory import Change, Shard, diff
from exporter.inventory.merge import keep_identity
from exporter.model import Target

TARGETS = st.builds(
    Target,
    id=st.sampled_from("abcdefgh"),
    host=st.sampled_from(["h", "i"]),
    port=st.integers(1, 2),
    labels=st.sampled_from([{}, {"rack": "r1"}]),
    origin=st.sampled_from(["f:1", "f:2"]),
)
FLEETS = st.lists(TARGETS, unique_by=lambda target: target.id)


@given(FLEETS, FLEETS)
def test_applying_a_change_to_the_old_state_gives_the_new_one(
    before: list[Target], after: list[Target]
) -> None:
    change = diff(before, after)

    fleet = {target.id: target for target in before}
    for target in change.removed:
        assert target == fleet.pop(target.id)
    for old, new in change.changed:
        assert old == fleet[old.id] != new
        assert old.id == new.id
        fleet[new.id] = new
    for target in change.added:
        assert target.id not in fleet
        fleet[target.id] = target
    assert {target.id: target for target in after} == fleet


@given(FLEETS, st.randoms())
def test_neither_order_nor_origin_is_a_change(fleet: list[Target], random: object) -> None:
    moved = [replace(target, origin="elsewhere") for target in reversed(fleet)]

    assert not diff(fleet, moved)


@given(FLEETS, FLEETS)
def test_equal_targets_stay_the_same_objects(before: list[Target], after: list[Target]) -> None:
    old_by_id = {target.id: target for target in before}

    kept = keep_identity(before, after)

    assert tuple(after) == kept
    for target in kept:
        assert (target is old_by_id.get(target.id)) == (target == old_by_id.get(target.id))


def test_a_change_says_what_it_is() -> None:
    a = Target("a", "h", 1)

    assert "added=1 removed=0 changed=0" == str(diff([], [a]))
    assert not Change()


@given(st.text(max_size=300), st.integers(1, 50))
def test_every_instance_belongs_to_exactly_one_shard(instance_id: str, count: int) -> None:
    holders = [index for index in range(count) if Shard(index, count).holds(instance_id)]

    assert 1 == len(holders)


@pytest.mark.parametrize("count", [3, 16])
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
