"""Commits become transactions that etcd accepts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from provisioning.store.base import NEW, Change, Delete, Put, PutSpec
from provisioning.store.etcd.store import MAX_CHANGES, Found, Keys, Step, range_end, steps
from tests.provisioning.store.examples import instance, instances

KEYS = Keys("demo")
MAX_OPERATIONS = 128
MAX_REQUEST_BYTES = 1.5 * 2**20


def steps_of(changes: Sequence[Change], found: dict[str, Found] | None = None) -> list[Step]:
    return list(steps(changes, found or {}, keys=KEYS, epoch=7))


def test_no_step_is_larger_than_etcd_allows() -> None:
    changes = [Put(one, NEW) for one in instances(1000)]

    made = steps_of(changes)

    assert changes == [change for step in made for change in step.changes]
    for step in made:
        deepest = max(
            len(one.request_txn.compare) + len(one.request_txn.success)
            for one in step.request.success
        )
        assert len(step.request.success) + deepest <= MAX_OPERATIONS


def test_a_commit_takes_no_more_steps_than_it_must() -> None:
    assert 1 == len(steps_of([Put(one, NEW) for one in instances(MAX_CHANGES)]))
    assert 2 == len(steps_of([Put(one, NEW) for one in instances(MAX_CHANGES + 1)]))


def test_large_records_are_spread_over_steps() -> None:
    changes = [Put(instance(f"{n}", port=n + 1, fault="x" * 300_000), NEW) for n in range(20)]

    made = steps_of(changes)

    assert changes == [change for step in made for change in step.changes]
    assert all(step.request.ByteSize() < MAX_REQUEST_BYTES for step in made)
    assert 7 == len(made)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([Put(instance("a", port=1), NEW), Put(instance("b", port=2), NEW)], [2]),
        ([Put(instance("a", port=1), NEW), Put(instance("b", port=1), NEW)], [1, 1]),
        ([Delete("old", 5), Put(instance("b", port=9), NEW)], [1, 1]),
        ([Put(instance("old", port=8), 5), Put(instance("b", port=9), NEW)], [1, 1]),
        ([Put(instance("old", port=9), 5), Put(instance("b", port=8), NEW)], [2]),
        ([Delete("old", 5), Put(instance("old", port=1), NEW)], [1, 1]),
        ([PutSpec("one", NEW), PutSpec("two", NEW)], [1, 1]),
    ],
)
def test_changes_that_touch_one_key_are_in_different_steps(
    changes: list[Change], expected: list[int]
) -> None:
    found = {"old": Found(5, ("n1", 9))}

    assert expected == [len(step.changes) for step in steps_of(changes, found)]


def test_every_step_is_guarded_by_the_leaders_key() -> None:
    for step in steps_of([Put(one, NEW) for one in instances(500)]):
        (guard,) = step.request.compare
        assert (b"/ollama-fleet/demo/leader", 7) == (guard.key, guard.create_revision)
        assert not step.request.failure


def test_names_cannot_leave_their_place() -> None:
    assert b"/ollama-fleet/a%2Fb/leader" == Keys("a/b").leader
    assert b"/ollama-fleet/demo/state/instances/..%2Fspec" == KEYS.instance("../spec")
    assert b"/ollama-fleet/demo/ports/n%2F1/80" == KEYS.port(("n/1", 80))


@pytest.mark.parametrize("name", ["chat-0001", "a/b", "größe 😀", "100%", "%2F"])
def test_an_id_is_read_from_its_key(name: str) -> None:
    assert name == KEYS.instance_id(KEYS.instance(name))


def test_the_specification_is_no_instance() -> None:
    assert KEYS.instance_id(KEYS.spec) is None


def test_a_range_ends_behind_all_that_begins_with_its_prefix() -> None:
    assert b"/a0" == range_end(b"/a/")
