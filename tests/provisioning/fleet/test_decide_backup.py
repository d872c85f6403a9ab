"""The records are of an older backup: units are newer than they say."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from msgspec.structs import replace

from provisioning.fleet.actions import Action, Adopt, Drain, Renew, Start, Stop, Sweep
from provisioning.fleet.decide import decide
from provisioning.fleet.fleet import Limits, Rotation
from provisioning.fleet.lifecycle import begin
from provisioning.fleet.model import Event, Instance, NodeReport, Phase, Reason, UnitState
from provisioning.fleet.store.base import Put
from provisioning.fleet.store.memory import MemoryBackend
from provisioning.fleet.strangers import Strangers, strangers_of
from tests.provisioning.fleet.making import (
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
from tests.provisioning.fleet.scene import Stage, provisioner
from tests.provisioning.fleet.virtual import VirtualClock, virtual_run

WIDE = node("n1", cpus=100.0, memory_bytes=1000 * GIB)
N2 = node("n2", cpus=100.0, memory_bytes=1000 * GIB)
NODES = (WIDE, N2)


def many(n: int, **fields: object) -> list[Instance]:
    return [instance(number, **fields) for number in range(1, n + 1)]


def decided(
    count: int, records: list[Instance], *reports: NodeReport, **seen: object
) -> tuple[Action, ...]:
    wanted = fleet(pool(count), nodes=NODES)
    return decide(wanted, observed(records, reports, **seen), NOW_S)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 4, 40])
def test_newer_units_are_adopted_where_their_instances_are_however_many(n: int) -> None:
    records = many(n)
    newer = [found(one, generation=3) for one in records]

    actions = decided(n, records, report("n1", *newer), report("n2"))

    assert tuple(Adopt(one.id, 3) for one in records) == actions


def test_an_adopted_unit_is_stopped_by_its_own_name_in_the_same_pass() -> None:
    one = instance(1)

    actions = decided(
        1, [one], report("n1", found(one, generation=2)), report("n2"), ill={one.id: NOW_S - 60.0}
    )

    assert (Adopt(one.id, 2), Stop(one.id, Reason.UNHEALTHY, "no answer")) == actions
    record: Instance | None = one
    for action in actions:
        record = begin(action, record, now_s=NOW_S)
    assert record
    assert (f"{one.id}.2", Phase.STOPPING) == (record.unit, record.phase)


def test_the_record_tells_that_a_newer_unit_was_adopted() -> None:
    one = instance(1, started_s=NOW_S - 9000.0)

    record = begin(Adopt(one.id, 4), one, now_s=NOW_S)

    event = Event(NOW_S, "adopted", "after generation 1", 4)
    assert replace(one, generation=4, history=(event,)) == record


def test_a_start_goes_on_with_the_newer_unit() -> None:
    one = instance(1, phase=Phase.STARTING)

    actions = decided(1, [one], report("n1", found(one, generation=2)), report("n2"))

    assert [Adopt, Start] == [type(action) for action in actions]


def test_of_two_newer_units_the_newest_is_adopted() -> None:
    one = instance(1)
    units = [found(one, generation=number) for number in (3, 4, 2)]

    adopt, *_ = decided(1, [one], report("n1", *units), report("n2"))

    assert Adopt(one.id, 4) == adopt


def test_a_unit_that_the_record_tells_of_and_that_runs_is_not_exchanged() -> None:
    one = instance(1)
    actions = decided(1, [one], report("n1", found(one), found(one, generation=2)), report("n2"))

    assert (Sweep("n1", f"{one.id}.2"),) == actions


def test_a_unit_that_has_ended_gives_way_to_the_newer_one_that_runs() -> None:
    one = instance(1)
    dead = found(one, UnitState.EXITED)

    actions = decided(1, [one], report("n1", dead, found(one, generation=2)), report("n2"))

    assert (Adopt(one.id, 2),) == actions
    record = begin(actions[0], one, now_s=NOW_S)
    assert record
    assert (Sweep("n1", dead.name),) == decided(
        1, [record], report("n1", dead, found(record)), report("n2")
    )


@pytest.mark.parametrize("newer", [(4,), (4, 3), (3, 4)])
def test_a_start_whose_own_unit_has_ended_goes_on_with_the_newest(newer: tuple[int, ...]) -> None:
    one = instance(1, phase=Phase.STARTING, generation=2)
    units = [found(one, UnitState.EXITED), *(found(one, generation=number) for number in newer)]

    actions = decided(1, [one], report("n1", *units), report("n2"))

    assert [Adopt, Start] == [type(action) for action in actions if not isinstance(action, Sweep)]
    assert Adopt(one.id, 4) == actions[0]
    assert {f"{one.id}.{n}" for n in newer if n != 4} == {
        action.unit for action in actions if isinstance(action, Sweep)
    }


def test_nothing_is_adopted_that_is_being_removed() -> None:
    one = instance(1)
    newer = found(one, generation=2)
    there = report("n1", found(one, UnitState.EXITED), newer)

    (stop,) = decided(1, [one], there, report("n2"), sweeping=[("n1", newer.name)])

    assert isinstance(stop, Stop)


def test_nothing_is_adopted_that_has_ended() -> None:
    one = instance(1)
    dead = found(one, UnitState.EXITED, generation=2)

    (stop, _) = decided(1, [one], report("n1", dead), report("n2"))

    assert isinstance(stop, Stop)
    assert "gone" in stop.detail


def test_nothing_is_adopted_while_something_is_done_to_its_instance() -> None:
    one = instance(1, phase=Phase.STARTING)
    there = report("n1", found(one, generation=2))

    assert () == decided(1, [one], there, report("n2"), working=[one.id])


def test_nothing_is_adopted_behind_a_node_that_is_silent() -> None:
    one = instance(1)
    there = silent("n1", found(one, generation=2), for_s=60.0)

    assert () == decided(1, [one], there, report("n2"))


def test_what_could_not_be_started_by_its_record_adopts_nothing() -> None:
    """It was given another port with each try: its newer unit has any one of them."""
    records = many(40, phase=Phase.FAILED, n_failures=1, retry_at_s=NOW_S + 9.0)
    newer = [found(one, generation=2) for one in records]
    seen = observed(records, [report("n1", *newer), report("n2")])

    wanted = fleet(pool(40), nodes=NODES)
    assert () == decide(wanted, seen, NOW_S)
    assert 40 == strangers_of(wanted, seen).n_kept


@pytest.mark.parametrize(
    "fields", [{}, {"workload": "another"}, {"is_replace_asked": True}], ids=repr
)
def test_it_is_not_tried_again_while_its_newer_unit_is_kept(fields: dict[str, object]) -> None:
    """Its next record would be newer than that unit, which then would be a leftover."""
    records = many(40, phase=Phase.FAILED, n_failures=1, retry_at_s=NOW_S - 9.0, **fields)
    newer = [found(one, generation=2) for one in records]
    there = (report("n1", *newer), report("n2"))

    assert () == decided(40, records, *there)
    gone = report("n1", *(found(one, UnitState.EXITED, generation=2) for one in records))
    assert Renew in map(type, decided(40, records, gone, report("n2")))
    may_go = fleet(pool(40), nodes=NODES, limits=Limits(unavailable_ratio=1.0))
    assert Renew in map(type, decide(may_go, observed(records, there), NOW_S))


def test_a_unit_as_new_as_its_record_keeps_no_instance_from_being_tried_again() -> None:
    one = instance(1, phase=Phase.FAILED, retry_at_s=NOW_S - 9.0)

    (renew, _) = decided(1, [one], report("n1", found(one)), report("n2", at_s=0.0))

    assert isinstance(renew, Renew)


def test_a_unit_as_new_as_its_record_is_swept_before_all_nodes_were_asked() -> None:
    one = instance(1, phase=Phase.FAILED, retry_at_s=NOW_S + 9.0)

    actions = decided(1, [one], report("n1", found(one)), report("n2", at_s=0.0))

    assert (Sweep("n1", one.unit),) == actions


class TestElsewhere:
    """A newer unit is not where the record says, and nobody knows its port."""

    def test_it_is_a_stranger_and_its_instance_is_not_taken_for_ended(self) -> None:
        records = many(40)
        newer = [found(one, generation=2) for one in records]

        assert () == decided(40, records, report("n1"), report("n2", *newer))
        seen = observed(records, [report("n1"), report("n2", *newer)])
        wanted = fleet(pool(40), nodes=NODES)
        assert Strangers(40, may_sweep=False, may_place=True) == strangers_of(wanted, seen)

    def test_few_are_swept(self) -> None:
        records = many(12)
        there = [found(one) for one in records[2:]]
        newer = [found(one, generation=2) for one in records[:2]]

        actions = decided(12, records, report("n1", *there), report("n2", *newer))

        assert {Sweep("n2", unit.name) for unit in newer} == set(actions)

    def test_what_is_ill_is_replaced_as_slowly_as_any(self) -> None:
        records = many(40)
        newer = [found(one, generation=2) for one in records]
        ill = {one.id: NOW_S - 60.0 for one in records}

        actions = decided(40, records, report("n1"), report("n2", *newer), ill=ill)

        assert [Reason.UNHEALTHY] * 2 == [a.reason for a in actions if isinstance(a, Stop)]
        assert 2 == len(actions)

    @pytest.mark.parametrize(("generation", "expected"), [(2, 3), (5, 6)])
    def test_no_new_unit_gets_its_name(self, generation: int, expected: int) -> None:
        stopped = instance(1, phase=Phase.STARTING, generation=2)
        other = found(stopped, generation=generation)

        (renew, *_) = decided(1, [stopped], report("n1"), report("n2", other))

        assert isinstance(renew, Renew)
        assert (expected, "n1") == (renew.generation, renew.node)

    @pytest.mark.parametrize("generation", [2, 3])
    def test_once_the_record_is_as_new_it_is_swept(self, generation: int) -> None:
        records = many(40, generation=3)
        old = [found(one, generation=generation) for one in records]

        actions = decided(40, records, report("n1", *map(found, records)), report("n2", *old))

        assert {Sweep} == {type(action) for action in actions}


class TestNodesThatHaveLeft:
    """Neither listed nor reachable: what they told last is no news."""

    STRANGERS = tuple(found(instance(number)) for number in range(500, 520))

    @pytest.mark.parametrize("at_s", [0.0, NOW_S - 500.0])
    def test_what_they_had_is_no_reason_to_doubt_the_store(self, at_s: float) -> None:
        known = instance(1)
        seen = observed(
            [known],
            [
                report("n1", found(known)),
                report("n9", *self.STRANGERS, at_s=at_s, fault="cannot connect"),
            ],
        )

        wanted = fleet(pool(2), nodes=[WIDE])
        assert Strangers(0, may_sweep=True, may_place=True) == strangers_of(wanted, seen)

    @pytest.mark.parametrize(
        "there",
        [report("n9", *STRANGERS), silent("n1", *STRANGERS, for_s=500.0)],
        ids=["reachable", "listed"],
    )
    def test_those_that_answer_or_may_come_back_count(self, there: NodeReport) -> None:
        here = [report("n1")] if there.node == "n9" else []
        seen = observed([], [*here, there])

        assert 20 == strangers_of(fleet(pool(2), nodes=[WIDE]), seen).n_kept


@pytest.mark.parametrize("n", [4, 20])
def test_a_store_from_an_older_backup_ends_nobodys_instance(
    n: int, caplog: pytest.LogCaptureFixture
) -> None:
    """All have rotated since the backup; they go on, and are rotated as slowly as ever."""
    slow = Rotation(every_s=3600.0, at_once=10, drain_s=10.0)
    wanted = fleet(pool(n, rotation=slow), nodes=NODES, limits=Limits(unavailable_ratio=0.05))

    async def scene() -> None:
        clock = VirtualClock()
        async with provisioner(wanted) as first:
            await first.until(first.is_whole)
            backup = dict(first.backend.stored)
            await clock.sleep(3900.0)
            await first.until(first.is_whole)
            await first.stop()
        before = {one.unit for one in first.instances}
        assert {2} == {one.generation for one in first.instances}

        restored = MemoryBackend()
        tenure = restored.begin_term("restore")
        restored.commit([Put(one.instance, 0) for one in backup.values()], tenure.term)
        restored.end_term(tenure)
        async with provisioner(wanted, world=first.world, backend=restored, name="two") as second:
            for _ in range(80):
                await clock.sleep(0.1)
                assert before == set(second.running_units)
            assert Counter({"adopted": n}) == heard(second)
            await second.until(lambda: {3} == {one.generation for one in second.instances})
            await second.until(second.is_whole)

    def heard(stage: Stage) -> Counter[str]:
        return Counter(
            event.what
            for one in stage.instances
            for event in one.history
            if event.what == "adopted"
        )

    with caplog.at_level(logging.WARNING):
        virtual_run(scene())
    assert f"{n} units are newer than their records" in caplog.text
    assert "no record of" not in caplog.text


def test_an_instance_that_left_for_good_is_stopped_with_its_newer_unit() -> None:
    one = instance(1, phase=Phase.STOPPING, reason=Reason.SCALED_DOWN)

    actions = decided(0, [one], report("n1", found(one, generation=2)), report("n2"))

    assert (Adopt(one.id, 2), Stop(one.id, Reason.SCALED_DOWN)) == actions


def test_what_is_drained_keeps_the_newer_unit_until_it_has_drained() -> None:
    one = instance(1)

    actions = decided(0, [one], report("n1", found(one, generation=2)), report("n2"))

    assert (Adopt(one.id, 2), Drain(one.id, Reason.SCALED_DOWN)) == actions
