"""Orphans: few are deleted; many, and newer ones, are kept until a person orders to delete them."""

from __future__ import annotations

import logging

import pytest

from provisioning.actions import Action, CreateInstance, GarbageCollect, Start, Stop
from provisioning.model import ContainerState, Instance, Limits, NodeReport, Phase, Rotation
from provisioning.reconcile import decide
from provisioning.state import DELETE_COMMAND, find_orphans, orphan_policy
from provisioning.store.base import Put
from provisioning.store.memory import MemoryBackend
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
from tests.provisioning.scene import provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run

WIDE = node("n1", cpus=100.0, memory_bytes=1000 * GIB)
N2 = node("n2", cpus=100.0, memory_bytes=1000 * GIB)
NODES = (WIDE, N2)
ORPHANS = tuple(found(instance(number)) for number in range(500, 520))
STOPPED = instance(1, phase=Phase.STARTING, generation=2)
"""The container of its first generation was just removed."""


def many(n: int, **fields: object) -> list[Instance]:
    return [instance(number, **fields) for number in range(1, n + 1)]


def decided(
    count: int, records: list[Instance], *reports: NodeReport, **seen: object
) -> tuple[Action, ...]:
    wanted = fleet(pool(count), nodes=NODES)
    return decide(wanted, observed(records, reports, **seen), NOW_S)  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [0.05, 1.0])
@pytest.mark.parametrize(
    ("n_known", "n_orphans", "n_deleted"),
    [(0, 1, 0), (1, 1, 1), (1, 2, 0), (4, 4, 4), (4, 5, 0), (10, 10, 10), (45, 11, 0)],
)
def test_orphans_are_kept_where_they_are_too_many_to_be_garbage(
    n_known: int, n_orphans: int, n_deleted: int, ratio: float
) -> None:
    """However many instances may be unavailable: those are other instances."""
    known = many(n_known, generation=2)
    old = [found(one, generation=1) for one in known[:1]]
    there = report("n1", *map(found, known), *ORPHANS[:n_orphans], *old)
    limits = Limits(unavailable_ratio=ratio)

    actions = decide(
        fleet(pool(n_known), nodes=[WIDE], limits=limits), observed(known, [there]), NOW_S
    )

    assert n_deleted + len(old) == sum(isinstance(action, GarbageCollect) for action in actions)


@pytest.mark.parametrize(
    ("n_known", "n_orphans", "n_placed"),
    [(0, 0, 4), (0, 1, 0), (1, 2, 0), (2, 2, 2), (1, 0, 3)],
)
def test_nothing_is_made_beside_more_orphans_than_records(
    n_known: int, n_orphans: int, n_placed: int
) -> None:
    known = many(n_known)
    there = report("n1", *map(found, known), *ORPHANS[:n_orphans])

    actions = decided(4, known, there, report("n2"))

    assert n_placed == sum(isinstance(action, CreateInstance) for action in actions)


def test_many_orphans_keep_nothing_from_being_made_beside_more_records() -> None:
    known = many(12)
    there = report("n1", *map(found, known), *ORPHANS[:11])

    actions = decided(13, known, there, report("n2"))

    assert [CreateInstance] == [type(action) for action in actions]


def test_an_order_deletes_the_orphans_that_it_was_about_and_no_others() -> None:
    ordered = [("n1", container.name) for container in ORPHANS[:15]]
    wanted, there = fleet(pool(0), nodes=[WIDE]), report("n1", *ORPHANS)
    limits = Limits(operations_per_node=50)
    seen = observed([], [there], deletable_orphans=ordered)

    actions = decide(fleet(pool(0), nodes=[WIDE], limits=limits), seen, NOW_S)

    assert [GarbageCollect(*one) for one in ordered] == list(actions)
    assert 5 == orphan_policy(wanted, seen).n_refused
    assert 20 == len(find_orphans(wanted, seen))


def test_what_has_ended_is_no_reason_to_doubt_the_store() -> None:
    dead = found(instance(7), ContainerState.EXITED)

    actions = decided(1, [], report("n1", dead), report("n2"))

    assert {GarbageCollect("n1", dead.name)} < set(actions)
    assert CreateInstance in map(type, actions)


