"""Nodes, ports, operations and capacity that instances get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from provisioning.actions import (
    Action,
    CreateInstance,
    Drain,
    GarbageCollect,
    Reschedule,
    Start,
    Stop,
)
from provisioning.lifecycle import Outcome, Result, begin, finish_start
from provisioning.model import (
    ContainerState,
    Fleet,
    Instance,
    Limits,
    Node,
    NodeReport,
    Phase,
    Placement,
    PlacementStrategy,
    Pool,
    Reason,
    Rotation,
)
from provisioning.reconcile import MOST_RESERVED, decide
from provisioning.scheduler import Capacity
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

N1, N2 = node("n1"), node("n2")
WIDE = node("n1", cpus=100.0, memory_bytes=1000 * GIB)


def decided(
    wanted: Fleet, *instances: Instance, reports: Sequence[NodeReport] | None = None, **seen: object
) -> tuple[Action, ...]:
    """Return what is decided; without reports, all nodes answer and run what they should."""
    if reports is None:
        used = {one.node for one in instances}
        idle = [report(one.name) for one in wanted.nodes if one.name not in used]
        reports = [*(healthy_reports(instances) if instances else []), *idle]
    return decide(wanted, observed(instances, reports, **seen), NOW_S)  # type: ignore[arg-type]


def created(actions: Sequence[Action]) -> list[Instance]:
    return [action.instance for action in actions if isinstance(action, CreateInstance)]


def nodes_of(actions: Sequence[Action]) -> list[str]:
    return [one.node for one in created(actions)]


def many(n: int, **fields: object) -> list[Instance]:
    return [instance(number, **fields) for number in range(1, n + 1)]


# Nodes


def test_spread_takes_the_emptiest_node_and_pack_the_fullest_with_room() -> None:
    spread = fleet(pool(3), nodes=[N1, N2])
    packed = fleet(
        pool(4, placement=Placement(strategy=PlacementStrategy.BINPACK)),
        nodes=[node("n1", cpus=2.0), node("n2", cpus=3.0)],
    )

    assert ["n2", "n1"] == nodes_of(decided(spread, instance(1)))
    assert ["n2", "n2", "n1"] == nodes_of(decided(packed, instance(1, node="n2")))


@pytest.mark.parametrize(
    "limits",
    [
        {"cpus": 2.0},
        {"memory_bytes": 2 * GIB},
        {"max_instances": 2},
        {"first_port": 20_000, "last_port": 20_001},
    ],
    ids=["cpus", "memory", "instances", "ports"],
)
def test_no_more_are_created_than_a_node_holds(limits: dict[str, object]) -> None:
    assert 2 == len(created(decided(fleet(pool(5), nodes=[node("n1", **limits)]))))


def test_which_nodes_get_nothing() -> None:
    """Those at the pool's limit, cordoned, without the labels, or silent."""
    per_node = fleet(pool(5, placement=Placement(max_per_node=2)), nodes=[WIDE])
    cordoned = fleet(pool(2), nodes=[node("n1", is_cordoned=True), N2])
    both = {"gpu": "no", "zone": "a"}
    labelled = fleet(
        pool(2, placement=Placement(selector=both)),
        nodes=[node("n1", labels={"gpu": "no"}), node("n2", labels=both)],
    )
    quiet = [silent("n1", for_s=5), report("n2"), report("n3", at_s=0.0, fault="refused")]

    assert ["n1", "n1"] == nodes_of(decided(per_node))
    assert ["n2", "n2"] == nodes_of(decided(cordoned))
    assert ["n2", "n2"] == nodes_of(decided(labelled))
    assert ["n2"] == nodes_of(decided(fleet(pool(1), nodes=[N1, N2, node("n3")]), reports=quiet))


