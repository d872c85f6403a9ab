"""Which actions follow from what is wanted and what is observed: one row, one promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from provisioning.actions import (
    Action,
    AssignDeveloper,
    CreateInstance,
    DeleteRecord,
    Drain,
    GarbageCollect,
    Reschedule,
    Start,
    Stop,
)
from provisioning.model import (
    ContainerState,
    Fleet,
    Instance,
    Limits,
    NodeReport,
    Phase,
    Placement,
    PlacementStrategy,
    Pool,
    Reason,
    Rotation,
)
from provisioning.reconcile import Retry, decide, retry_queue, scale_down_ranking
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

WEEK_S = 7 * 86_400.0
FAST = Rotation(every_s=0.0, drain_s=30.0)
WIDE = node("n1", cpus=100.0, memory_bytes=1000 * GIB)
N2 = node("n2")
CORDONED = WIDE.replace(is_cordoned=True)
NEW = CHAT.replace(model="new")
RETRY_S = NOW_S + 9.0
SICK = {"chat-00001": NOW_S - 30.0}


class Row(NamedTuple):
    """A promise: what is decided on a scene."""

    promise: str
    expected: str
    """One action after the other, as `brief` writes them."""
    wanted: Fleet | Pool
    instances: tuple[Instance, ...] = ()
    reports: list[NodeReport] | None = None
    seen: Mapping[str, object] = {}


def brief(action: Action) -> str:
    """Write an action in a few words; instances by their numbers."""
    match action:
        case CreateInstance(one):
            return f"create {number(one.id)} on {one.node}"
        case Start(id_):
            return f"start {number(id_)}"
        case Reschedule(id_, node_name, reason=reason):
            return f"reschedule {number(id_)} on {node_name} {reason or 'retried'}"
        case Drain(id_, reason) | Stop(id_, reason):
            return f"{type(action).__name__.lower()} {number(id_)} {reason}"
        case DeleteRecord(id_):
            return f"delete {number(id_)}"
        case AssignDeveloper(id_, developer):
            return f"assign {number(id_)} to {developer or 'nobody'}"
        case GarbageCollect(node_name, container):
            return f"collect {number(container)} on {node_name}"


def number(name: str) -> str:
    return name.removeprefix("chat-").lstrip("0")


def decided(
    wanted: Fleet | Pool,
    *instances: Instance,
    reports: list[NodeReport] | None = None,
    **seen: object,
) -> tuple[Action, ...]:
    """Return what is decided now about these instances."""
    desired = wanted if isinstance(wanted, Fleet) else fleet(wanted, nodes=[WIDE])
    return decide(desired, observed(instances, reports, **seen), NOW_S)  # type: ignore[arg-type]


def briefly(actions: Iterable[Action]) -> str:
    return ", ".join(map(brief, actions))


def many(n: int, **fields: object) -> tuple[Instance, ...]:
    return tuple(instance(number, **fields) for number in range(1, n + 1))


def one(phase: Phase, reason: Reason | None = None, **fields: object) -> Instance:
    """Return the first instance in a phase."""
    return instance(1, phase=phase, reason=reason, **fields)


def leaving(phase: Phase, ago_s: float = 0.0, **fields: object) -> Instance:
    """Return an instance that is being scaled down."""
    return one(phase, Reason.SCALED_DOWN, phase_since_s=NOW_S - ago_s, **fields)


def failed(**fields: object) -> Instance:
    made = instance(1, phase=Phase.FAILED, n_failures=1, failed_on=("n1",), retry_at_s=NOW_S)
    return replace(made, **fields)


def both(*nodes: str) -> list[NodeReport]:
    return [report(name) for name in nodes or ("n1", "n2")]


def on_both(count: int, **fields: object) -> Fleet:
    return fleet(pool(count, **fields), nodes=[WIDE, N2])


SCALING = [
    Row("nothing is wrong", "", pool(20, rotation=Rotation()), many(20)),
    Row("missing instances", "create 2 on n1, create 3 on n1", pool(3), many(1)),
    Row("a gap in the numbers is filled", "create 1 on n1", pool(2), (instance(2),)),
    Row(
        "the id of a container that is still there is not used again",
        "create 2 on n1, collect 1.4 on n1",
        pool(2),
        (instance(3),),
        [report("n1", found(instance(1, generation=4)), found(instance(3)))],
    ),
    Row(
        "the oldest goes first",
        "drain 2 scaled_down",
        pool(1),
        (instance(1), instance(2, started_s=NOW_S - 7200)),
    ),
    Row("what has failed goes first", "delete 1", pool(1), (failed(), instance(2))),
    Row("then what starts", "stop 1 scaled_down", pool(1), (one(Phase.STARTING), instance(2))),
    Row(
        "what drains to start again is to end",
        "drain 1 scaled_down",
        pool(1),
        (one(Phase.DRAINING, Reason.ROTATED, phase_since_s=NOW_S), instance(2)),
    ),
    Row("a pool is gone", "drain 1 scaled_down", pool(0, name="code"), many(1)),
    Row(
        "what leaves does not count",
        "create 2 on n1",
        pool(1),
        (leaving(Phase.DRAINING),),
    ),
    Row(
        "its drain is over",
        "stop 1 scaled_down",
        pool(0, rotation=FAST),
        (leaving(Phase.DRAINING, 30.0),),
    ),
    Row("its drain is not over", "", pool(0, rotation=FAST), (leaving(Phase.DRAINING, 29.0),)),
    Row("a start needs no drain", "stop 1 scaled_down", pool(0), (leaving(Phase.STARTING),)),
    Row("a stop goes on", "stop 1 scaled_down", pool(0), (leaving(Phase.STOPPING),)),
    Row("a silent node", "", pool(0), (leaving(Phase.STOPPING),), [silent("n1", for_s=60.0)]),
    Row(
        "a lost node may return with the container",
        "",
        pool(0),
        (leaving(Phase.STOPPING),),
        [silent("n1", for_s=121.0)],
    ),
    Row(
        "a lost node that left the specification",
        "delete 1",
        fleet(pool(0), nodes=[N2]),
        (leaving(Phase.STOPPING),),
        [report("n2"), silent("n1", for_s=121.0)],
    ),
    Row(
        "a node that just left has its grace",
        "",
        fleet(pool(0), nodes=[N2]),
        (leaving(Phase.STOPPING),),
        [report("n2"), silent("n1", for_s=119.0)],
    ),
    Row(
        "an operation goes on",
        "",
        pool(0),
        (one(Phase.STOPPING),),
        seen={"working": ["chat-00001"]},
    ),
]

STARTING = [
    Row("a start nobody works on goes on", "start 1", pool(1), (one(Phase.STARTING),)),
    Row("its node is silent", "", pool(1), (one(Phase.STARTING),), [silent("n1", for_s=60.0)]),
    Row(
        "its node is lost",
        "reschedule 1 on n2 node_lost",
        on_both(1),
        (one(Phase.STARTING),),
        [silent("n1", for_s=120.0), report("n2")],
    ),
    Row(
        "its node is cordoned",
        "reschedule 1 on n2 node_removed",
        fleet(pool(1), nodes=[CORDONED, N2]),
        (one(Phase.STARTING),),
        both(),
    ),
    Row(
        "its workload has changed, its container is there",
        "stop 1 changed",
        pool(1, workload=NEW),
        (one(Phase.STARTING),),
        [report("n1", found(instance(1)))],
    ),
    Row(
        "its workload has changed before it was made",
        "reschedule 1 on n1 changed",
        pool(1, workload=NEW),
        (one(Phase.STARTING),),
    ),
    Row(
        "without room it waits",
        "",
        fleet(pool(1, workload=CHAT.replace(cpus=9.0))),
        (one(Phase.STARTING, workload="old"),),
    ),
    Row(
        "what waits for room keeps what it has",
        "",
        fleet(
            pool(1, workload=CHAT.replace(cpus=9.0)),
            pool(1, name="code", workload=CHAT.replace(cpus=2.0)),
        ),
        (one(Phase.STARTING, workload="old", cpus=7.0),),
    ),
]

UNDER_WAY = {"starting": ["chat-00001"]}
CANCELLED = [
    Row("a start that is wanted", "", pool(1), (one(Phase.STARTING),), seen=UNDER_WAY),
    Row("one too many", "stop 1 scaled_down", pool(0), (one(Phase.STARTING),), seen=UNDER_WAY),
    Row(
        "another workload",
        "stop 1 changed",
        pool(1, workload=NEW),
        (one(Phase.STARTING),),
        seen=UNDER_WAY,
    ),
    Row(
        "the start has ended already",
        "",
        pool(1, workload=NEW),
        (one(Phase.STARTING),),
        seen={"working": ["chat-00001"]},
    ),
    Row(
        "a stop that was written, but not begun",
        "stop 1 changed",
        pool(1),
        (one(Phase.STOPPING, Reason.CHANGED),),
        seen=UNDER_WAY,
    ),
    Row(
        "its node does not answer",
        "",
        pool(0),
        (one(Phase.STARTING),),
        [silent("n1", for_s=1e6)],
        UNDER_WAY,
    ),
    Row(
        "its node is cordoned: there may be no room elsewhere",
        "",
        fleet(pool(1), nodes=[CORDONED]),
        (one(Phase.STARTING),),
        seen=UNDER_WAY,
    ),
    Row(
        "a cancelled start gives its operation to the stop",
        "stop 1 changed, stop 2 changed",
        fleet(pool(2, workload=NEW), limits=Limits(operations=2)),
        many(2, phase=Phase.STARTING),
        seen={"starting": ["chat-00001", "chat-00002"]},
    ),
]

RUNNING = [
    Row("its container has exited", "stop 1 exited", pool(1), many(1), [
        report("n1", found(instance(1), ContainerState.EXITED, exit_status=3))
    ]),
    Row("its container never ran", "stop 1 exited", pool(1), many(1), [
        report("n1", found(instance(1), ContainerState.CREATED))
    ]),
    Row("its container is gone", "stop 1 exited", pool(1), many(1), [report("n1")]),
    Row("it ended out of memory", "stop 1 out_of_memory", pool(1), many(1), [
        report("n1", found(instance(1), ContainerState.EXITED, is_out_of_memory=True))
    ]),
    Row("a process of it was killed", "stop 1 out_of_memory", pool(1), many(1), [
        report("n1", found(instance(1), is_out_of_memory=True))
    ]),
    Row("a report from before it ran says nothing", "", pool(1), many(1, phase_since_s=NOW_S - 1), [
        report("n1", at_s=NOW_S - 2)
    ]),
    Row("a report of the moment it ran does", "stop 1 exited", pool(1),
        many(1, phase_since_s=NOW_S), [
        report("n1", at_s=NOW_S)
    ]),
    Row("a silent node says nothing", "", pool(1), many(1), [silent("n1", for_s=60.0)]),
    Row("all that exited start again whatever the budget", "stop 1 exited, stop 2 exited, "
        "stop 3 exited", pool(3), many(3), [report("n1")]),
    Row("it is unhealthy", "stop 1 unhealthy", pool(1), many(1), seen={"unhealthy": SICK}),
    Row("it is unhealthy behind a silent node", "", pool(1), many(1), [
        silent("n1", for_s=119.0)
    ], {"unhealthy": SICK}),
    Row("the budget is spent by one that moves", "", pool(2),
        (one(Phase.STARTING, generation=2), instance(2)),
        seen={"working": ["chat-00001"], "unhealthy": {"chat-00002": NOW_S}}),
    Row("a first start spends no budget", "stop 2 unhealthy", pool(2),
        (one(Phase.STARTING), instance(2)),
        seen={"working": ["chat-00001"], "unhealthy": {"chat-00002": NOW_S}}),
    Row("one that cannot be removed keeps no other one unhealthy", "stop 2 unhealthy", pool(2),
        (one(Phase.STOPPING, Reason.ROTATED, n_stop_tries=1), instance(2)),
        seen={"backing_off": ["chat-00001.1"], "unhealthy": {"chat-00002": NOW_S}}),
    Row("but it keeps healthy ones from being replaced", "", pool(2, workload=NEW),
        (one(Phase.STOPPING, Reason.ROTATED, n_stop_tries=300), instance(2)),
        seen={"backing_off": ["chat-00001.1"]}),
]  # fmt: skip

REPLACING = [
    Row("too old", "drain 1 rotated", pool(1, rotation=Rotation()),
        many(1, started_s=NOW_S - WEEK_S)),
    Row("not due before the last day of the week", "", pool(9, rotation=Rotation()),
        many(9, started_s=NOW_S - WEEK_S * 6 / 7)),
    Row("a pool that does not rotate", "", pool(1), many(1, started_s=1.0)),
    Row("another workload", "drain 1 changed", pool(1, workload=NEW), many(1)),
    Row("who was asked for comes first", "drain 2 replaced", pool(2, workload=NEW),
        (instance(1), instance(2, is_replace_asked=True))),
    Row("a cordoned node is emptied into the room elsewhere", "drain 1 node_removed",
        fleet(pool(2), nodes=[CORDONED, node("n2", cpus=1.0)], limits=Limits(unavailable_ratio=1)),
        many(2), [*healthy_reports(many(2)), report("n2")]),
    Row("a node without the pool's labels is left", "drain 1 node_removed",
        fleet(pool(1, placement=Placement(selector={"zone": "a"})),
              nodes=[WIDE, node("n2", labels={"zone": "a"})]),
        many(1), [*healthy_reports(many(1)), report("n2")]),
    Row("a drain has its time", "", pool(1, rotation=FAST),
        (one(Phase.DRAINING, Reason.ROTATED, phase_since_s=NOW_S - 29),)),
    Row("a drain is over", "stop 1 rotated", pool(1, rotation=FAST),
        (one(Phase.DRAINING, Reason.ROTATED, phase_since_s=NOW_S - 30),)),
    Row("nothing is under way any more", "stop 1 rotated", pool(1, rotation=FAST),
        (one(Phase.DRAINING, Reason.ROTATED, phase_since_s=NOW_S - 1),),
        seen={"idle": ["chat-00001.1"]}),
    Row("it ended while it drained", "stop 1 rotated", pool(1, rotation=FAST),
        (one(Phase.DRAINING, Reason.ROTATED, phase_since_s=NOW_S - 1),),
        [report("n1", found(instance(1), ContainerState.EXITED))]),
    Row("a stop nobody works on goes on", "stop 1 rotated", pool(1),
        (one(Phase.STOPPING, Reason.ROTATED),)),
    *(Row(f"none while one is {down.phase} already", "", pool(2, workload=NEW),
          (down, instance(2)), seen={"working": [down.id]})
      for down in (
          failed(workload=NEW.digest, retry_at_s=RETRY_S),
          one(Phase.DRAINING, Reason.CHANGED, phase_since_s=NOW_S),
          one(Phase.STARTING, generation=2, workload=NEW.digest))),
]  # fmt: skip

LOST = [silent("n1", found(instance(1)), for_s=120.0), report("n2")]
LOST_NODES = [
    Row("within its grace", "", on_both(1), many(1),
        [silent("n1", for_s=119.0), report("n2")], {"unhealthy": SICK}),
    Row("after its grace", "reschedule 1 on n2 node_lost", on_both(1), many(1), LOST,
        {"unhealthy": SICK}),
    Row("an instance that still answers is not lost", "", on_both(1), many(1), LOST),
    Row("what was to be replaced anyway moves", "reschedule 1 on n2 node_lost", on_both(1),
        (one(Phase.STOPPING, Reason.ROTATED),), LOST),
    Row("a new leader waits for the grace itself", "", on_both(1), many(1),
        [silent("n1", for_s=NOW_S), report("n2")],
        {"unhealthy": SICK, "watching_since_s": NOW_S - 119.0}),
    Row("a node never heard of has its grace as well", "reschedule 1 on n2 node_lost", on_both(1),
        many(1), [report("n2")], {"unhealthy": SICK}),
    Row("without room elsewhere it stays", "", pool(1), many(1), LOST, {"unhealthy": SICK}),
    Row("when it returns, what was moved is collected", "collect 1.1 on n1", on_both(1),
        many(1, node="n2", generation=2),
        [report("n1", found(instance(1))), report("n2", found(instance(1, generation=2)))]),
    Row("instances of a removed node that answer move within the budget",
        "drain 1 node_removed, drain 2 node_removed",
        fleet(pool(8), nodes=[N2], limits=Limits(unavailable_ratio=0.25)), many(8), both("n2")),
    Row("what drains on a removed node moves at once", "reschedule 1 on n2 node_lost",
        fleet(pool(1), nodes=[N2]),
        (one(Phase.DRAINING, Reason.NODE_REMOVED, phase_since_s=NOW_S),), both("n2")),
]  # fmt: skip

GHOST = found(instance(7), generation=3)
COLLECTING = [
    Row("without a record", "collect 7.3 on n1", pool(1), many(1),
        [report("n1", found(instance(1)), GHOST)]),
    Row("of an older generation", "collect 1.1 on n1", pool(1), many(1, generation=2),
        [report("n1", found(instance(1)), found(instance(1, generation=2)))]),
    Row("on another node", "collect 1.1 on n2", on_both(1), many(1),
        [report("n1", found(instance(1))), report("n2", found(instance(1)))]),
    Row("of a start that failed", "collect 1.1 on n1", pool(1), (failed(retry_at_s=RETRY_S),),
        [report("n1", found(instance(1)))]),
    Row("not twice at once", "", pool(1), many(1), [report("n1", found(instance(1)), GHOST)],
        {"collecting": [("n1", GHOST.name)]}),
    Row("not again at once where it failed", "", pool(1), many(1),
        [report("n1", found(instance(1)), GHOST)], {"backing_off": [GHOST.name]}),
    Row("not by a report older than its record", "", pool(1),
        (failed(retry_at_s=RETRY_S, phase_since_s=NOW_S - 1),),
        [report("n1", found(instance(1)), at_s=NOW_S - 2)]),
    Row("not on a node that does not answer", "", pool(1), many(1, node="n2"),
        [silent("n1", GHOST, for_s=9.0), report("n2", found(instance(1)))]),
    Row("a start waits until its name is free", "collect 1.2 on n2", on_both(1),
        (one(Phase.STARTING, generation=2),),
        [report("n1"), report("n2", found(instance(1), generation=2))]),
]  # fmt: skip

RETRYING = [
    Row("on another node", "reschedule 1 on n2 retried", on_both(1), (failed(),), both()),
    Row("not before its back-off is over", "", pool(1), (failed(retry_at_s=NOW_S + 0.1),)),
    Row("in its place after a crash", "reschedule 1 on n1 retried", on_both(1),
        (failed(n_failures=0, failed_on=()),), both()),
    Row("first where it has not failed yet", "reschedule 1 on n3 retried",
        fleet(pool(2), nodes=[WIDE, N2, node("n3", cpus=2.0)]),
        (failed(failed_on=("n2", "n1")), instance(2, node="n3")),
        [*both(), report("n3", found(instance(2)))]),
    Row("at once when a person asks", "reschedule 1 on n1 replaced", pool(1),
        (failed(retry_at_s=RETRY_S, is_replace_asked=True),)),
    Row("at once when the workload has changed", "reschedule 1 on n1 changed",
        pool(1, workload=NEW), (failed(retry_at_s=RETRY_S),)),
]  # fmt: skip

DEVELOPERS = [
    Row("get instances that run first", "assign 2 to ada", pool(2, developers=("ada",)),
        (one(Phase.STARTING), instance(2)), seen={"working": ["chat-00001"]}),
    Row("keep theirs", "", pool(2, developers=("ada", "bob")),
        (instance(1, developer="bob"), instance(2, developer="ada"))),
    Row("who is not listed gives it back", "assign 1 to nobody", pool(1),
        (instance(1, developer="eve"),)),
    Row("what is given back goes to who waits", "assign 1 to ada", pool(1, developers=("ada",)),
        (instance(1, developer="eve"),)),
    Row("nobody has two", "assign 2 to nobody", pool(2, developers=("ada",)),
        (instance(1, developer="ada"), instance(2, developer="ada"))),
    Row("theirs stay longest", "drain 2 scaled_down", pool(1, developers=("ada",)),
        (instance(1, developer="ada", started_s=NOW_S - 9000), instance(2))),
]  # fmt: skip

TABLES = {
    "scaling": SCALING,
    "starting": STARTING,
    "cancelled starts": CANCELLED,
    "running": RUNNING,
    "replacing": REPLACING,
    "lost nodes": LOST_NODES,
    "garbage collection": COLLECTING,
    "retrying": RETRYING,
    "developers": DEVELOPERS,
}


@pytest.mark.parametrize("table", TABLES)
def test_each_row_is_decided_as_promised(table: str) -> None:
    wrong = [
        f"{row.promise}: {seen!r} instead of {row.expected!r}"
        for row in TABLES[table]
        if row.expected
        != (seen := briefly(decided(row.wanted, *row.instances, reports=row.reports, **row.seen)))
    ]

    assert [] == wrong


def test_the_details_of_what_is_made_and_stopped() -> None:
    """A new instance, a replacement in the same place, and how a container has ended."""
    grown = CHAT.replace(cpus=8.0, model="llama4")
    (new,) = decided(pool(1, developers=("ada",)))
    (moved,) = decided(pool(1, workload=grown), one(Phase.STARTING, generation=4))
    ended = found(instance(1), ContainerState.EXITED, exit_status=-9)
    (stop,) = decided(pool(1), instance(1), reports=[report("n1", ended)])

    assert isinstance(new, CreateInstance)
    made = new.instance
    assert (1, Phase.STARTING, CHAT.digest, 1.0, GIB, NOW_S, "ada") == (
        made.generation, made.phase, made.workload, made.cpus, made.memory_bytes,
        made.phase_since_s, made.developer,
    )  # fmt: skip
    assert ("llama3", "fleet", "127.0.0.1") == (
        made.inventory_entry.model,
        made.inventory_entry.engine,
        made.inventory_entry.address,
    )
    assert isinstance(moved, Reschedule)
    assert (5, instance(1).port, grown.digest, 8.0, "llama4") == (
        moved.generation,
        moved.port,
        moved.workload,
        moved.cpus,
        moved.inventory_entry.model,
    )
    assert isinstance(stop, Stop)
    assert "its container has exited, status -9 (SIGKILL)" == stop.detail


def test_the_next_generation_is_newer_than_any_container_that_is_still_there() -> None:
    newer = found(instance(1), generation=6)

    actions = decided(
        pool(1), failed(), reports=[report("n1", newer)], deletable_orphans=[("n1", newer.name)]
    )

    assert [7] == [action.generation for action in actions if isinstance(action, Reschedule)]


# Budgets


@pytest.mark.parametrize(("at_once", "ratio", "expected"), [(3, 1.0, 3), (50, 0.2, 4), (9, 0.0, 1)])
def test_no_more_are_replaced_at_once_than_the_pool_and_the_fleet_allow(
    at_once: int, ratio: float, expected: int
) -> None:
    rolling = pool(20, workload=NEW, rotation=Rotation(every_s=0.0, at_once=at_once))
    limits = Limits(unavailable_ratio=ratio)

    assert expected == len(decided(fleet(rolling, nodes=[WIDE], limits=limits), *many(20)))


@pytest.mark.parametrize(
    "down",
    [
        many(2, phase=Phase.FAILED, workload=NEW.digest),
        many(2, phase=Phase.DRAINING, phase_since_s=NOW_S, reason=Reason.CHANGED),
        many(2, phase=Phase.STARTING, generation=2, workload=NEW.digest),
    ],
    ids=["failed", "draining", "starting"],
)
def test_what_is_down_counts_against_what_may_be(down: tuple[Instance, ...]) -> None:
    desired = fleet(pool(20, workload=NEW), nodes=[WIDE], limits=Limits(unavailable_ratio=0.25))
    up = [instance(number) for number in range(3, 21)]

    assert 3 == len(decided(desired, *down, *up, working=[one.id for one in down]))


def test_no_more_unhealthy_ones_are_stopped_than_may_be_down_the_longest_first() -> None:
    unhealthy = {one.id: NOW_S - number for number, one in enumerate(many(20))}
    desired = fleet(pool(40), nodes=[WIDE], limits=Limits(unavailable_ratio=0.1))

    actions = decided(desired, *many(40), unhealthy=unhealthy)

    assert "stop 20 unhealthy, stop 19 unhealthy, stop 18 unhealthy, stop 17 unhealthy" == briefly(
        actions
    )


@pytest.mark.parametrize(("n_stuck", "expected"), [(2, 2), (3, 1), (4, 0), (19, 0)])
def test_where_none_can_be_removed_only_as_many_again_are_stopped_as_may_be_down(
    n_stuck: int, expected: int
) -> None:
    some = many(40)
    stuck = [
        replace(one, phase=Phase.STOPPING, reason=Reason.UNHEALTHY, n_stop_tries=6)
        for one in some[:n_stuck]
    ]
    desired = fleet(pool(40), nodes=[WIDE], limits=Limits(unavailable_ratio=0.05))

    actions = decided(
        desired,
        *stuck,
        *some[n_stuck:],
        unhealthy={one.id: NOW_S - 60.0 for one in some[n_stuck:]},
        backing_off=[one.container for one in stuck],
    )

    assert expected == len(actions)


def test_about_half_is_due_in_the_middle_of_the_last_day() -> None:
    everywhere = fleet(
        pool(1000, rotation=Rotation(at_once=1000)),
        nodes=[node(cpus=1e4, memory_bytes=2**60)],
        limits=Limits(unavailable_ratio=1.0),
    )

    actions = decided(everywhere, *many(1000, started_s=NOW_S - WEEK_S * 6.5 / 7))

    assert 500 == pytest.approx(len(actions), abs=50)


# Retries and scaling down


def test_retries_of_who_was_asked_for_come_first_then_the_longest_due() -> None:
    def retry(number: int, reason: Reason | None, retry_at_s: float) -> Retry:
        return Retry(failed(id=f"chat-{number:05}", retry_at_s=retry_at_s), pool(), reason)

    queue = retry_queue(
        [
            retry(1, None, NOW_S - 1),
            retry(2, None, NOW_S - 9),
            retry(3, Reason.CHANGED, NOW_S + 9),
            retry(4, Reason.REPLACED, NOW_S + 5),
        ]
    )

    assert ["4", "3", "2", "1"] == [number(one.instance.id) for one in queue]


def on(name: str, *numbers: int, **fields: object) -> list[Instance]:
    """Return instances on a node, each older than those with lower numbers."""
    return [instance(n, node=name, started_s=NOW_S - 3600 - n, **fields) for n in numbers]


def kept(
    count: int,
    *instances: Instance,
    of: Pool | None = None,
    serving: tuple[str, ...] = ("n1", "n2"),
    unhealthy: tuple[str, ...] = (),
) -> list[int]:
    """Return the numbers of the instances that stay."""
    ranked = scale_down_ranking(of or pool(), instances, serving_nodes=serving, unhealthy=unhealthy)
    return sorted(int(one.id[-5:]) for one in ranked[:count])


def test_scaling_down_keeps_what_serves_best() -> None:
    crowded = [*on("n1", 1, 2, 3, 4), *on("n2", 5, 6)]
    packed = pool(placement=Placement(strategy=PlacementStrategy.BINPACK))
    annes = pool(developers=("ann",))

    assert [1, 2, 3, 5, 6] == kept(5, *crowded)
    assert [1, 5] == kept(2, *crowded)
    assert [1, 2, 3] == kept(3, *crowded, of=packed)
    assert [1, 2, 3] == kept(3, *on("n1", 1, 2, 3, developer="ann"), *on("n2", 4), of=annes)
    assert [1, 2, 4] == kept(3, *on("n1", 1, 2, 3, developer="ann"), *on("n2", 4))
    starting = on("n1", 1, developer="ann", phase=Phase.STARTING)
    assert [2, 3] == kept(2, *starting, *on("n1", 2, 3), of=annes)
    assert [2, 3] == kept(2, *on("n1", 1, 2, 3), unhealthy=("chat-00001",))
    assert [2, 3] == kept(2, *on("n2", 1), *on("n1", 2, 3), serving=("n1",))


def test_a_spread_pool_that_shrinks_stays_spread() -> None:
    here = [*on("n1", *range(1, 9)), *on("n2", *range(9, 17))]

    actions = decided(fleet(pool(4), nodes=[WIDE, WIDE.replace(name="n2")]), *here)

    drained = {action.id for action in actions if isinstance(action, Drain)}
    assert {"n1": 2, "n2": 2} == Counter(one.node for one in here if one.id not in drained)
