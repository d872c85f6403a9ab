"""Nobody is drained for a place that another one needs."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace

from provisioning.actions import Action, CreateInstance, Drain, Replace
from provisioning.model import (
    Fleet,
    Instance,
    Limits,
    Node,
    Phase,
    Placement,
    Pool,
    Reason,
    Rotation,
)
from provisioning.reconcile import MOST_KEPT, decide
from provisioning.scheduler import ActionPlan, Ledger, Spot
from provisioning.state import Usage
from tests.provisioning.making import (
    CHAT,
    GIB,
    NOW_S,
    fleet,
    found,
    healthy_reports,
    instance,
    node,
    observed,
    pool,
    report,
    silent,
)
from tests.provisioning.scene import provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run

OLD = node("n1", cpus=100.0, memory_bytes=1000 * GIB, is_cordoned=True)
ALL = Limits(unavailable_ratio=0.9)
SLOW = Rotation(every_s=0.0, at_once=20, drain_s=60.0)


def evacuated(n: int, *, room: int) -> Fleet:
    """Return a fleet that leaves a node, and has some room on another."""
    small = node("n2", cpus=float(room), memory_bytes=1000 * GIB)
    return fleet(pool(n, rotation=SLOW), nodes=[OLD, small], limits=ALL)


def drained(wanted: Fleet, *records: Instance, **seen: object) -> int:
    reports = [*healthy_reports(records), report("n2")]
    actions = decide(wanted, observed(records, reports, **seen), NOW_S)  # type: ignore[arg-type]
    return sum(isinstance(action, Drain) for action in actions)


LEAVING = [
    instance(1, phase=Phase.DRAINING, reason=Reason.NODE_REMOVED, since_s=NOW_S),
    instance(1, phase=Phase.STOPPING, reason=Reason.NODE_REMOVED),
]


@pytest.mark.parametrize("leaving", LEAVING, ids=["draining", "stopping"])
@pytest.mark.parametrize(("room", "expected"), [(1, 0), (2, 1), (3, 2)])
def test_who_leaves_a_node_already_has_a_place_before_others_do(
    leaving: Instance, room: int, expected: int
) -> None:
    serving = [instance(number) for number in range(2, 7)]

    assert expected == drained(evacuated(6, room=room), leaving, *serving)


def test_who_is_being_stopped_has_a_place_too() -> None:
    serving = [instance(number) for number in range(2, 7)]

    assert 1 == drained(evacuated(6, room=2), LEAVING[1], *serving, working=[LEAVING[1].id])


def test_a_start_that_goes_on_there_needs_no_place() -> None:
    starting = instance(1, phase=Phase.STARTING, generation=2)
    serving = [instance(number) for number in range(2, 7)]

    assert 1 == drained(evacuated(6, room=1), starting, *serving, starting=[starting.id])


def test_who_waits_for_an_operation_has_a_place_as_well() -> None:
    """One has stopped, and cannot begin elsewhere yet: that node is busy."""
    stopped = instance(1, phase=Phase.STARTING, generation=2)
    serving = [instance(number) for number in range(2, 7)]
    busy = [("n2", f"x.{n}") for n in range(3)]

    assert 0 == drained(evacuated(6, room=1), stopped, *serving, collecting=busy)


def test_who_leaves_in_another_pool_has_a_place_as_well() -> None:
    leaving = instance(9, pool="code", phase=Phase.STOPPING, reason=Reason.NODE_REMOVED)
    two = node("n2", cpus=2.0, memory_bytes=1000 * GIB)
    pools = (pool(5, rotation=SLOW), pool(1, name="code"))
    wanted = fleet(*pools, nodes=[OLD, two], limits=ALL)

    assert 1 == drained(wanted, leaving, *(instance(number) for number in range(1, 6)))


def test_a_node_that_leaves_gives_up_no_more_than_there_is_room_for() -> None:
    """A third node is lost, so that there is room for one."""
    sizes = {"n1": 21.0, "n2": 20.0, "n3": 20.0}
    nodes = [node(name, cpus=cpus, memory_bytes=int(cpus) * GIB) for name, cpus in sizes.items()]
    limits = Limits(unavailable_ratio=0.25)

    def wanted(cordoned: Node) -> Fleet:
        others = [one for one in nodes if one.name != cordoned.name]
        return fleet(pool(40, rotation=SLOW), nodes=[*others, cordoned], limits=limits)

    async def scene() -> None:
        clock = VirtualClock()
        async with provisioner(wanted(nodes[1])) as stage:
            await stage.until(stage.is_whole)
            stage.world.silence("n3")
            await clock.sleep(600.0)
            assert {Phase.RUNNING: 40} == Counter(one.phase for one in stage.instances)

            leaving = node("n2", cpus=20.0, memory_bytes=20 * GIB, is_cordoned=True)
            await stage.put_spec(wanted(leaving))
            for _ in range(600):
                await clock.sleep(1.0)
                phases = Counter(one.phase for one in stage.instances)
                assert 39 <= phases[Phase.RUNNING]
            assert {"n1": 21, "n2": 19} == Counter(one.node for one in stage.instances)

    virtual_run(scene())


@pytest.mark.parametrize(
    ("grown", "room"),
    [
        ({"memory_bytes": 4 * GIB}, {"cpus": 100.0, "memory_bytes": 5 * GIB}),
        ({"cpus": 4.0}, {"cpus": 5.0, "memory_bytes": 100 * GIB}),
    ],
    ids=["memory", "cpus"],
)
def test_who_grows_has_room_for_its_new_size_before_others_are_moved(
    grown: dict[str, object], room: dict[str, object]
) -> None:
    """Each takes four times what it has now; the other node has that once."""
    large = pool(3, workload=replace(CHAT, **grown), rotation=SLOW)
    wanted = fleet(large, nodes=[OLD, node("n2", **room)], limits=ALL)
    first, *others = (instance(number) for number in (1, 2, 3))

    assert 1 == drained(wanted, first, *others)
    assert 0 == drained(wanted, LEAVING[0], *others)


class TestManyThatWait:
    """A rack is lost while a node is emptied: room is sought on all nodes, for each of many."""

    @staticmethod
    def lost(n: int, pool_name: str) -> list[Instance]:
        made = instance(pool=pool_name, node="n3")
        return [
            replace(made, id=f"{pool_name}-{number:05}", port=21_000 + number)
            for number in range(1001, 1001 + n)
        ]

    def decided(self, wanted: Fleet, lost: list[Instance]) -> tuple[Action, ...]:
        serving = instance(1)
        reports = [report("n1", found(serving)), report("n2"), silent("n3", for_s=999.0)]
        seen = observed([serving, *lost], reports, unhealthy={one.id: 1.0 for one in lost})
        return decide(wanted, seen, NOW_S)

    def test_no_room_is_kept_where_too_many_are_down_for_one_to_move(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = []
        monkeypatch.setattr(ActionPlan, "reserve_capacity", lambda *asked: kept.append(asked))
        nodes = [OLD, node("n2", cpus=999.0, memory_bytes=999 * GIB), node("n3")]

        actions = self.decided(fleet(pool(100), nodes=nodes), self.lost(99, "chat"))

        assert {Replace} == {type(action) for action in actions}
        assert [] == kept

    @pytest.mark.parametrize(("n_more", "expected"), [(-1, 1), (0, 0), (200, 0)])
    def test_a_node_is_not_emptied_while_too_many_of_another_pool_wait(
        self, n_more: int, expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        n_asked = 0
        spot = Ledger.spot

        def counted(ledger: Ledger, pool: Pool, instance_id: str) -> Spot | None:
            nonlocal n_asked
            n_asked += 1
            return spot(ledger, pool, instance_id)

        monkeypatch.setattr(Ledger, "spot", counted)
        nodes = [OLD, node("n2", cpus=999.0, memory_bytes=999 * GIB), node("n3")]
        limits = Limits(operations=1)
        n = 1 + MOST_KEPT + n_more  # one of them has the operation
        wanted = fleet(pool(1), pool(n, name="code"), nodes=nodes, limits=limits)

        actions = self.decided(wanted, self.lost(n, "code"))

        assert expected == sum(isinstance(action, Drain) for action in actions)
        assert n_asked <= MOST_KEPT

    def test_those_for_whom_there_is_no_room_hold_nobody_up(self) -> None:
        labelled = Placement(selector=(("disk", "nvme"),))
        nodes = [OLD, node("n2", cpus=9.0, memory_bytes=9 * GIB), node("n3")]
        wanted = fleet(pool(1), pool(999, name="code", placement=labelled), nodes=nodes)

        assert (Drain("chat-00001", Reason.NODE_REMOVED),) == self.decided(
            wanted, self.lost(999, "code")
        )


class TestWithoutRoom:
    """Many wait for room that is not there."""

    def test_each_node_is_asked_once_for_all_of_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lost = [instance(number, node="n2") for number in range(1, 101)]
        n_asked = Counter[str]()
        has_room = Usage.has_room

        def counted(usage: Usage, *args: object) -> bool:
            n_asked[usage.node.name] += 1
            return has_room(usage, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(Usage, "has_room", counted)
        full = node("n1", cpus=0.5)
        seen = observed(
            lost, [report("n1"), silent("n2", for_s=999.0)], unhealthy={one.id: 1.0 for one in lost}
        )

        assert () == decide(fleet(pool(100), nodes=[full, node("n2")]), seen, NOW_S)
        assert {"n1": 1} == n_asked

    def test_what_is_freed_is_given_to_who_waits(self) -> None:
        """The second gives up a node on which the third then has room."""
        small = node("n1", cpus=1.0)
        chosen = pool(3)
        moving = instance(2, phase=Phase.FAILED, n_failures=0, retry_at_s=NOW_S)
        ledger = Ledger(
            fleet(chosen, nodes=[small]),
            [instance(1)],
            [],
            reachable=frozenset({"n1"}),
            may_begin=lambda _node, _claim: True,
            now_s=NOW_S,
        )
        assert ledger.spot(chosen, "chat-00003") is None
        assert ledger.is_full(chosen, moving)
        assert not ledger.is_full(chosen, instance(1))

        ledger.release(instance(1))

        assert not ledger.is_full(chosen, moving)
        assert ledger.spot(chosen, "chat-00003")

    def test_a_pool_of_smaller_instances_is_not_kept_waiting_by_one_of_larger(self) -> None:
        small = pool(1, name="code")
        large = pool(1, placement=pool().placement, workload=pool().workload)
        tight = fleet(large, small, nodes=[node("n1", cpus=1.0), node("n2")])
        lost = instance(1, node="n2")
        held = instance(2, pool="code", node="n2")
        seen = observed(
            [lost, held],
            [report("n1"), silent("n2", found(lost), found(held), for_s=999.0)],
            unhealthy={lost.id: 1.0, held.id: 1.0},
        )

        renews = [
            one for one in decide(tight, seen, NOW_S) if isinstance(one, Replace | CreateInstance)
        ]

        assert 1 == len(renews)
