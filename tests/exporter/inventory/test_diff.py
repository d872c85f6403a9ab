"""What changed between two states of the fleet."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from exporter.inventory import Change, diff
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
