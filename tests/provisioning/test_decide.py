"""Each rule of deciding, by name."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from provisioning.actions import (
    Action,
    Assign,
    CreateInstance,
    DeleteRecord,
    Drain,
    GarbageCollect,
    Observed,
    Replace,
    Start,
    Stop,
)
from provisioning.model import (
    ContainerState,
    Fleet,
    Instance,
    Limits,
    Listing,
    Node,
    NodeReport,
    Phase,
    Placement,
    Pool,
    Reason,
    Rotation,
    Spread,
)
from provisioning.reconcile import decide
from provisioning.workload import workload_digest
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
NEW = replace(CHAT, model="new")


def decided(
    wanted: Fleet | Pool,
    *instances: Instance,
    reports: list[NodeReport] | None = None,
    **seen: object,
) -> tuple[Action, ...]:
    """Return what is decided now about these instances."""
    desired = wanted if isinstance(wanted, Fleet) else fleet(wanted, nodes=[WIDE])
    looked: Observed = observed(instances, reports, **seen)  # type: ignore[arg-type]
    return decide(desired, looked, NOW_S)


def many(n: int, **fields: object) -> list[Instance]:
    return [instance(number, **fields) for number in range(1, n + 1)]


def placed(actions: tuple[Action, ...]) -> list[Instance]:
    return [action.instance for action in actions if isinstance(action, CreateInstance)]


def test_nothing_is_decided_when_nothing_is_wrong() -> None:
    assert () == decided(pool(20, rotation=Rotation()), *many(20))


class TestCounts:
    """So many instances as the pool asks for."""

    def test_what_is_missing_is_placed(self) -> None:
        new = placed(decided(pool(3), instance(1)))

        assert ["chat-00002", "chat-00003"] == [one.id for one in new]
        assert {(1, Phase.STARTING, workload_digest(CHAT), 1.0, GIB, NOW_S)} == {
            (one.generation, one.phase, one.workload, one.cpus, one.memory_bytes, one.since_s)
            for one in new
        }

    def test_what_is_placed_is_listed_as_its_container_will_be_made(self) -> None:
        there = node(address="10.0.0.9", labels=(("rack", "r1"),))

        (new,) = placed(decided(fleet(pool(1), nodes=[there])))

        assert Listing("llama3", "fleet", "10.0.0.9", (("rack", "r1"),)) == new.listing

    def test_a_gap_in_the_numbers_is_filled_first(self) -> None:
        assert ["chat-00001"] == [one.id for one in placed(decided(pool(2), instance(2)))]

    def test_an_id_whose_container_is_still_around_is_not_used_again(self) -> None:
        ghost, known = instance(1, generation=4), instance(3)

        actions = decided(pool(2), known, reports=[report("n1", found(ghost), found(known))])

        assert ["chat-00002"] == [one.id for one in placed(actions)]

    def test_what_is_too_much_is_drained_the_oldest_first(self) -> None:
        young, old = instance(1), instance(2, started_s=NOW_S - 7200)

        assert (Drain(old.id, Reason.SCALED_DOWN),) == decided(pool(1), young, old)

    @pytest.mark.parametrize(
        ("worse", "expected"),
        [
            (instance(2, phase=Phase.FAILED), DeleteRecord("chat-00002")),
            (instance(2, phase=Phase.STARTING), Stop("chat-00002", Reason.SCALED_DOWN)),
            (
                instance(2, phase=Phase.DRAINING, reason=Reason.ROTATED, since_s=NOW_S),
                Drain("chat-00002", Reason.SCALED_DOWN),
            ),
            (instance(2, node="n2"), Drain("chat-00002", Reason.SCALED_DOWN)),
        ],
        ids=["failed", "starting", "draining", "elsewhere"],
    )
    def test_what_serves_worse_goes_first(self, worse: Instance, expected: Action) -> None:
        good = instance(1, started_s=NOW_S - 9000)

        assert (expected,) == decided(
            fleet(pool(1), nodes=[WIDE, replace(N2, is_cordoned=True)]), good, worse
        )

    def test_a_developers_instance_stays_longest(self) -> None:
        owned, free = instance(1, developer="ada", started_s=NOW_S - 9000), instance(2)

        assert (Drain(free.id, Reason.SCALED_DOWN),) == decided(
            pool(1, developers=("ada",)), owned, free
        )

    def test_instances_of_a_pool_that_is_gone_are_drained(self) -> None:
        assert (Drain("chat-00001", Reason.SCALED_DOWN),) == decided(
            pool(0, name="code"), instance(1)
        )

    def test_what_is_on_its_way_out_does_not_count(self) -> None:
        leaving = instance(1, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN, since_s=NOW_S)

        assert ["chat-00002"] == [one.id for one in placed(decided(pool(1), leaving))]

    def test_what_has_drained_on_its_way_out_is_stopped(self) -> None:
        leaving = instance(1, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN, since_s=NOW_S - 30.0)

        assert (Stop("chat-00001", Reason.SCALED_DOWN),) == decided(pool(0, rotation=FAST), leaving)

    def test_what_has_just_begun_to_drain_on_its_way_out_serves_on(self) -> None:
        leaving = instance(1, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN, since_s=NOW_S)

        assert () == decided(pool(0, rotation=FAST), leaving)

    @pytest.mark.parametrize("phase", [Phase.STARTING, Phase.STOPPING])
    def test_what_does_not_serve_is_stopped_without_draining(self, phase: Phase) -> None:
        one = instance(1, phase=phase, since_s=NOW_S, reason=Reason.SCALED_DOWN)

        assert (Stop(one.id, Reason.SCALED_DOWN),) == decided(pool(0, rotation=FAST), one)

    @pytest.mark.parametrize("phase", [Phase.STARTING, Phase.STOPPING])
    def test_what_is_too_much_on_a_silent_node_waits(self, phase: Phase) -> None:
        one = instance(1, phase=phase, reason=Reason.SCALED_DOWN)

        assert () == decided(pool(0), one, reports=[silent("n1", for_s=60.0)])

    @pytest.mark.parametrize("phase", [Phase.STARTING, Phase.DRAINING, Phase.STOPPING])
    def test_what_is_on_its_way_out_on_a_lost_node_is_remembered_while_that_may_return(
        self, phase: Phase
    ) -> None:
        leaving = instance(1, phase=phase, reason=Reason.SCALED_DOWN)

        assert () == decided(pool(0), leaving, reports=[silent("n1", for_s=121.0)])

    def test_what_is_too_much_on_a_lost_node_is_drained_and_stopped_when_that_returns(self) -> None:
        one = instance(1)
        drain = Drain(one.id, Reason.SCALED_DOWN)
        assert (drain,) == decided(pool(0), one, reports=[silent("n1", for_s=121.0)])

        leaving = replace(one, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN)
        stop = Stop(one.id, Reason.SCALED_DOWN)
        assert (stop,) == decided(pool(0), leaving, reports=[report("n1", found(one))])

    @pytest.mark.parametrize("reports", [[], [silent("n1", for_s=121.0)]], ids=["unknown", "known"])
    def test_what_is_on_its_way_out_on_a_node_that_has_left_is_forgotten_after_the_grace(
        self, reports: list[NodeReport]
    ) -> None:
        leaving = instance(1, phase=Phase.STOPPING, reason=Reason.SCALED_DOWN)
        left = fleet(pool(0), nodes=[N2])

        assert (DeleteRecord("chat-00001"),) == decided(
            left, leaving, reports=[report("n2"), *reports]
        )

    def test_what_is_on_its_way_out_on_a_node_that_has_just_left_has_its_grace(self) -> None:
        leaving = instance(1, phase=Phase.STOPPING, reason=Reason.SCALED_DOWN)
        reports = [report("n2"), silent("n1", for_s=119.0)]

        assert () == decided(fleet(pool(0), nodes=[N2]), leaving, reports=reports)

    def test_what_is_worked_on_is_left_alone(self) -> None:
        for one in (instance(1, phase=Phase.STARTING), instance(1, phase=Phase.STOPPING)):
            assert () == decided(pool(0), one, working=[one.id])
            assert () == decided(pool(1), one, working=[one.id])


class TestPlaces:
    """Nodes, their room, their ports."""

    def test_spread_takes_the_emptiest_node(self) -> None:
        nodes = [node("n1"), node("n2")]

        new = placed(
            decided(
                fleet(pool(3), nodes=nodes),
                instance(1),
                reports=[report("n1", found(instance(1))), report("n2")],
            )
        )

        assert ["n2", "n1"] == [one.node for one in new]

    def test_pack_takes_the_fullest_node_that_has_room(self) -> None:
        nodes = [node("n1", cpus=2.0), node("n2", cpus=3.0)]
        packed = pool(4, placement=Placement(Spread.PACK))

        new = placed(
            decided(
                fleet(packed, nodes=nodes),
                instance(1, node="n2"),
                reports=[report("n1"), report("n2", found(instance(1)))],
            )
        )

        assert ["n2", "n2", "n1"] == [one.node for one in new]

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
    def test_no_more_than_a_node_holds(self, limits: dict[str, object]) -> None:
        assert 2 == len(
            placed(decided(fleet(pool(5), nodes=[node("n1", **limits)]), reports=[report()]))
        )

    def test_no_more_of_a_pool_than_its_limit_for_a_node(self) -> None:
        limited = pool(5, placement=Placement(max_per_node=2))

        assert 2 == len(placed(decided(limited)))

    def test_containers_that_nobody_wants_use_their_node_as_long_as_they_are_there(self) -> None:
        ghosts = [found(one) for one in many(3, pool="old")]
        dead = found(instance(4), ContainerState.EXITED)
        known = [instance(number) for number in (5, 6, 7)]

        actions = decided(
            fleet(pool(9), nodes=[node(cpus=8.0)]),
            *known,
            reports=[report("n1", *ghosts, dead, *map(found, known))],
        )

        assert 2 == len(placed(actions))
        assert 4 == sum(isinstance(action, GarbageCollect) for action in actions)

    def test_what_is_draining_or_stopping_still_uses_its_node(self) -> None:
        going = [
            instance(1, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN, since_s=NOW_S),
            instance(2, phase=Phase.STOPPING, reason=Reason.SCALED_DOWN, since_s=NOW_S),
        ]

        actions = decided(fleet(pool(9), nodes=[node(cpus=5.0)]), *going, working=["chat-00002"])

        assert 3 == len(placed(actions))

    def test_a_failed_instance_holds_nothing_but_its_port(self) -> None:
        failed = instance(1, phase=Phase.FAILED, port=20_000, retry_at_s=NOW_S + 9)
        small = node(cpus=1.0, first_port=20_000, last_port=20_001)

        (new,) = placed(decided(fleet(pool(2), nodes=[small]), failed))

        assert 20_001 == new.port

    def test_a_cordoned_node_gets_nothing(self) -> None:
        nodes = [node("n1", is_cordoned=True), node("n2")]

        new = placed(decided(fleet(pool(2), nodes=nodes), reports=[report("n1"), report("n2")]))

        assert {"n2"} == {one.node for one in new}

    def test_only_nodes_with_all_labels_of_the_selector(self) -> None:
        chosen = pool(2, placement=Placement(selector=(("gpu", "no"), ("zone", "a"))))
        nodes = [
            node("n1", labels=(("gpu", "no"),)),
            node("n2", labels=(("gpu", "no"), ("zone", "a"))),
        ]

        new = placed(decided(fleet(chosen, nodes=nodes), reports=[report("n1"), report("n2")]))

        assert ["n2", "n2"] == [one.node for one in new]

    def test_a_node_that_does_not_answer_gets_nothing(self) -> None:
        nodes = [node("n1"), node("n2"), node("n3")]
        known = instance(7, node="n2")

        new = placed(
            decided(
                fleet(pool(3), nodes=nodes),
                known,
                reports=[
                    silent("n1", for_s=5),
                    report("n2", found(known)),
                    report("n3", at_s=0.0, fault="refused"),
                ],
            )
        )

        assert ["n2", "n2"] == [one.node for one in new]

    @pytest.mark.parametrize("nodes", [[node("n1")], [node("n1"), N2]], ids=["here", "elsewhere"])
    def test_after_each_failed_start_it_gets_another_port_wherever_it_goes(
        self, nodes: list[Node]
    ) -> None:
        """A stranger may have the old one, and those beside it, on every node."""
        failed = instance(phase=Phase.FAILED, retry_at_s=NOW_S, failed_on=("n2", "n1"))
        reports = [report(one.name) for one in nodes]
        ports = [failed.port]

        for n in range(1, 9):
            failed = replace(failed, n_failures=n, port=ports[-1])
            (renew,) = decided(fleet(pool(1), nodes=nodes), failed, reports=reports)
            assert isinstance(renew, Replace)
            assert nodes[-1].name == renew.node
            ports.append(renew.port)

        assert 9 == len(set(ports))
        assert max(ports) - min(ports) > 1000

    @pytest.mark.parametrize(("last_port", "expected"), [(20_000, 20_000), (20_001, 20_001)])
    def test_after_a_failed_start_the_old_port_is_the_last_choice(
        self, last_port: int, expected: int
    ) -> None:
        small = fleet(pool(1), nodes=[node(first_port=20_000, last_port=last_port)])
        for n in range(1, 9):
            failed = instance(phase=Phase.FAILED, retry_at_s=NOW_S, n_failures=n, port=20_000)
            (renew,) = decided(small, failed, reports=[report()])
            assert isinstance(renew, Replace)
            assert expected == renew.port

    def test_ports_on_a_node_are_all_different(self) -> None:
        tight = node(cpus=90.0, memory_bytes=90 * GIB, first_port=20_000, last_port=20_049)

        new = placed(decided(fleet(pool(50), nodes=[tight], limits=Limits(operations=100))))

        assert 50 == len({one.port for one in new})

    @pytest.mark.parametrize(
        "size",
        [
            {"cpus": 1.0, "memory_bytes": 0},
            {"cpus": 0.0, "memory_bytes": GIB},
            {"cpus": 0.0, "memory_bytes": 0},
        ],
        ids=["cpus", "memory", "instances"],
    )
    def test_a_failed_instance_weighs_as_much_as_one_that_runs(
        self, size: dict[str, object]
    ) -> None:
        failed = instance(1, phase=Phase.FAILED, retry_at_s=NOW_S + 9, **size)
        most = 0 if any(size.values()) else 8
        nodes = [node(name, max_instances=most) for name in ("n1", "n2")]

        new = placed(
            decided(
                fleet(pool(3), nodes=nodes),
                failed,
                reports=[report("n1"), report("n2")],
            )
        )

        assert ["n2", "n1"] == [one.node for one in new]

    @pytest.mark.parametrize("strategy", Spread)
    def test_where_starts_have_failed_of_late_is_taken_last(self, strategy: Spread) -> None:
        failed = instance(
            1, phase=Phase.FAILED, started_s=0.0, failed_on=("n1",), retry_at_s=NOW_S + 9
        )
        chosen = pool(10, placement=Placement(strategy))

        new = placed(
            decided(
                fleet(chosen, nodes=[node("n1"), N2]),
                failed,
                reports=[report("n1"), report("n2")],
            )
        )

        assert ["n2"] * 8 + ["n1"] == [one.node for one in new]

    @pytest.mark.parametrize(("age_s", "expected"), [(3599.0, "n2"), (3600.0, "n1")])
    def test_what_has_failed_elsewhere_before_it_ran_tells_of_it_for_an_hour(
        self, age_s: float, expected: str
    ) -> None:
        one = instance(1, node="n2", failed_on=("n1",), started_s=NOW_S - age_s)

        new = placed(
            decided(
                fleet(pool(2), nodes=[node("n1"), N2]),
                one,
                reports=[report("n1"), report("n2", found(one))],
            )
        )

        assert [expected] == [one.node for one in new]


class TestOperations:
    """How many operations are begun at once."""

    def test_a_node_that_is_busy_holds_up_no_other(self) -> None:
        nodes = [node("n1"), N2]
        busy = [("n1", f"x.{n}") for n in range(3)]

        new = placed(
            decided(
                fleet(pool(9), nodes=nodes, limits=Limits(operations_per_node=3)),
                reports=[report("n1"), report("n2")],
                collecting=busy,
            )
        )

        assert ["n2", "n2"] == [one.node for one in new]

    @pytest.mark.parametrize(("nodes", "expected"), [([WIDE, N2], 5), ([WIDE], 10)])
    def test_one_of_several_nodes_has_half_of_them_at_most(
        self, nodes: list[Node], expected: int
    ) -> None:
        ghosts = [found(one) for one in many(20)]

        actions = decided(
            fleet(pool(0), nodes=nodes, limits=Limits(operations=10)),
            reports=[report("n1", *ghosts), report("n2")],
            deletable_orphans=[("n1", ghost.name) for ghost in ghosts],
        )

        assert expected == len(actions)

    def test_what_is_wanted_comes_before_what_is_swept(self) -> None:
        ghosts = [found(one, generation=9) for one in many(20, pool="old")]

        actions = decided(
            fleet(pool(4), nodes=[WIDE], limits=Limits(operations=5)),
            reports=[report("n1", *ghosts)],
            deletable_orphans=[("n1", ghost.name) for ghost in ghosts],
        )

        assert 4 == len(placed(actions))

    def test_no_more_over_the_fleet_than_its_limit(self) -> None:
        starting = many(3, phase=Phase.STARTING, has_served=True)
        limits = Limits(operations=5)

        actions = decided(
            fleet(pool(20), nodes=[WIDE], limits=limits), *starting, working=[starting[0].id]
        )

        assert 4 == len(actions)

    @pytest.mark.parametrize(
        ("limit", "cpus", "expected"), [(0, 1.0, 3), (0, 2.5, 8), (0, 0.1, 1), (2, 50.0, 2)]
    )
    def test_no_more_on_a_node_than_its_cpus_bear(
        self, limit: int, cpus: float, expected: int
    ) -> None:
        limits = Limits(operations_per_node=limit)
        ghosts = [found(one, ContainerState.EXITED) for one in many(20)]

        actions = decided(
            fleet(pool(0), nodes=[node(cpus=cpus)], limits=limits), reports=[report("n1", *ghosts)]
        )

        assert expected == len(actions)

    def test_sweeps_count_as_well(self) -> None:
        limits = Limits(operations=2)

        actions = decided(
            fleet(pool(20), nodes=[WIDE], limits=limits), collecting=[("n1", "x.1"), ("n1", "y.1")]
        )

        assert () == actions


class TestStarting:
    """A start that nobody works on."""

    def test_is_gone_on_with(self) -> None:
        one = instance(1, phase=Phase.STARTING)

        assert (Start(one.id, one.listing),) == decided(pool(1), one)

    def test_is_listed_as_its_container_will_be_made(self) -> None:
        """Its node may have another address since its last container was ordered."""
        there = node(address="10.0.0.9", labels=(("rack", "r1"),))

        (start,) = decided(fleet(pool(1), nodes=[there]), instance(1, phase=Phase.STARTING))

        assert isinstance(start, Start)
        assert Listing("llama3", "fleet", "10.0.0.9", (("rack", "r1"),)) == start.listing

    def test_waits_while_its_node_is_silent(self) -> None:
        one = instance(1, phase=Phase.STARTING)

        assert () == decided(pool(1), one, reports=[silent("n1", for_s=60.0)])

    def test_moves_from_a_lost_node(self) -> None:
        (renew,) = decided(
            fleet(pool(1), nodes=[WIDE, N2]),
            instance(1, phase=Phase.STARTING),
            reports=[silent("n1", for_s=120.0), report("n2")],
        )

        assert isinstance(renew, Replace)
        assert ("n2", 2, Reason.NODE_LOST) == (renew.node, renew.generation, renew.reason)

    def test_moves_from_a_cordoned_node(self) -> None:
        (renew,) = decided(
            fleet(pool(1), nodes=[replace(WIDE, is_cordoned=True), N2]),
            instance(1, phase=Phase.STARTING),
            reports=[report("n1"), report("n2")],
        )

        assert isinstance(renew, Replace)
        assert "n2" == renew.node

    def test_of_an_old_workload_is_stopped_where_its_container_is_there_already(self) -> None:
        one = instance(1, phase=Phase.STARTING)

        actions = decided(pool(1, workload=NEW), one, reports=[report("n1", found(one))])

        assert (Stop(one.id, Reason.CHANGED),) == actions

    def test_of_an_old_workload_goes_on_with_the_new_one_in_its_place(self) -> None:
        one = instance(1, phase=Phase.STARTING, workload="old", cpus=7.0)
        grown = replace(CHAT, cpus=8.0, model="llama4")
        listing = Listing("llama4", "fleet", "127.0.0.1")
        digest = workload_digest(grown)

        (renew,) = decided(fleet(pool(1, workload=grown)), one)

        assert (
            Replace(one.id, "n1", one.port, 2, digest, 8.0, GIB, listing, Reason.CHANGED) == renew
        )

    def test_without_room_anywhere_waits(self) -> None:
        one = instance(1, phase=Phase.STARTING, workload="old")

        assert () == decided(fleet(pool(1, workload=replace(CHAT, cpus=9.0))), one)

    def test_what_waits_for_room_keeps_the_room_that_it_has(self) -> None:
        one = instance(1, phase=Phase.STARTING, workload="old", cpus=7.0)
        grown = pool(1, workload=replace(CHAT, cpus=9.0))
        other = pool(1, name="code", workload=replace(CHAT, cpus=2.0))

        assert () == decided(fleet(grown, other), one)


class TestEndings:
    """A running instance whose container does not run."""

    @pytest.mark.parametrize(
        ("container", "words"),
        [
            (
                found(instance(1), ContainerState.EXITED, exit_status=0),
                "its container has exited, status 0",
            ),
            (
                found(instance(1), ContainerState.EXITED, exit_status=3),
                "its container has exited, status 3",
            ),
            (found(instance(1), ContainerState.EXITED, exit_status=-9), "status -9 (SIGKILL)"),
            (found(instance(1), ContainerState.EXITED, exit_status=-99), "status -99"),
            (found(instance(1), ContainerState.EXITED), "status not known"),
            (found(instance(1), ContainerState.CREATED), "does not run"),
        ],
    )
    def test_is_stopped_and_says_how_it_ended(self, container: object, words: str) -> None:
        (stop,) = decided(pool(1), instance(1), reports=[report("n1", container)])  # type: ignore[arg-type]

        assert isinstance(stop, Stop)
        assert Reason.EXITED is stop.reason
        assert words in stop.detail

    def test_an_end_for_want_of_memory_has_a_reason_of_its_own(self) -> None:
        ended = found(instance(1), ContainerState.EXITED, exit_status=-9, is_out_of_memory=True)

        (stop,) = decided(pool(1), instance(1), reports=[report("n1", ended)])

        assert isinstance(stop, Stop)
        assert Reason.OUT_OF_MEMORY is stop.reason
        assert "out of memory" in stop.detail

    def test_those_that_run_on_without_a_killed_process_are_replaced_as_the_unhealthy_are(
        self,
    ) -> None:
        some = many(20)
        hit = [found(one, is_out_of_memory=True) for one in some]

        desired = fleet(pool(20), nodes=[WIDE], limits=Limits(unavailable_ratio=0.1))
        stops = decided(desired, *some, reports=[report("n1", *hit)])

        assert [Reason.OUT_OF_MEMORY] * 2 == [one.reason for one in stops if isinstance(one, Stop)]
        assert {
            "the kernel killed a process of it for want of memory; raise the pool's `memory`"
        } == {one.detail for one in stops if isinstance(one, Stop)}

    def test_a_kill_from_before_it_ran_is_an_earlier_trys(self) -> None:
        one = instance(1, since_s=NOW_S - 1.0)
        hit = report("n1", found(one, is_out_of_memory=True), at_s=NOW_S - 2.0)

        assert () == decided(pool(1), one, reports=[hit])

    def test_is_stopped_when_its_container_is_gone(self) -> None:
        (stop,) = decided(pool(1), instance(1), reports=[report("n1")])

        assert isinstance(stop, Stop)
        assert "gone" in stop.detail

    @pytest.mark.parametrize("containers", [(), (found(instance(1), ContainerState.EXITED),)])
    def test_is_not_judged_by_what_was_seen_before_it_ran(
        self, containers: tuple[object, ...]
    ) -> None:
        one = instance(1, since_s=NOW_S - 1.0)

        assert () == decided(pool(1), one, reports=[report("n1", *containers, at_s=NOW_S - 2.0)])  # type: ignore[arg-type]

    def test_is_judged_by_what_was_seen_from_the_moment_it_ran(self) -> None:
        one = instance(1, since_s=NOW_S - 1.0)

        assert 1 == len(decided(pool(1), one, reports=[report("n1", at_s=NOW_S - 1.0)]))

    def test_is_not_judged_by_what_a_silent_node_said(self) -> None:
        assert () == decided(pool(1), instance(1), reports=[silent("n1", for_s=60.0)])

    def test_all_that_ended_are_begun_anew_whatever_share_may_be_down(self) -> None:
        actions = decided(pool(9), *many(9), reports=[report("n1")])

        assert 9 == len(actions)


class TestIllness:
    """Running instances that do not answer their health check."""

    def test_is_stopped(self) -> None:
        assert (Stop("chat-00001", Reason.UNHEALTHY, "no answer"),) == decided(
            pool(1), instance(1), unhealthy={"chat-00001": NOW_S - 30.0}
        )

    def test_no_more_are_stopped_than_may_be_down_the_longest_ill_first(self) -> None:
        unhealthy = {one.id: NOW_S - number for number, one in enumerate(many(20))}
        limits = Limits(unavailable_ratio=0.1)

        actions = decided(
            fleet(pool(40), nodes=[WIDE], limits=limits), *many(40), unhealthy=unhealthy
        )

        assert {"chat-00020", "chat-00019", "chat-00018", "chat-00017"} == {
            action.id for action in actions if isinstance(action, Stop)
        }
        assert 4 == len(actions)

    def test_those_on_their_way_count(self) -> None:
        moving = instance(1, phase=Phase.STARTING, generation=2)

        actions = decided(
            pool(2), moving, instance(2), working=[moving.id], unhealthy={"chat-00002": NOW_S}
        )

        assert () == actions

    @pytest.mark.parametrize(("n_stop_tries", "expected"), [(0, 0), (1, 1), (300, 1)])
    def test_one_that_cannot_be_removed_keeps_no_other_one_ill(
        self, n_stop_tries: int, expected: int
    ) -> None:
        stuck = instance(1, phase=Phase.STOPPING, reason=Reason.ROTATED, n_stop_tries=n_stop_tries)
        others = [instance(number) for number in range(2, 21)]
        unhealthy = {one.id: NOW_S - 86_400.0 for one in others[:2]}

        actions = decided(
            pool(20), stuck, *others, unhealthy=unhealthy, backing_off=[stuck.container]
        )

        assert expected == len(actions)

    @pytest.mark.parametrize(("n_stuck", "expected"), [(2, 2), (3, 1), (4, 0), (19, 0)])
    def test_where_none_can_be_removed_only_as_many_again_are_stopped_as_may_be_down(
        self, n_stuck: int, expected: int
    ) -> None:
        stuck = [
            instance(number, phase=Phase.STOPPING, reason=Reason.UNHEALTHY, n_stop_tries=6)
            for number in range(1, 1 + n_stuck)
        ]
        unhealthy = [instance(number) for number in range(1 + n_stuck, 41)]

        actions = decided(
            fleet(pool(40), nodes=[WIDE], limits=Limits(unavailable_ratio=0.05)),
            *stuck,
            *unhealthy,
            unhealthy={one.id: NOW_S - 60.0 for one in unhealthy},
            backing_off=[one.container for one in stuck],
        )

        assert expected == len(actions)

    @pytest.mark.parametrize("n_stop_tries", [0, 300])
    def test_one_that_cannot_be_removed_keeps_the_healthy_from_being_replaced(
        self, n_stop_tries: int
    ) -> None:
        stuck = instance(1, phase=Phase.STOPPING, reason=Reason.ROTATED, n_stop_tries=n_stop_tries)

        assert () == decided(
            pool(2, workload=NEW), stuck, instance(2), backing_off=[stuck.container]
        )

    def test_those_started_for_the_first_time_do_not_count(self) -> None:
        new = instance(1, phase=Phase.STARTING)

        actions = decided(
            pool(2), new, instance(2), working=[new.id], unhealthy={"chat-00002": NOW_S}
        )

        assert 1 == len(actions)

    def test_nothing_is_done_about_it_while_its_node_is_silent(self) -> None:
        actions = decided(
            pool(1), instance(1), unhealthy={"chat-00001": 1.0}, reports=[silent("n1", for_s=119.0)]
        )

        assert () == actions


class TestReplacement:
    """Healthy instances that are replaced: drained, stopped, begun anew."""

    def test_too_old_is_drained(self) -> None:
        one = instance(1, started_s=NOW_S - WEEK_S)

        assert (Drain(one.id, Reason.ROTATED),) == decided(pool(1, rotation=Rotation()), one)

    def test_nothing_is_due_before_the_last_day_of_a_week(self) -> None:
        assert () == decided(
            pool(99, rotation=Rotation()), *many(99, started_s=NOW_S - WEEK_S * 6 / 7)
        )

    def test_about_half_is_due_in_the_middle_of_the_last_day(self) -> None:
        rotation = Rotation(at_once=1000)
        limits = Limits(unavailable_ratio=1.0)

        actions = decided(
            fleet(
                pool(1000, rotation=rotation),
                nodes=[node(cpus=1e4, memory_bytes=2**60)],
                limits=limits,
            ),
            *many(1000, started_s=NOW_S - WEEK_S * 6.5 / 7),
        )

        assert 500 == pytest.approx(len(actions), abs=50)

    def test_never_where_the_pool_does_not_rotate(self) -> None:
        assert () == decided(pool(1), instance(1, started_s=1.0))

    def test_a_changed_workload_is_drained(self) -> None:
        assert (Drain("chat-00001", Reason.CHANGED),) == decided(pool(1, workload=NEW), instance(1))

    def test_a_person_who_asks_is_served_first(self) -> None:
        asked = instance(2, is_replace_asked=True)

        assert (Drain(asked.id, Reason.REPLACED),) == decided(
            pool(2, workload=NEW), instance(1), asked
        )

    def test_what_is_on_a_cordoned_node_is_drained_where_there_is_room_elsewhere(self) -> None:
        nodes = [replace(WIDE, is_cordoned=True), node("n2", cpus=1.0)]
        limits = Limits(unavailable_ratio=1.0)

        actions = decided(
            fleet(pool(2), nodes=nodes, limits=limits),
            *many(2),
            reports=[*healthy_reports(many(2)), report("n2")],
        )

        assert (Drain("chat-00001", Reason.NODE_REMOVED),) == actions

    def test_what_is_on_a_node_without_the_labels_is_drained(self) -> None:
        chosen = pool(1, placement=Placement(selector=(("zone", "a"),)))
        nodes = [WIDE, node("n2", labels=(("zone", "a"),))]

        actions = decided(
            fleet(chosen, nodes=nodes),
            instance(1),
            reports=[*healthy_reports([instance(1)]), report("n2")],
        )

        assert (Drain("chat-00001", Reason.NODE_REMOVED),) == actions

    @pytest.mark.parametrize(
        ("at_once", "ratio", "expected"), [(3, 1.0, 3), (50, 0.2, 4), (9, 0.0, 1)]
    )
    def test_no_more_at_once_than_the_pool_and_the_fleet_allow(
        self, at_once: int, ratio: float, expected: int
    ) -> None:
        rolling = pool(20, workload=NEW, rotation=Rotation(0.0, at_once=at_once))
        limits = Limits(unavailable_ratio=ratio)

        assert expected == len(decided(fleet(rolling, nodes=[WIDE], limits=limits), *many(20)))

    @pytest.mark.parametrize(
        "down",
        [
            instance(1, phase=Phase.FAILED, workload=workload_digest(NEW)),
            instance(1, phase=Phase.DRAINING, since_s=NOW_S, reason=Reason.CHANGED),
            instance(1, phase=Phase.STARTING, generation=2, workload=workload_digest(NEW)),
        ],
        ids=["failed", "draining", "starting"],
    )
    def test_none_is_drained_while_as_many_are_down_as_may_be(self, down: Instance) -> None:
        actions = decided(pool(2, workload=NEW), down, instance(2), working=[down.id])

        assert () == actions

    @pytest.mark.parametrize(
        "down",
        [
            many(2, phase=Phase.FAILED, workload=workload_digest(NEW)),
            many(2, phase=Phase.DRAINING, since_s=NOW_S, reason=Reason.CHANGED),
            many(2, phase=Phase.STARTING, generation=2, workload=workload_digest(NEW)),
        ],
        ids=["failed", "draining", "starting"],
    )
    def test_as_many_are_drained_as_are_missing_to_what_may_be(self, down: list[Instance]) -> None:
        limits = Limits(unavailable_ratio=0.25)
        up = [instance(number) for number in range(3, 21)]

        actions = decided(
            fleet(pool(20, workload=NEW), nodes=[WIDE], limits=limits),
            *down,
            *up,
            working=[one.id for one in down],
        )

        assert 3 == len(actions)

    def test_none_is_drained_while_as_many_are_ill_as_may_be(self) -> None:
        limits = Limits(operations=0)

        actions = decided(
            fleet(pool(2, workload=NEW), limits=limits), *many(2), unhealthy={"chat-00001": NOW_S}
        )

        assert () == actions

    def test_what_drains_has_its_time(self) -> None:
        one = instance(1, phase=Phase.DRAINING, reason=Reason.ROTATED, since_s=NOW_S - 29.0)

        assert () == decided(pool(1, rotation=FAST), one)

    def test_what_has_drained_is_stopped(self) -> None:
        one = instance(1, phase=Phase.DRAINING, reason=Reason.ROTATED, since_s=NOW_S - 30.0)

        assert (Stop(one.id, Reason.ROTATED),) == decided(pool(1, rotation=FAST), one)

    def test_what_has_nothing_under_way_has_drained(self) -> None:
        one = instance(1, phase=Phase.DRAINING, reason=Reason.ROTATED, since_s=NOW_S - 15.0)

        actions = decided(pool(1, rotation=FAST), one, idle=[one.container])

        assert (Stop(one.id, Reason.ROTATED),) == actions

    def test_what_ended_while_it_drained_is_stopped_at_once(self) -> None:
        one = instance(1, phase=Phase.DRAINING, reason=Reason.ROTATED, since_s=NOW_S - 1.0)

        ended = found(one, ContainerState.EXITED, exit_status=1)
        stop = Stop(one.id, Reason.ROTATED, "its container has exited, status 1")

        assert (stop,) == decided(pool(1, rotation=FAST), one, reports=[report("n1", ended)])

    def test_a_stop_that_nobody_works_on_is_gone_on_with(self) -> None:
        one = instance(1, phase=Phase.STOPPING, reason=Reason.ROTATED)

        assert (Stop(one.id, Reason.ROTATED),) == decided(pool(1), one)


class TestLostNodes:
    """Nodes that do not answer."""

    NODES = (WIDE, N2)

    def moved(self, one: Instance, *, for_s: float, **seen: object) -> list[Replace]:
        actions = decided(
            fleet(pool(1), nodes=self.NODES),
            one,
            reports=[silent("n1", found(one), for_s=for_s), report("n2")],
            **seen,
        )
        assert all(isinstance(action, Replace) for action in actions)
        return [action for action in actions if isinstance(action, Replace)]

    def test_within_the_grace_nothing_happens(self) -> None:
        assert [] == self.moved(instance(1), for_s=119.0, unhealthy={"chat-00001": 1.0})

    def test_after_the_grace_its_instances_get_a_new_generation_elsewhere(self) -> None:
        (renew,) = self.moved(instance(1, generation=4), for_s=120.0, unhealthy={"chat-00001": 1.0})

        assert ("n2", 5, Reason.NODE_LOST) == (renew.node, renew.generation, renew.reason)

    def test_an_instance_that_still_answers_is_not_lost(self) -> None:
        assert [] == self.moved(instance(1), for_s=1000.0)

    @pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.STOPPING])
    def test_what_was_to_be_replaced_anyway_is_moved(self, phase: Phase) -> None:
        assert 1 == len(self.moved(instance(1, phase=phase, reason=Reason.ROTATED), for_s=120.0))

    def test_a_provisioner_that_has_just_begun_waits_for_the_grace_itself(self) -> None:
        unhealthy = {"chat-00001": 1.0}

        assert [] == self.moved(
            instance(1), for_s=NOW_S, unhealthy=unhealthy, since_s=NOW_S - 119.0
        )
        assert 1 == len(
            self.moved(instance(1), for_s=NOW_S, unhealthy=unhealthy, since_s=NOW_S - 120.0)
        )

    def test_a_node_never_heard_of_is_lost_after_the_grace_as_well(self) -> None:
        actions = decided(
            fleet(pool(1), nodes=self.NODES),
            instance(1),
            reports=[report("n2")],
            unhealthy={"chat-00001": 1.0},
        )

        assert isinstance(actions[0], Replace)

    def test_without_room_elsewhere_its_instances_stay_where_they_are(self) -> None:
        actions = decided(
            pool(1), instance(1), reports=[silent("n1", for_s=999.0)], unhealthy={"chat-00001": 1.0}
        )

        assert () == actions

    def test_when_it_returns_the_containers_that_were_moved_are_swept(self) -> None:
        moved = instance(1, node="n2", generation=2)
        old = found(moved, generation=1)

        actions = decided(
            fleet(pool(1), nodes=self.NODES),
            moved,
            reports=[report("n1", old), report("n2", found(moved))],
        )

        assert (GarbageCollect("n1", "chat-00001.1"),) == actions

    @pytest.mark.parametrize(
        "unlisted", [[], [silent("n1", for_s=119.0)]], ids=["unknown", "known"]
    )
    def test_a_node_that_is_not_in_the_specification_has_its_grace_as_well(
        self, unlisted: list[NodeReport]
    ) -> None:
        unhealthy = {"chat-00001": 1.0}

        assert () == decided(
            fleet(pool(1), nodes=[N2]),
            instance(1),
            reports=[*unlisted, report("n2")],
            unhealthy=unhealthy,
            since_s=NOW_S - 119.0,
        )

    def test_instances_of_a_node_that_is_not_in_the_specification_move_as_slowly_as_any(
        self,
    ) -> None:
        actions = decided(
            fleet(pool(8), nodes=[N2], limits=Limits(unavailable_ratio=0.25)),
            *many(8),
            reports=[report("n2")],
        )

        assert [
            Drain("chat-00001", Reason.NODE_REMOVED),
            Drain("chat-00002", Reason.NODE_REMOVED),
        ] == [*actions]

    def test_what_has_begun_to_leave_a_node_that_cannot_be_asked_moves_at_once(self) -> None:
        leaving = instance(1, phase=Phase.DRAINING, reason=Reason.NODE_REMOVED, since_s=NOW_S)

        (renew,) = decided(fleet(pool(1), nodes=[N2]), leaving, reports=[report("n2")])

        assert isinstance(renew, Replace)
        assert "n2" == renew.node


class TestSweeping:
    """Containers that no record wants."""

    def test_a_container_without_a_record_is_swept(self) -> None:
        known, leftover = instance(1), found(instance(7), generation=3)

        assert (GarbageCollect("n1", "chat-00007.3"),) == decided(
            pool(1), known, reports=[report("n1", found(known), leftover)]
        )

    def test_a_container_of_another_generation_is_swept(self) -> None:
        one = instance(1, generation=2)

        assert (GarbageCollect("n1", "chat-00001.1"),) == decided(
            pool(1), one, reports=[report("n1", found(one, generation=1), found(one))]
        )

    def test_a_container_on_another_node_is_swept(self) -> None:
        one = instance(1)

        assert (GarbageCollect("n2", "chat-00001.1"),) == decided(
            fleet(pool(1), nodes=[WIDE, N2]),
            one,
            reports=[report("n1", found(one)), report("n2", found(one))],
        )

    def test_what_a_failed_start_has_left_is_swept(self) -> None:
        one = instance(1, phase=Phase.FAILED, retry_at_s=NOW_S + 9.0)

        assert (GarbageCollect("n1", "chat-00001.1"),) == decided(
            pool(1), one, reports=[report("n1", found(one))]
        )

    def test_nothing_is_swept_twice_at_once(self) -> None:
        actions = decided(
            pool(0), reports=[report("n1", found(instance(7)))], collecting=[("n1", "chat-00007.1")]
        )

        assert () == actions

    def test_what_is_known_is_mended_though_the_store_is_doubted(self) -> None:
        """That all of them have ended at once makes the others no less orphans."""
        known = instance(1, phase=Phase.STARTING)
        orphans = [found(instance(number)) for number in (500, 501)]

        (start,) = decided(pool(1), known, reports=[report("n1", *orphans)])

        assert isinstance(start, Start)

    @pytest.mark.parametrize("n_known", [0, 1])
    @pytest.mark.parametrize(
        ("reports", "is_asked"),
        [
            ([], False),
            ([report("n2", at_s=0.0)], False),
            ([report("n2", at_s=0.0, fault="refused")], True),
            ([silent("n2", for_s=9.0)], True),
            ([report("n2")], True),
        ],
        ids=["unasked", "being asked", "refuses", "silent", "answered"],
    )
    def test_nothing_is_made_or_swept_until_each_node_was_asked_what_runs(
        self, reports: list[NodeReport], is_asked: bool, n_known: int
    ) -> None:
        """However much the store knows; what it knows is put right meanwhile."""
        known = many(n_known, generation=2)
        old = [found(one, generation=1) for one in known]
        dead = found(instance(7), ContainerState.EXITED)
        here = report("n1", *map(found, known), *old, dead)

        actions = decided(fleet(pool(3), nodes=[WIDE, N2]), *known, reports=[here, *reports])

        assert (3 - n_known if is_asked else 0) == len(placed(actions))
        swept = {action.container for action in actions if isinstance(action, GarbageCollect)}
        assert {container.name for container in old} | ({dead.name} if is_asked else set()) == swept

    def test_few_orphans_on_one_node_are_not_swept_before_the_others_were_asked(self) -> None:
        """Nine on each of five nodes are a fleet."""
        nodes = [node(f"n{n}") for n in range(1, 6)]
        known = [instance(n, node=f"n{n}") for n in range(1, 6)]
        reports = [
            report(
                one.name,
                found(mine),
                *(found(instance(number)) for number in range(100 * n, 100 * n + 9)),
            )
            for n, (one, mine) in enumerate(zip(nodes, known, strict=True), start=1)
        ]
        wanted = fleet(pool(5), nodes=nodes)

        for n_heard in range(1, 6):
            unheard = [report(one.name, at_s=0.0) for one in nodes[n_heard:]]
            assert () == decided(wanted, *known, reports=reports[:n_heard] + unheard)

    def test_containers_whose_instances_have_moved_elsewhere_are_no_orphans(self) -> None:
        moved = [instance(n, node="n2", generation=2) for n in range(1, 13)]
        left = [found(one, generation=1) for one in moved]

        actions = decided(
            fleet(pool(12), nodes=[WIDE, N2]),
            *moved,
            reports=[report("n1", *left), report("n2", *map(found, moved))],
        )

        assert {GarbageCollect("n1", container.name) for container in left} == set(actions)

    def test_what_could_just_not_be_removed_is_left_alone_for_a_while(self) -> None:
        leaving = instance(1, phase=Phase.STOPPING, reason=Reason.SCALED_DOWN)
        stray = found(instance(7))

        assert () == decided(
            pool(0),
            leaving,
            reports=[report("n1", found(leaving), stray)],
            backing_off=[leaving.container, stray.name],
        )

    def test_nothing_is_swept_by_a_report_older_than_its_record(self) -> None:
        one = instance(1, phase=Phase.FAILED, retry_at_s=NOW_S + 9.0, since_s=NOW_S - 1.0)

        assert () == decided(pool(1), one, reports=[report("n1", found(one), at_s=NOW_S - 2.0)])

    def test_nothing_is_swept_on_a_node_that_does_not_answer(self) -> None:
        assert () == decided(pool(0), reports=[silent("n1", found(instance(7)), for_s=500.0)])


class TestFailures:
    """Instances that could not be started."""

    def failed(self, **fields: object) -> Instance:
        made = instance(1, phase=Phase.FAILED, n_failures=1, retry_at_s=NOW_S)
        return replace(made, **fields)

    def test_is_tried_again_elsewhere_when_it_is_time(self) -> None:
        (renew,) = decided(
            fleet(pool(1), nodes=[WIDE, N2]), self.failed(), reports=[report("n1"), report("n2")]
        )

        assert isinstance(renew, Replace)
        assert ("n2", 2, None) == (renew.node, renew.generation, renew.reason)

    def test_gets_a_port_of_its_node_after_the_nodes_ports_have_changed(self) -> None:
        moved = node(first_port=30_000, last_port=30_009)

        (renew,) = decided(fleet(pool(1), nodes=[moved]), self.failed(n_failures=0))

        assert isinstance(renew, Replace)
        assert 30_000 <= renew.port <= 30_009

    def test_is_tried_again_at_another_port_where_there_is_no_other_node(self) -> None:
        (renew,) = decided(pool(1), self.failed())

        assert isinstance(renew, Replace)
        assert "n1" == renew.node
        assert self.failed().port != renew.port

    def test_stays_in_its_place_after_a_crash(self) -> None:
        (renew,) = decided(
            fleet(pool(1), nodes=[WIDE, N2]),
            self.failed(n_failures=0),
            reports=[report("n1"), report("n2")],
        )

        assert isinstance(renew, Replace)
        assert ("n1", self.failed().port) == (renew.node, renew.port)

    def test_is_not_tried_before_it_is_time(self) -> None:
        assert () == decided(pool(1), self.failed(retry_at_s=NOW_S + 0.1))

    def test_for_good_is_not_tried_again(self) -> None:
        assert () == decided(pool(1), self.failed(retry_at_s=0.0))

    def test_for_good_on_one_node_is_tried_on_another_at_once(self) -> None:
        nodes = [WIDE, N2, node("n3")]

        (renew,) = decided(
            fleet(pool(1), nodes=nodes),
            self.failed(node="n2", failed_on=("n1", "n2"), retry_at_s=0.0),
            reports=[report(one.name) for one in nodes],
        )

        assert isinstance(renew, Replace)
        assert ("n3", None) == (renew.node, renew.reason)

    def test_for_good_on_three_nodes_it_is_the_workloads_fault(self) -> None:
        nodes = [WIDE, N2, node("n3"), node("n4")]

        assert () == decided(
            fleet(pool(1), nodes=nodes),
            self.failed(node="n3", failed_on=("n1", "n2", "n3"), retry_at_s=0.0),
            reports=[report(one.name) for one in nodes],
        )

    def test_for_good_on_three_nodes_that_have_left_is_tried_on_another(self) -> None:
        (renew,) = decided(
            fleet(pool(1), nodes=[N2]),
            self.failed(node="n5", failed_on=("n3", "n4", "n5"), retry_at_s=0.0),
            reports=[report("n2")],
        )

        assert isinstance(renew, Replace)
        assert "n2" == renew.node

    @pytest.mark.parametrize(
        "left", [[N2], [replace(WIDE, is_cordoned=True), N2]], ids=["gone", "cordoned"]
    )
    def test_for_good_is_tried_elsewhere_once_its_node_has_left(self, left: list[Node]) -> None:
        (renew,) = decided(
            fleet(pool(1), nodes=left),
            self.failed(failed_on=("n1",), retry_at_s=0.0),
            reports=[report("n1"), report("n2")],
        )

        assert isinstance(renew, Replace)
        assert "n2" == renew.node

    def test_goes_first_where_it_has_not_failed_yet(self) -> None:
        nodes = [WIDE, N2, node("n3", cpus=2.0)]
        taken = instance(2, node="n3")

        renews = decided(
            fleet(pool(2), nodes=nodes),
            self.failed(failed_on=("n2", "n1")),
            taken,
            reports=[report("n1"), report("n2"), report("n3", found(taken))],
        )

        assert ["n3"] == [renew.node for renew in renews if isinstance(renew, Replace)]

    def test_for_good_is_tried_when_a_person_asks(self) -> None:
        (renew,) = decided(pool(1), self.failed(retry_at_s=0.0, is_replace_asked=True))

        assert isinstance(renew, Replace)
        assert Reason.REPLACED is renew.reason

    def test_for_good_is_tried_when_the_workload_has_changed(self) -> None:
        (renew,) = decided(pool(1, workload=NEW), self.failed(retry_at_s=0.0))

        assert isinstance(renew, Replace)
        assert (Reason.CHANGED, workload_digest(NEW)) == (renew.reason, renew.workload)

    def test_the_next_generation_is_newer_than_any_container_that_is_still_around(self) -> None:
        one = self.failed()

        newer = found(one, generation=6)
        ordered = [("n1", newer.name)]

        actions = decided(pool(1), one, reports=[report("n1", newer)], deletable_orphans=ordered)

        assert [7] == [action.generation for action in actions if isinstance(action, Replace)]

    def test_a_port_that_is_given_back_is_given_to_nobody_in_the_same_pass(self) -> None:
        tight = node(first_port=20_001, last_port=20_002)

        actions = decided(fleet(pool(2), nodes=[tight]), self.failed(port=20_001))

        assert [20_002] == [action.port for action in actions if isinstance(action, Replace)]
        assert [] == placed(actions)


class TestClockSetBack:
    """Moments that lie in the future say nothing."""

    LATER_S = NOW_S + 3600.0

    def test_what_was_to_be_tried_again_is_tried_now(self) -> None:
        one = instance(1, phase=Phase.FAILED, retry_at_s=self.LATER_S)

        assert 1 == len(decided(pool(1), one))

    def test_what_drains_is_stopped(self) -> None:
        one = instance(1, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN, since_s=self.LATER_S)

        assert (Stop(one.id, Reason.SCALED_DOWN),) == decided(pool(0), one)

    def test_a_container_that_has_ended_is_seen(self) -> None:
        (stop,) = decided(pool(1), instance(1, since_s=self.LATER_S), reports=[report("n1")])

        assert isinstance(stop, Stop)

    def test_a_node_that_is_silent_is_lost_after_the_grace(self) -> None:
        (renew,) = decided(
            fleet(pool(1), nodes=[WIDE, N2]),
            instance(1),
            reports=[silent("n1", for_s=-3600.0), report("n2")],
            unhealthy={"chat-00001": 1.0},
            since_s=NOW_S - 120.0,
        )

        assert isinstance(renew, Replace)


class TestDevelopers:
    """Who has which instance."""

    def test_get_instances_that_run_first(self) -> None:
        starting = instance(1, phase=Phase.STARTING)

        assert (Assign("chat-00002", "ada"),) == decided(
            pool(2, developers=("ada",)), starting, instance(2), working=[starting.id]
        )

    def test_keep_theirs(self) -> None:
        owned = [instance(1, developer="bob"), instance(2, developer="ada")]

        assert () == decided(pool(2, developers=("ada", "bob")), *owned)

    def test_get_new_instances_as_they_are_made(self) -> None:
        new = placed(decided(pool(3, developers=("ada", "bob"))))

        assert ["ada", "bob", ""] == [one.developer for one in new]

    def test_who_is_not_listed_gives_it_back(self) -> None:
        assert (Assign("chat-00001", ""),) == decided(pool(1), instance(1, developer="eve"))

    def test_what_is_given_back_goes_to_who_waits(self) -> None:
        assert (Assign("chat-00001", "ada"),) == decided(
            pool(1, developers=("ada",)), instance(1, developer="eve")
        )

    def test_nobody_has_two(self) -> None:
        owned = [instance(1, developer="ada"), instance(2, developer="ada")]

        assert (Assign("chat-00002", ""),) == decided(pool(2, developers=("ada",)), *owned)

    def test_a_name_listed_twice_gets_one(self) -> None:
        new = placed(decided(pool(2, developers=("ada", "ada"))))

        assert ["ada", ""] == [one.developer for one in new]
