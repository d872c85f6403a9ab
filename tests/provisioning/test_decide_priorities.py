"""Who gets an operation first, and who never gets all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from provisioning.actions import Action, CreateInstance, Replace, Start, Stop
from provisioning.lifecycle import Outcome, Result, begin, finish_start
from provisioning.model import ContainerState, Instance, Limits, NodeReport, Phase, Reason, WarmUp
from provisioning.reconcile import decide
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
)
from tests.provisioning.scene import QUICK, provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.provisioning.world import Behaviour, World

NODES = tuple(node(f"n{n}", cpus=1000.0, memory_bytes=9000 * GIB) for n in (1, 2, 3))
NAMES = tuple(one.name for one in NODES)
LIMITS = Limits(operations=10)
SHORT = Limits(retry_failed_s=10.0)
DEAD = instance(1, node="n2")
EMPTY = [report("n1"), report("n2", found(DEAD, ContainerState.EXITED)), report("n3")]


def failed(n: int, **fields: object) -> list[Instance]:
    """Return instances of `bad` on all nodes that could not be started, and are due again."""
    made = instance(phase=Phase.FAILED, n_failures=1, retry_at_s=NOW_S, started_s=0.0)
    return [
        replace(
            made,
            id=f"bad-{number:05}",
            pool="bad",
            node=NODES[number % 3].name,
            port=21_000 + number,
            **fields,
        )
        for number in range(1, n + 1)
    ]


def decided(
    *records: Instance,
    n_bad: int = 0,
    limits: Limits = LIMITS,
    reports: list[NodeReport] | None = None,
    **seen: object,
) -> tuple[Action, ...]:
    wanted = fleet(pool(n_bad, name="bad"), pool(1), nodes=NODES, limits=limits)
    looked = observed(records, EMPTY if reports is None else reports, **seen)  # type: ignore[arg-type]
    return decide(wanted, looked, NOW_S)


def test_what_has_run_is_mended_before_another_pools_failed_starts_are_tried_again() -> None:
    first, *others = decided(*failed(100), DEAD, n_bad=100)

    assert isinstance(first, Stop)
    assert {Replace} == {type(action) for action in others}


@pytest.mark.parametrize(("operations", "expected"), [(1, 1), (2, 1), (3, 1), (10, 5), (11, 5)])
def test_starts_that_have_failed_before_have_half_of_the_operations(
    operations: int, expected: int
) -> None:
    actions = decided(*failed(100), n_bad=100, limits=Limits(operations=operations))

    assert expected == sum(isinstance(action, Replace) for action in actions)


@pytest.mark.parametrize(("operations", "expected"), [(1, 1), (2, 1), (3, 2), (10, 9), (50, 45)])
def test_first_starts_leave_a_tenth_of_the_operations_to_what_has_run(
    operations: int, expected: int
) -> None:
    assert expected == len(first_starts(Limits(operations=operations)))


def test_what_has_run_is_healed_however_many_first_starts_hang() -> None:
    """Five have crashed, and as many first starts as may be begun hang in their warm-up."""
    hanging = first_starts(Limits())
    crashed = [instance(n, node=NAMES[n % 3], has_served=True) for n in range(1, 6)]
    starting = [
        replace(one, phase=Phase.STARTING, reason=Reason.EXITED, started_s=0.0) for one in crashed
    ]

    stops = beside(hanging, crashed, ended=crashed)
    starts = beside(hanging, starting)

    assert {one.id for one in crashed} == {one.id for one in stops if isinstance(one, Stop)}
    assert {one.id for one in crashed} == {one.id for one in starts if isinstance(one, Start)}


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
    crashed = instance(phase=Phase.FAILED, retry_at_s=NOW_S, reason=Reason.EXITED, has_served=True)

    actions = beside(first_starts(Limits()), [replace(crashed, **fields)])

    assert is_begun is any(isinstance(action, Replace) for action in actions)


def first_starts(limits: Limits) -> list[Instance]:
    """Return the instances of an empty fleet whose starts are begun at once."""
    wanted = fleet(pool(100, name="bad"), nodes=NODES, limits=limits)
    actions = decide(wanted, observed((), map(report, NAMES)), NOW_S)
    return [action.instance for action in actions if isinstance(action, CreateInstance)]


def beside(
    hanging: list[Instance], records: list[Instance], ended: Sequence[Instance] = ()
) -> tuple[Action, ...]:
    """Decide on the records of `chat`, while starts of `bad` hang."""
    wanted = fleet(pool(100, name="bad"), pool(len(records)), nodes=NODES)
    containers = {
        name: [found(one, ContainerState.EXITED) for one in ended if one.node == name]
        for name in NAMES
    }
    reports = [report(name, *containers[name]) for name in NAMES]
    seen = observed([*hanging, *records], reports, starting=[one.id for one in hanging])
    return decide(wanted, seen, NOW_S)


class TestTurns:
    """Which of those that could not be started is tried again first."""

    BAD = tuple(failed(20, retry_at_s=NOW_S - 100.0))
    OK = instance(1, phase=Phase.FAILED, n_failures=1, started_s=0.0)

    def first(self, one: Instance, *others: Instance) -> str:
        """Return who is tried first, where the other pool comes first in the file."""
        actions = decided(*(others or self.BAD), one, n_bad=20, reports=[*map(report, NAMES)])
        return next(action.id for action in actions if isinstance(action, Replace))

    @pytest.mark.parametrize(
        ("fields", "is_first"),
        [
            ({"retry_at_s": NOW_S - 101.0}, True),
            ({"retry_at_s": NOW_S - 99.0}, False),
            ({"since_s": NOW_S - 101.0}, True),  # it has failed for good, by its node's fault
            ({"since_s": NOW_S - 99.0}, False),
            ({"retry_at_s": NOW_S - 99.0, "is_replace_asked": True}, True),
            ({"retry_at_s": NOW_S + 99.0, "is_replace_asked": True}, True),
            ({"retry_at_s": NOW_S - 99.0, "workload": "another"}, True),
            ({"retry_at_s": NOW_S + 86_400.0}, True),  # the clock was set back
            ({"since_s": NOW_S + 86_400.0}, True),
        ],
    )
    def test_it_is_who_was_asked_for_or_changed_then_who_is_due_for_longest(
        self, fields: dict[str, object], is_first: bool
    ) -> None:
        assert is_first is (self.OK.id == self.first(replace(self.OK, **fields)))

    def test_of_several_that_were_asked_for_it_is_the_one_due_for_longest(self) -> None:
        asked = failed(20, retry_at_s=NOW_S - 100.0, is_replace_asked=True)
        one = replace(self.OK, retry_at_s=NOW_S - 101.0, is_replace_asked=True)

        assert one.id == self.first(one, *asked)

    def test_nobody_waits_for_longer_than_one_round(self) -> None:
        """Five of 41 at a time, all due again before the last have had a turn."""
        n_tries = Counter[str]()
        records = {one.id: one for one in (*failed(40), replace(self.OK, retry_at_s=NOW_S))}
        hung = Outcome(Result.FAILED, "not healthy", 90.0, 3)
        wanted = fleet(pool(40, name="bad"), pool(1), nodes=NODES, limits=LIMITS)

        for round_s in (100.0 * number for number in range(9)):
            now_s = NOW_S + round_s
            seen = observed(records.values(), [report(name, at_s=now_s) for name in NAMES])
            for action in decide(wanted, seen, now_s):
                assert isinstance(action, Replace)
                n_tries[action.id] += 1
                begun = begin(action, records[action.id], now_s=now_s)
                assert begun
                records[action.id] = finish_start(begun, hung, limits=SHORT, now_s=now_s + 90.0)

        assert records.keys() == n_tries.keys()
        assert {1, 2} == set(n_tries.values())


def test_those_that_go_on_count() -> None:
    going_on = failed(4, phase=Phase.STARTING)
    waiting = failed(20)[4:]

    actions = decided(*going_on, *waiting, n_bad=20, working=[one.id for one in going_on])

    assert 1 == sum(isinstance(action, Replace) for action in actions)


def test_those_that_a_new_leader_goes_on_with_count() -> None:
    actions = decided(*failed(20, phase=Phase.STARTING), n_bad=20)

    assert 5 == sum(isinstance(action, Start) for action in actions)


def test_stops_and_first_starts_are_none() -> None:
    stopping = failed(5, phase=Phase.STOPPING, reason=Reason.UNHEALTHY)
    first = failed(10, phase=Phase.STARTING, n_failures=0)[5:]

    actions = decided(*stopping, *first, n_bad=10, working=[one.id for one in stopping])

    assert 5 == sum(isinstance(action, Start) for action in actions)


def test_a_stop_of_what_could_not_be_started_is_none() -> None:
    records = failed(20)
    stopping = [replace(one, phase=Phase.STOPPING, reason=Reason.CHANGED) for one in records[:3]]

    actions = decided(*stopping, *records[3:], n_bad=20, working=[one.id for one in stopping])

    assert 5 == sum(isinstance(action, Replace) for action in actions)


def test_they_go_where_there_is_one_left_for_them() -> None:
    """The emptier node could begin others, but no more of these."""
    records = failed(20)
    going_on = [replace(one, phase=Phase.STARTING, node="n2") for one in records[:2]]
    waiting = replace(records[5], node="n1")
    serving = [instance(number, node="n3") for number in range(1, 9)]

    actions = decided(
        *going_on,
        waiting,
        *serving,
        n_bad=3,
        limits=Limits(operations=100, operations_per_node=4),
        reports=[report("n1"), report("n2"), report("n3", *map(found, serving))],
        working=[one.id for one in going_on],
    )

    assert ["n3"] == [action.node for action in actions if isinstance(action, Replace)]


def test_they_have_half_of_a_nodes_operations_too() -> None:
    limits = Limits(operations=100, operations_per_node=4)

    actions = decided(*failed(100), n_bad=100, limits=limits)

    assert {"n1": 2, "n2": 2, "n3": 2} == Counter(
        action.node for action in actions if isinstance(action, Replace)
    )


def test_what_has_run_is_mended_before_others_are_removed() -> None:
    leaving = failed(100, phase=Phase.STOPPING, reason=Reason.SCALED_DOWN)

    actions = decided(*leaving, DEAD, reports=[report("n1", *map(found, leaving)), *EMPTY[1:]])

    assert DEAD.id == next(action.id for action in actions if isinstance(action, Stop))


def test_what_is_too_much_is_removed_before_more_is_made() -> None:
    leaving = failed(9, phase=Phase.STOPPING, reason=Reason.SCALED_DOWN)[:4]
    limits = Limits(operations=5)

    wanted = fleet(pool(20), nodes=NODES, limits=limits)
    seen = observed(leaving, [*healthy_reports(leaving), report("n2"), report("n3")])
    actions = decide(wanted, seen, NOW_S)

    assert {Stop: 4, CreateInstance: 1} == Counter(type(action) for action in actions)


HANGS = Behaviour(start_s=1.0, hang_ratio=1.0, stop_s=0.5)
HANGS_LATE = Behaviour(start_s=1.0, stop_s=0.5, warm_up_s=1e6)
"""It is healthy, and its registry never answers."""


@pytest.mark.parametrize("is_bad_first", [True, False])
@pytest.mark.parametrize("hanging", [HANGS, HANGS_LATE], ids=["start", "warm-up"])
@pytest.mark.parametrize("hung_for_s", [60.0, 3600.0], ids=["first", "again"])
def test_a_pool_that_never_starts_keeps_no_other_from_healing(
    is_bad_first: bool, hanging: Behaviour, hung_for_s: float
) -> None:
    nodes = [node(f"n{n}", cpus=80.0, memory_bytes=80 * GIB) for n in (1, 2, 3)]
    good = pool(10)
    bad = pool(100, name="bad", workload=replace(CHAT, image="bad", warm_up=(WarmUp("/load"),)))
    pools = (bad, good) if is_bad_first else (good, bad)

    async def scene() -> None:
        clock = VirtualClock()
        world = World(clock, seed=0, behaviour=QUICK, by_image={"bad": hanging})
        limits = Limits(operations=5)
        async with provisioner(fleet(good, nodes=nodes, limits=limits), world=world) as stage:
            await stage.until(stage.is_whole)
            await stage.put_spec(fleet(*pools, nodes=nodes, limits=limits))
            await clock.sleep(hung_for_s)
            crashed = [one for one in stage.instances if one.pool == "chat"][:5]
            for one in crashed:
                world.kill(one.container)

            await stage.until(
                lambda: all(
                    one.phase is Phase.RUNNING and one.generation > 1
                    for one in stage.instances
                    if one.id in {crash.id for crash in crashed}
                ),
                within_s=60.0,
            )

    virtual_run(scene())