def test_what_counts_against_a_nodes_room() -> None:
    """What drains or stops, and running containers that nobody wants, but not what has failed."""
    going = [
        instance(1, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN, phase_since_s=NOW_S),
        instance(2, phase=Phase.STOPPING, reason=Reason.SCALED_DOWN, phase_since_s=NOW_S),
    ]
    known = [instance(number) for number in (5, 6, 7)]
    ghosts = [found(one) for one in many(3, pool="old")]
    dead = found(instance(4), ContainerState.EXITED)
    failed = instance(1, phase=Phase.FAILED, port=20_000, retry_at_s=NOW_S + 9)
    small = node(cpus=1.0, first_port=20_000, last_port=20_001)

    leaving = decided(fleet(pool(9), nodes=[node(cpus=5.0)]), *going, working=["chat-00002"])
    beside = decided(
        fleet(pool(9), nodes=[node(cpus=8.0)]),
        *known,
        reports=[report("n1", *ghosts, dead, *map(found, known))],
    )

    assert 3 == len(created(leaving))
    assert (2, 4) == (len(created(beside)), sum(isinstance(a, GarbageCollect) for a in beside))
    assert [20_001] == [one.port for one in created(decided(fleet(pool(2), nodes=[small]), failed))]


@pytest.mark.parametrize(
    "size",
    [{"cpus": 1.0, "memory_bytes": 0}, {"cpus": 0.0, "memory_bytes": GIB}],
    ids=["cpus", "memory"],
)
def test_a_failed_instance_weighs_on_its_node_as_one_that_runs(size: dict[str, object]) -> None:
    failed = instance(1, phase=Phase.FAILED, retry_at_s=NOW_S + 9, **size)

    actions = decided(fleet(pool(3), nodes=[N1, N2]), failed, reports=[report("n1"), report("n2")])

    assert ["n2", "n1"] == nodes_of(actions)


# Ports


@pytest.mark.parametrize("nodes", [[N1], [N1, N2]], ids=["here", "elsewhere"])
def test_after_each_failed_start_it_gets_another_port_wherever_it_goes(nodes: list[Node]) -> None:
    """Another process may have the old one, and those beside it, on every node."""
    failed = instance(phase=Phase.FAILED, retry_at_s=NOW_S, failed_on=("n2", "n1"))
    ports = [failed.port]

    for n in range(1, 9):
        failed = replace(failed, n_failures=n, port=ports[-1])
        (again,) = decided(
            fleet(pool(1), nodes=nodes), failed, reports=[report(one.name) for one in nodes]
        )
        assert isinstance(again, Reschedule)
        assert nodes[-1].name == again.node
        ports.append(again.port)

    assert 9 == len(set(ports))
    assert max(ports) - min(ports) > 1000


@pytest.mark.parametrize(("last_port", "expected"), [(20_000, 20_000), (20_001, 20_001)])
def test_after_a_failed_start_the_old_port_is_the_last_choice(
    last_port: int, expected: int
) -> None:
    small = fleet(pool(1), nodes=[node(first_port=20_000, last_port=last_port)])
    failed = instance(phase=Phase.FAILED, retry_at_s=NOW_S, n_failures=1, port=20_000)

    (again,) = decided(small, failed, reports=[report()])

    assert isinstance(again, Reschedule)
    assert expected == again.port


def test_ports_on_a_node_differ_and_one_that_is_given_back_waits_a_reconcile() -> None:
    tight = node(cpus=90.0, memory_bytes=90 * GIB, first_port=20_000, last_port=20_049)
    two = node(first_port=20_001, last_port=20_002)
    failed = instance(1, phase=Phase.FAILED, n_failures=1, retry_at_s=NOW_S, port=20_001)

    fifty = created(decided(fleet(pool(50), nodes=[tight], limits=Limits(operations=100))))
    actions = decided(fleet(pool(2), nodes=[two]), failed, reports=[report()])

    assert 50 == len({one.port for one in fifty})
    assert [20_002] == [action.port for action in actions if isinstance(action, Reschedule)]
    assert [] == created(actions)


def test_a_nodes_new_port_range_holds_for_the_next_generation() -> None:
    moved = fleet(pool(1), nodes=[node(first_port=30_000, last_port=30_009)])

    (again,) = decided(moved, instance(1, phase=Phase.FAILED, retry_at_s=NOW_S))

    assert isinstance(again, Reschedule)
    assert 30_000 <= again.port <= 30_009