class TestNewerThanTheirRecords:
    """The records are of an older backup: what runs is left alone, and so is its instance."""

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"is_replace_asked": True},
            {"phase": Phase.STARTING},
            {"phase": Phase.FAILED, "n_failures": 1, "retry_at_s": NOW_S - 9.0},
        ],
        ids=repr,
    )
    def test_many_are_kept_and_nothing_is_done_to_their_instances(
        self, fields: dict[str, object], place: int
    ) -> None:
        records = many(40, **fields)
        newer = [found(one, generation=3) for one in records]
        reports = [report("n1", *newer[place * 40 :]), report("n2", *newer[: place * 40])]
        unhealthy = {one.id: NOW_S - 60.0 for one in records}

        assert () == decided(40, records, *reports, unhealthy=unhealthy)
        seen = observed(records, reports)
        assert 40 == orphan_policy(fleet(pool(40), nodes=NODES), seen).n_refused

    def test_a_pool_of_four_keeps_all_four(self) -> None:
        records = many(4)
        there = report("n1", *(found(one, generation=3) for one in records))

        assert () == decided(4, records, there, report("n2"))

    def test_few_are_deleted_on_order_only_and_their_instances_mended(self) -> None:
        """An orphan without a record is deleted meanwhile; the instance that is missing is made."""
        records = many(12)
        newer = [found(one, generation=3) for one in records[:2]]
        there = report("n1", *newer, *map(found, records[2:]), ORPHANS[0])
        ordered = [("n1", container.name) for container in newer]

        place, sweep = decided(13, records, there, report("n2"))
        seen = observed(records, [there, report("n2")])
        actions = decided(13, records, there, report("n2"), deletable_orphans=ordered)

        assert GarbageCollect("n1", ORPHANS[0].name) == sweep
        assert isinstance(place, CreateInstance)
        assert 2 == orphan_policy(fleet(pool(13), nodes=NODES), seen).n_refused
        assert {GarbageCollect(*one) for one in ordered} < set(actions)
        assert {one.id for one in records[:2]} == {
            action.id for action in actions if isinstance(action, Stop)
        }

    def test_one_that_has_ended_is_deleted_and_its_instance_mended(self) -> None:
        one = instance(1)
        ended = found(one, ContainerState.EXITED, generation=3)

        actions = decided(1, [one], report("n1", ended), report("n2"))

        assert [Stop, GarbageCollect] == [type(action) for action in actions]

    @pytest.mark.parametrize(
        "collecting", [[], [("n1", STOPPED.container)]], ids=["here", "deleted"]
    )
    def test_no_start_takes_the_name_of_what_is_being_deleted(
        self, collecting: list[tuple[str, str]]
    ) -> None:
        there = report("n1", found(STOPPED))

        actions = decided(1, [STOPPED], there, report("n2"), collecting=collecting)

        assert ([] if collecting else [Start]) == [type(one) for one in actions]

    def test_nor_of_what_runs_elsewhere_where_that_can_be_deleted(self) -> None:
        elsewhere = report("n2", found(STOPPED))
        unheard = silent("n2", found(STOPPED), for_s=500.0)

        assert (GarbageCollect("n2", STOPPED.container),) == decided(
            1, [STOPPED], report("n1"), elsewhere
        )
        assert [Start] == list(map(type, decided(1, [STOPPED], report("n1"), unheard)))

    @pytest.mark.parametrize("place", [0, 1])
    def test_a_start_goes_on_beside_one_and_gives_its_room_to_nobody(self, place: int) -> None:
        newer = found(STOPPED, generation=5)
        containers = [[found(STOPPED)], []]
        containers[place].append(newer)
        reports = [report(f"n{n}", *there) for n, there in enumerate(containers, start=1)]

        ordered = [(f"n{place + 1}", newer.name)]
        assert () == decided(1, [STOPPED], *reports)
        start, sweep = decided(1, [STOPPED], *reports, deletable_orphans=ordered)

        assert isinstance(start, Start)
        assert GarbageCollect(f"n{place + 1}", newer.name) == sweep


