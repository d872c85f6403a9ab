"""Nobody is drained for a place that another one needs."""

from __future__ import annotations

from collections import Counter

import pytest

from provisioning.fleet.actions import Drain, Place, Renew
from provisioning.fleet.decide import decide
from provisioning.fleet.fleet import Fleet, Limits, Node, Rotation
from provisioning.fleet.model import Instance, Phase, Reason
from provisioning.fleet.placement import Ledger
from provisioning.fleet.usage import Usage
from tests.provisioning.fleet.making import (
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
from tests.provisioning.fleet.scene import provisioner
from tests.provisioning.fleet.virtual import VirtualClock, virtual_run

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

    assert 0 == drained(evacuated(6, room=1), stopped, *serving, sweeping=busy)


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
            lost, [report("n1"), silent("n2", for_s=999.0)], ill={one.id: 1.0 for one in lost}
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
            may_begin=lambda _node, *, is_retry=False: not is_retry,
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
            ill={lost.id: 1.0, held.id: 1.0},
        )

        renews = [one for one in decide(tight, seen, NOW_S) if isinstance(one, Renew | Place)]

        assert 1 == len(renews)