# Operations


def test_how_many_operations_are_begun() -> None:
    """At most so many over the fleet and on a node, and half of them on one of several nodes."""
    dead = [found(one, ContainerState.EXITED) for one in many(20)]

    def collected(nodes: list[Node], limits: Limits, *busy: str) -> int:
        reports = [report("n1", *dead), *(report(one.name) for one in nodes[1:])]
        collecting = [("n1", name) for name in busy]
        wanted = fleet(pool(0), nodes=nodes, limits=limits)
        return len(decided(wanted, reports=reports, collecting=collecting))

    assert 5 == collected([WIDE], Limits(operations=5))
    assert 3 == collected([WIDE], Limits(operations=5), "x.1", "y.1")
    assert 5 == collected([WIDE, N2], Limits(operations=10))
    for limit, cpus, expected in ((0, 1.0, 3), (0, 2.5, 8), (0, 0.1, 1), (2, 50.0, 2)):
        limits = Limits(operations_per_node=limit)
        assert expected == collected([node(cpus=cpus)], limits)


def test_a_busy_node_delays_no_other() -> None:
    busy = [("n1", f"x.{n}") for n in range(3)]
    wanted = fleet(pool(9), nodes=[N1, N2], limits=Limits(operations_per_node=3))

    assert ["n2", "n2"] == nodes_of(decided(wanted, collecting=busy))


def test_the_order_of_operations_is_repair_then_removal_then_creation_then_garbage() -> None:
    ghosts = [found(one, generation=9) for one in many(20, pool="old")]
    garbage = [("n1", ghost.name) for ghost in ghosts]
    leaving = [instance(n, phase=Phase.STOPPING, reason=Reason.SCALED_DOWN) for n in range(2, 5)]
    wanted = fleet(pool(9), nodes=[WIDE], limits=Limits(operations=6))

    actions = decided(
        wanted,
        instance(1),
        *leaving,
        reports=[report("n1", *ghosts, *map(found, leaving))],
        deletable_orphans=garbage,
    )

    assert [Stop] * 4 + [CreateInstance] * 2 == [type(action) for action in actions]
    assert isinstance(actions[0], Stop)
    assert Reason.EXITED is actions[0].reason


# Priorities: what has served must not wait for starts that hang

NODES = tuple(node(f"n{n}", cpus=1000.0, memory_bytes=9000 * GIB) for n in (1, 2, 3))
TEN = Limits(operations=10)


def failed(n: int, **fields: object) -> list[Instance]:
    """Return instances of `bad` on all nodes that could not be started, and are due again."""
    made = instance(phase=Phase.FAILED, n_failures=1, retry_at_s=NOW_S, started_s=0.0, pool="bad")
    return [
        replace(
            made,
            id=f"bad-{number:05}",
            node=NODES[number % 3].name,
            port=21_000 + number,
            **fields,
        )
        for number in range(1, n + 1)
    ]


def with_bad(n_bad: int, limits: Limits, *records: Instance, **seen: object) -> Counter[type]:
    """Count what is decided where the pool `bad` comes before `chat`."""
    wanted = fleet(pool(n_bad, name="bad"), pool(1), nodes=NODES, limits=limits)
    reports = [report(one.name) for one in NODES]
    return Counter(map(type, decided(wanted, *records, reports=reports, **seen)))


@pytest.mark.parametrize(("operations", "expected"), [(1, 1), (2, 1), (3, 1), (10, 5), (11, 5)])
def test_retries_have_half_of_the_operations(operations: int, expected: int) -> None:
    seen = with_bad(100, Limits(operations=operations), *failed(100))

    assert expected == seen[Reschedule]


@pytest.mark.parametrize(("operations", "expected"), [(1, 1), (2, 1), (3, 2), (10, 9), (50, 45)])
def test_first_starts_have_nine_tenths_of_the_operations(operations: int, expected: int) -> None:
    assert expected == with_bad(100, Limits(operations=operations))[CreateInstance]