class TestNodesThatHaveLeft:
    """Neither listed nor reachable: what they told last is no news."""

    @pytest.mark.parametrize("at_s", [0.0, NOW_S - 500.0])
    def test_what_they_had_is_no_reason_to_doubt_the_store(self, at_s: float) -> None:
        known = instance(1)
        gone = report("n9", *ORPHANS, at_s=at_s, fault="cannot connect")
        seen = observed([known], [report("n1", found(known)), gone])

        policy = orphan_policy(fleet(pool(2), nodes=[WIDE]), seen)

        assert (0, True) == (policy.n_refused, policy.may_place)

    @pytest.mark.parametrize(
        "there",
        [report("n9", *ORPHANS), silent("n1", *ORPHANS, for_s=500.0)],
        ids=["reachable", "listed"],
    )
    def test_those_that_answer_or_may_come_back_count(self, there: NodeReport) -> None:
        here = [report("n1")] if there.node == "n9" else []
        seen = observed([], [*here, there])

        assert 20 == orphan_policy(fleet(pool(2), nodes=[WIDE]), seen).n_refused


def test_an_order_to_delete_orphans_ends_with_the_term() -> None:
    """What was out of reach then may be needed by whoever leads next, on another store."""

    async def scene() -> None:
        async with provisioner(fleet(pool(8), nodes=NODES)) as first:
            await first.until(first.is_whole)
            await first.stop()
        async with provisioner(fleet(pool(0), nodes=NODES), world=first.world) as second:
            await second.until(lambda: 8 == len(second.controller.orphans or ()))
            second.world.silence("n2")
            await VirtualClock().sleep(30.0)
            second.controller.delete_orphans()
            await second.until(lambda: 4 == len(second.running_containers))

            session = second.backend.session
            assert session
            second.backend.end_term(session)
            await second.until(lambda: second.controller.term not in (None, session.term))
            second.world.restore("n2")
            await VirtualClock().sleep(60.0)

            assert 4 == len(second.running_containers)

    virtual_run(scene())


def test_orphans_are_not_known_before_each_node_was_asked() -> None:
    """A leader that has asked none of two, or one, does not say that there are none."""

    async def scene() -> None:
        clock = VirtualClock()
        backend = MemoryBackend()
        async with provisioner(None, backend=backend) as stage:
            await stage.until(lambda: stage.controller.term)
            await clock.sleep(30.0)
            assert stage.controller.orphans is None  # without a specification there are no nodes

            stage.world.silence("n2")
            await stage.put_spec(fleet(pool(0), nodes=NODES))
            await stage.until(lambda: "n1" in stage.controller.reports)
            assert stage.controller.orphans is None
            await stage.until(lambda: stage.controller.orphans == ())
            await stage.stop()
            assert stage.controller.orphans is None

    virtual_run(scene())


def test_an_older_backup_ends_nobodys_instance_until_a_person_orders_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All have rotated since the backup."""
    n = 20
    slow = Rotation(every_s=3600.0, at_once=10, drain_s=10.0)
    wanted = fleet(pool(n, rotation=slow), nodes=NODES)

    async def scene() -> None:
        clock = VirtualClock()
        async with provisioner(wanted) as first:
            await first.until(first.is_whole)
            backup = dict(first.backend.stored)
            await clock.sleep(3900.0)
            await first.until(first.is_whole)
            await first.stop()
        before = set(map(first.world.held, first.running_containers))
        assert {2} == {one.generation for one in first.instances}

        restored = MemoryBackend()
        session = restored.begin_term("restore")
        restored.commit([Put(one.instance, 0) for one in backup.values()], session.term)
        restored.end_term(session)
        async with provisioner(wanted, world=first.world, backend=restored, name="two") as second:
            for _ in range(80):
                await clock.sleep(1.0)
                assert before == set(map(second.world.held, second.running_containers))
            assert n == len(second.controller.orphans or ())

            second.controller.delete_orphans()
            await second.until(second.is_whole)
            assert () == second.controller.orphans
            assert before.isdisjoint(map(second.world.held, second.running_containers))

    with caplog.at_level(logging.WARNING):
        virtual_run(scene())
    assert f"orphans={n}: " in caplog.text
    assert f"`{DELETE_COMMAND}`" in caplog.text
