"""What becomes of containers without a record: few are collected, many make the store doubtful."""

from __future__ import annotations

import pytest

from provisioning.actions import Action, CreateInstance, GarbageCollect, Start, Stop
from provisioning.model import ContainerState, Instance, NodeReport, Phase
from provisioning.reconcile import decide
from provisioning.state import find_orphans, orphan_policy
from tests.provisioning.making import (
    GIB,
    NOW_S,
    fleet,
    found,
    instance,
    node,
    observed,
    pool,
    report,
    silent,
)

NODES = tuple(node(name, cpus=100.0, memory_bytes=1000 * GIB) for name in ("n1", "n2"))
ORPHANS = tuple(found(instance(number)) for number in range(500, 520))


def many(n: int, **fields: object) -> list[Instance]:
    return [instance(number, **fields) for number in range(1, n + 1)]


def decided(
    count: int, records: list[Instance], *reports: NodeReport, **seen: object
) -> tuple[Action, ...]:
    wanted = fleet(pool(count), nodes=NODES)
    return decide(wanted, observed(records, reports, **seen), NOW_S)  # type: ignore[arg-type]


def count(actions: tuple[Action, ...], kind: type) -> int:
    return sum(isinstance(action, kind) for action in actions)


@pytest.mark.parametrize(
    ("n_known", "n_orphans", "n_deleted"),
    [(0, 1, 0), (1, 1, 1), (1, 2, 0), (4, 4, 4), (4, 5, 0), (10, 10, 10), (45, 11, 0)],
)
def test_orphans_are_kept_where_they_are_more_than_ten_or_than_the_records(
    n_known: int, n_orphans: int, n_deleted: int
) -> None:
    """Containers of an older generation of a known instance are no orphans."""
    known = many(n_known, generation=2)
    old = [found(one, generation=1) for one in known[:1]]
    there = report("n1", *map(found, known), *ORPHANS[:n_orphans], *old)

    actions = decided(n_known, known, there, report("n2"))

    assert n_deleted + len(old) == count(actions, GarbageCollect)


@pytest.mark.parametrize(
    ("n_known", "n_orphans", "n_created"),
    [(0, 0, 4), (0, 1, 0), (1, 2, 0), (2, 2, 2), (1, 0, 3), (3, 11, 0)],
)
def test_nothing_is_created_beside_more_orphans_than_records(
    n_known: int, n_orphans: int, n_created: int
) -> None:
    known = many(n_known)
    there = report("n1", *map(found, known), *ORPHANS[:n_orphans])

    assert n_created == count(decided(4, known, there, report("n2")), CreateInstance)


def test_what_is_known_is_repaired_though_the_store_is_doubted() -> None:
    known = instance(1, phase=Phase.STARTING)

    (start,) = decided(1, [known], report("n1", *ORPHANS[:2]), report("n2"))

    assert isinstance(start, Start)


def test_an_order_deletes_the_orphans_that_it_was_about_and_no_others() -> None:
    ordered = [("n1", container.name) for container in ORPHANS[:15]]
    reports = [report("n1", *ORPHANS), report("n2")]
    seen = observed([], reports, deletable_orphans=ordered)
    wanted = fleet(pool(0), nodes=NODES)

    assert {GarbageCollect(*one) for one in ordered} == set(decide(wanted, seen, NOW_S))
    assert 5 == orphan_policy(wanted, seen).n_refused
    assert 20 == len(find_orphans(observed([], reports)))


def test_what_has_ended_is_no_reason_to_doubt_the_store() -> None:
    dead = found(instance(7), ContainerState.EXITED)

    actions = decided(1, [], report("n1", dead), report("n2"))

    assert (1, 1) == (count(actions, GarbageCollect), count(actions, CreateInstance))


@pytest.mark.parametrize(
    ("other", "is_asked"),
    [
        (None, False),
        (report("n2", at_s=0.0), False),
        (report("n2", at_s=0.0, fault="refused"), True),
        (silent("n2", for_s=9.0), True),
        (report("n2"), True),
    ],
    ids=["unasked", "being asked", "refuses", "silent", "answered"],
)
def test_nothing_is_created_and_no_orphan_deleted_before_each_node_was_asked(
    other: NodeReport | None, is_asked: bool
) -> None:
    known = many(1, generation=2)
    old = found(known[0], generation=1)
    here = report("n1", found(known[0]), old, ORPHANS[0])

    actions = decided(3, known, here, *([other] if other else []))

    assert (2 if is_asked else 0) == count(actions, CreateInstance)
    deleted = {action.container for action in actions if isinstance(action, GarbageCollect)}
    assert {old.name} | ({ORPHANS[0].name} if is_asked else set()) == deleted


# Newer than their records: the store is an old backup


@pytest.mark.parametrize("node_name", ["n1", "n2"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"is_replace_asked": True},
        {"phase": Phase.STARTING},
        {"phase": Phase.FAILED, "n_failures": 1, "retry_at_s": NOW_S - 9.0},
    ],
    ids=["running", "asked for", "starting", "failed"],
)
@pytest.mark.parametrize("n", [4, 40])
def test_newer_containers_are_kept_and_nothing_is_done_to_their_instances(
    n: int, fields: dict[str, object], node_name: str
) -> None:
    records = many(n, **fields)
    newer = [found(one, generation=3) for one in records]
    reports = [report(one.name, *(newer if one.name == node_name else ())) for one in NODES]
    unhealthy = {one.id: NOW_S - 60.0 for one in records}

    assert () == decided(n, records, *reports, unhealthy=unhealthy)
    seen = observed(records, reports)
    assert n == orphan_policy(fleet(pool(n), nodes=NODES), seen).n_refused


def test_few_newer_ones_are_deleted_on_order_and_their_instances_repaired() -> None:
    """An orphan without a record is deleted meanwhile; the instance that is missing is made."""
    records = many(12)
    newer = [found(one, generation=3) for one in records[:2]]
    reports = [report("n1", *newer, *map(found, records[2:]), ORPHANS[0]), report("n2")]
    ordered = [("n1", container.name) for container in newer]

    before = decided(13, records, *reports)
    after = decided(13, records, *reports, deletable_orphans=ordered)

    assert [CreateInstance, GarbageCollect] == [type(action) for action in before]
    assert {GarbageCollect(*one) for one in ordered} < set(after)
    assert {one.id for one in records[:2]} == {one.id for one in after if isinstance(one, Stop)}


def test_a_newer_one_that_has_ended_is_deleted_and_its_instance_repaired() -> None:
    ended = found(instance(1), ContainerState.EXITED, generation=3)

    actions = decided(1, many(1), report("n1", ended), report("n2"))

    assert [Stop, GarbageCollect] == [type(action) for action in actions]


def test_no_start_takes_the_name_of_what_is_still_to_be_removed() -> None:
    stopped = instance(1, phase=Phase.STARTING, generation=2)
    there = found(stopped)

    def begun(*reports: NodeReport, **seen: object) -> list[type]:
        return [type(action) for action in decided(1, [stopped], *reports, **seen)]

    assert [Start] == begun(report("n1", there), report("n2"))
    assert [] == begun(report("n1", there), report("n2"), collecting=[("n1", there.name)])
    assert [GarbageCollect] == begun(report("n1"), report("n2", there))
    assert [Start] == begun(report("n1"), silent("n2", there, for_s=500.0))