def test_which_operations_count_as_retries() -> None:
    """Retries that go on, also under a new leader; neither stops nor first starts."""
    some = failed(20)
    going_on = [replace(one, phase=Phase.STARTING) for one in some[:4]]
    stopping = [replace(one, phase=Phase.STOPPING, reason=Reason.CHANGED) for one in some[:3]]
    first = failed(10, phase=Phase.STARTING, n_failures=0)[5:]

    assert (
        1 == with_bad(20, TEN, *going_on, *some[4:], working=[o.id for o in going_on])[Reschedule]
    )
    assert 5 == with_bad(20, TEN, *failed(20, phase=Phase.STARTING))[Start]
    assert (
        5 == with_bad(20, TEN, *stopping, *some[3:], working=[o.id for o in stopping])[Reschedule]
    )
    assert 5 == with_bad(10, TEN, *stopping, *first, working=[o.id for o in stopping])[Start]


@pytest.mark.parametrize(
    ("fields", "is_begun"),
    [
        ({}, True),
        ({"has_served": False}, False),
        ({"workload": "another"}, False),
        ({"node": "n9"}, True),
        ({"n_failures": 1}, False),
    ],
    ids=["in place", "never served", "changed", "moved", "could not be started"],
)
def test_only_what_has_served_as_it_is_started_has_what_first_starts_leave(
    fields: dict[str, object], is_begun: bool
) -> None:
    """A model that was never loaded may have to be fetched, and its start hang as well."""
    crashed = instance(phase=Phase.FAILED, retry_at_s=NOW_S, has_served=True)
    wanted = fleet(pool(100, name="bad"), pool(1), nodes=NODES)
    hanging = created(decided(fleet(pool(100, name="bad"), nodes=NODES)))

    actions = decided(
        wanted,
        *hanging,
        replace(crashed, **fields),
        reports=[report(one.name) for one in NODES],
        starting=[one.id for one in hanging],
    )

    assert is_begun is any(isinstance(action, Reschedule) for action in actions)


def test_a_retry_goes_where_an_operation_is_left_for_it() -> None:
    """The emptier node could begin others, but no more retries."""
    some = failed(20)
    going_on = [replace(one, phase=Phase.STARTING, node="n2") for one in some[:2]]
    serving = [instance(number, node="n3") for number in range(1, 9)]
    limits = Limits(operations=100, operations_per_node=4)
    wanted = fleet(pool(3, name="bad"), pool(8), nodes=NODES, limits=limits)

    actions = decided(
        wanted,
        *going_on,
        replace(some[5], node="n1"),
        *serving,
        reports=[report("n1"), report("n2"), report("n3", *map(found, serving))],
        working=[one.id for one in going_on],
    )

    assert ["n3"] == [action.node for action in actions if isinstance(action, Reschedule)]


def test_every_retry_has_its_turn() -> None:
    """Five of 41 at a time, all due again before the last have had a turn."""
    n_tries = Counter[str]()
    records = {one.id: one for one in failed(41)}
    hung = Outcome(Result.FAILED, "not healthy", 90.0, 3)
    wanted = fleet(pool(41, name="bad"), nodes=NODES, limits=TEN)

    for now_s in (NOW_S + 100.0 * n for n in range(9)):
        seen = observed(records.values(), [report(one.name, at_s=now_s) for one in NODES])
        for action in decide(wanted, seen, now_s):
            assert isinstance(action, Reschedule)
            n_tries[action.id] += 1
            begun = begin(action, records[action.id], now_s=now_s)
            assert begun
            records[action.id] = finish_start(
                begun, hung, limits=Limits(retry_failed_s=10.0), now_s=now_s + 90.0
            )

    assert records.keys() == n_tries.keys()


# Capacity for what has to leave a node

OLD = node("n1", cpus=100.0, memory_bytes=1000 * GIB, is_cordoned=True)
SLOW = Rotation(every_s=0.0, at_once=20, drain_s=60.0)
LEAVING = [
    instance(1, phase=Phase.DRAINING, reason=Reason.NODE_REMOVED, phase_since_s=NOW_S),
    instance(1, phase=Phase.STOPPING, reason=Reason.NODE_REMOVED),
]
SERVING = [instance(number) for number in range(2, 7)]


def drained(*records: Instance, of: Pool | None = None, room: int = 2, **seen: Any) -> int:
    """Count what is drained from a cordoned node, with some room on another."""
    other = node("n2", cpus=float(room), memory_bytes=1000 * GIB)
    wanted = fleet(
        of or pool(6, rotation=SLOW), nodes=[OLD, other], limits=Limits(unavailable_ratio=0.9)
    )
    return sum(isinstance(action, Drain) for action in decided(wanted, *records, **seen))


@pytest.mark.parametrize("leaving", LEAVING, ids=["draining", "stopping"])
@pytest.mark.parametrize(("room", "expected"), [(1, 0), (2, 1), (3, 2)])
def test_who_leaves_a_node_already_has_a_place_before_others_do(
    leaving: Instance, room: int, expected: int
) -> None:
    assert expected == drained(leaving, *SERVING, room=room)


def test_who_waits_for_an_operation_has_a_place_and_a_start_there_needs_none() -> None:
    stopped = instance(1, phase=Phase.STARTING, generation=2)
    busy = [("n2", f"x.{n}") for n in range(3)]

    assert 0 == drained(stopped, *SERVING, room=1, collecting=busy)
    assert 1 == drained(stopped, *SERVING, room=1, starting=[stopped.id])


def test_who_grows_has_room_for_its_new_size_before_others_are_moved() -> None:
    grown = pool(3, workload=CHAT.replace(cpus=4.0), rotation=SLOW)
    first, *others = many(3)

    assert 1 == drained(first, *others, of=grown, room=5)
    assert 0 == drained(LEAVING[0], *others, of=grown, room=5)


@pytest.mark.parametrize(("n", "expected"), [(MOST_RESERVED, 1), (MOST_RESERVED + 1, 0)])
def test_a_node_is_not_emptied_while_very_many_wait(n: int, expected: int) -> None:
    made = instance(pool="code", node="n3")
    lost = [
        replace(made, id=f"code-{number:05}", port=21_000 + number) for number in range(1, n + 1)
    ]
    nodes = [OLD, node("n2", cpus=999.0, memory_bytes=999 * GIB), node("n3")]
    wanted = fleet(pool(1), pool(n, name="code"), nodes=nodes, limits=Limits(operations=1))

    actions = decided(
        wanted,
        instance(1),
        *lost,
        reports=[report("n1", found(instance(1))), report("n2"), silent("n3", for_s=999.0)],
        unhealthy={one.id: 1.0 for one in lost},
    )

    assert expected == sum(isinstance(action, Drain) for action in actions)


def test_each_node_is_asked_for_room_once_while_a_pool_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = many(100, node="n2")
    n_asked = Counter[str]()
    has_room = Usage.has_room

    def counted(usage: Usage, *args: object) -> bool:
        n_asked[usage.node.name] += 1
        return has_room(usage, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Usage, "has_room", counted)

    actions = decided(
        fleet(pool(100), nodes=[node("n1", cpus=0.5), N2]),
        *lost,
        reports=[report("n1"), silent("n2", for_s=999.0)],
        unhealthy={one.id: 1.0 for one in lost},
    )

    assert () == actions
    assert {"n1": 1} == n_asked


def test_room_that_is_released_is_given_to_who_waits() -> None:
    chosen = pool(3)
    capacity = Capacity(
        fleet(chosen, nodes=[node("n1", cpus=1.0)]),
        [instance(1)],
        [],
        reachable=frozenset({"n1"}),
        may_begin=lambda _node, _priority: True,
    )
    assert capacity.binding(chosen, "chat-00003") is None

    capacity.release(instance(1))

    assert capacity.binding(chosen, "chat-00003")
