"""What a new specification would change is told before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.model import (
    Fleet,
    Instance,
    Limits,
    Node,
    Phase,
    Pool,
    Probe,
    Reason,
    Rotation,
    RuntimeKind,
    WarmUp,
    Workload,
)
from provisioning.plan import FieldChange, NodePlan, Plan, PoolPlan, Verb, plan_of, plan_text
from provisioning.workload import instance_id, listing_of

WORKLOAD = Workload(model="m", engine="ollama", environment={"A": "old"})
POOL = Pool(name="llama", count=4, workload=WORKLOAD)
NODES = (
    Node(name="n1", runtime=RuntimeKind.SIMULATED, cpus=1.0, memory_bytes=2**36),
    Node(name="n2", runtime=RuntimeKind.SIMULATED, cpus=1.0, memory_bytes=2**36),
)
FLEET = Fleet(name="lab", nodes=NODES, pools=(POOL,))


def changed(pool: Pool = POOL, **changes: Any) -> Pool:
    return pool.replace(**changes)


def fleet(*pools: Pool, **changes: Any) -> Fleet:
    return FLEET.replace(pools=pools, **changes)


def instances(
    count: int, *, pool: Pool = POOL, node: str = "n1", reason: Reason | None = None
) -> list[Instance]:
    digest = pool.workload.digest
    return [
        Instance(
            instance_id(pool.name, n), pool.name, node, 20_000 + n, 1, Phase.RUNNING, 0.0, digest,
            reason=reason,
        )
        for n in range(1, count + 1)
    ]  # fmt: skip


def pool_plan(
    after: Fleet, stored: Sequence[Instance], *, before: Fleet | None = FLEET
) -> PoolPlan:
    (only,) = plan_of(before, after, stored).pools
    return only


def counts(plan: PoolPlan) -> tuple[int, int, int, int]:
    return (plan.n_created, plan.n_removed, plan.n_replaced, plan.n_moved)


def test_a_fleet_that_is_as_wanted_has_an_empty_plan() -> None:
    plan = plan_of(FLEET, FLEET, instances(4), base_version=7)

    assert (True, 7) == (plan.is_empty, plan.base_version)
    assert "fleet lab: nothing to change" == plan_text(plan)


def test_the_first_specification_creates_everything() -> None:
    plan = plan_of(None, FLEET, [])

    assert [PoolPlan("llama", Verb.ADDED, 0, 4, 4, 0, 0, 0)] == list(plan.pools)
    assert [NodePlan("n1", Verb.ADDED), NodePlan("n2", Verb.ADDED)] == list(plan.nodes)


def test_a_pool_that_is_left_out_is_removed() -> None:
    plan = pool_plan(fleet(), instances(4))

    assert PoolPlan("llama", Verb.REMOVED, 4, 0, 0, 4, 0, 0) == plan


@pytest.mark.parametrize(("count", "expected"), [(6, (2, 0, 0, 0)), (3, (0, 1, 0, 0))])
def test_another_count_creates_or_removes(count: int, expected: tuple[int, int, int, int]) -> None:
    plan = pool_plan(fleet(changed(count=count)), instances(4))

    assert expected == counts(plan)
    assert (Verb.CHANGED, (FieldChange("count", "4", str(count)),)) == (plan.verb, plan.changes)


@pytest.mark.parametrize(("count", "n_without"), [(0, 2), (2, 0)])
def test_a_pool_that_is_put_away_tells_how_many_developers_have_no_instance(
    count: int, n_without: int
) -> None:
    kept = changed(count=count, developers=("ann", "bob"))

    assert n_without == pool_plan(fleet(kept), instances(4)).n_without
    assert 0 == pool_plan(fleet(), instances(4)).n_without


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("ann",), "pool llama: 1 developer has no instance while its count is 0"),
        (("ann", "bob"), "pool llama: 2 developers have no instance while its count is 0"),
    ],
)
def test_developers_without_an_instance_are_told_in_words(
    names: tuple[str, ...], words: str
) -> None:
    plan = plan_of(FLEET, fleet(changed(count=0, developers=names)), instances(4))

    assert words in plan_text(plan).splitlines()


def test_instances_that_were_not_made_yet_are_still_created() -> None:
    assert (3, 0, 0, 0) == counts(pool_plan(FLEET, instances(1)))
    assert not plan_of(FLEET, FLEET, instances(1)).is_empty


def test_instances_that_leave_for_good_do_not_count() -> None:
    leaving = instances(4, reason=Reason.SCALED_DOWN)

    assert (4, 0, 0, 0) == counts(pool_plan(FLEET, leaving))


def test_another_workload_replaces_every_instance_and_says_what_differs() -> None:
    workload = WORKLOAD.replace(model="n", cpus=4.0)

    plan = pool_plan(fleet(changed(workload=workload)), instances(4))

    assert (0, 0, 4, 0) == counts(plan)
    assert (
        FieldChange("cpus", "2", "4"),
        FieldChange("model", "m", "n"),
    ) == plan.changes


def test_another_health_check_replaces_nothing() -> None:
    workload = WORKLOAD.replace(probe=Probe(path="/x"))

    plan = pool_plan(fleet(changed(workload=workload)), instances(4))

    assert (0, 0, 0, 0) == counts(plan)
    assert (FieldChange("health.path", "/health", "/x"),) == plan.changes


def test_settings_have_their_names_and_containers_in_the_file() -> None:
    """What a plan tells can be found in the file, and put there."""
    workload = WORKLOAD.replace(memory_bytes=2**34, probe=Probe(n_failures=5))
    pool = changed(workload=workload, rotation=Rotation(every_s=3600.0, drain_s=90.0))
    limits = Limits(unavailable_ratio=0.1, start_timeout_s=60.0)
    node = NODES[0].replace(is_cordoned=True)

    plan = plan_of(FLEET, fleet(pool, limits=limits, nodes=(node, NODES[1])), ())

    assert (
        FieldChange("health.failures", "3", "5"),
        FieldChange("memory", "8GiB", "16GiB"),
        FieldChange("rotation.drain", "1m", "1m30s"),
        FieldChange("rotation.every", "7d", "1h"),
    ) == plan.pools[0].changes
    assert (
        FieldChange("start_timeout", "30s", "1m"),
        FieldChange("unavailable", "5%", "10%"),
    ) == plan.limits
    assert (FieldChange("cordoned", "false", "true"),) == plan.nodes[0].changes


def test_a_variable_that_is_gone_has_no_value_afterwards() -> None:
    """Of an engine's own ones as well, which the file then has without a value."""
    given = {"A": "old", "OLLAMA_HOST": "{address}", "X": ""}
    before = fleet(changed(workload=WORKLOAD.replace(environment=given)))

    plan = plan_of(before, FLEET, ())

    assert [("environment.OLLAMA_HOST", "…", ""), ("environment.X", "…", "")] == [
        (change.name, change.before, change.after) for change in plan.pools[0].changes
    ]


def test_values_of_environment_variables_are_hidden() -> None:
    workload = WORKLOAD.replace(environment={"A": "new", "B": "hidden"})

    plan = plan_of(FLEET, fleet(changed(workload=workload)), instances(4))

    assert (
        FieldChange("environment.A", "…", "…"),
        FieldChange("environment.B", "", "…"),
    ) == plan.pools[0].changes
    assert not {"old", "new", "hidden"} & set(plan_text(plan).split())


def test_instances_that_are_too_many_are_not_also_replaced_or_moved() -> None:
    """Of four instances two go; of the two that stay, one is on a node that goes."""
    workload = WORKLOAD.replace(model="n")
    stored = [*instances(3, node="n2"), *instances(4)[3:]]

    plan = pool_plan(fleet(changed(count=2, workload=workload), nodes=NODES[:1]), stored)

    assert (0, 2, 1, 1) == counts(plan)


@given(
    count=st.integers(0, 6),
    stored=st.lists(st.tuples(st.sampled_from(["n1", "n2"]), st.booleans()), max_size=6),
)
def test_the_numbers_of_a_plan_add_up(count: int, stored: list[tuple[str, bool]]) -> None:
    """Some instances are on a node that goes, some run another workload, some both."""
    old = [
        msgspec.structs.replace(one, node=node, workload="old" if is_old else one.workload)
        for one, (node, is_old) in zip(instances(len(stored)), stored, strict=True)
    ]

    plan = pool_plan(fleet(changed(count=count), nodes=NODES[:1]), old)

    assert count == plan.n_before + plan.n_created - plan.n_removed
    assert plan.n_replaced + plan.n_moved <= min(count, plan.n_before)
    assert 0 in (plan.n_created, plan.n_removed)


@pytest.mark.parametrize("nodes", [NODES[1:], (NODES[0].replace(is_cordoned=True), NODES[1])])
def test_instances_of_a_node_that_goes_are_moved(nodes: tuple[Node, ...]) -> None:
    assert (0, 0, 0, 4) == counts(pool_plan(fleet(POOL, nodes=nodes), instances(4)))


def test_nodes_and_limits_that_differ_are_told() -> None:
    nodes = (NODES[0].replace(cpus=2.0, labels={"a": "1"}), NODES[1])

    plan = plan_of(FLEET, fleet(POOL, nodes=nodes, limits=Limits(tries=4)), instances(4))

    changes = (FieldChange("cpus", "1", "2"), FieldChange("labels.a", "", "1"))
    assert (NodePlan("n1", Verb.CHANGED, changes),) == plan.nodes
    assert (FieldChange("tries", "3", "4"),) == plan.limits


def test_nodes_and_limits_that_differ_are_told_in_words() -> None:
    nodes = (NODES[0].replace(cpus=2.0), NODES[1])

    text = plan_text(plan_of(FLEET, fleet(POOL, nodes=nodes, limits=Limits(tries=4)), instances(4)))

    assert """\
node n1:
  cpus: 1 → 2
limits:
  tries: 3 → 4""" == text.partition("\n")[2].partition("\n")[2]


def cordoned(node: Node) -> Node:
    return node.replace(is_cordoned=True)


def test_nodes_that_are_removed_say_what_they_hold() -> None:
    """Failed ones hold nothing; those that leave for good still do."""
    stored = [
        *instances(2),
        *instances(1, reason=Reason.SCALED_DOWN),
        msgspec.structs.replace(instances(1)[0], phase=Phase.FAILED),
        *instances(1, node="n9"),
    ]

    plan = plan_of(
        FLEET,
        fleet(
            POOL,
            nodes=(Node(name="n3", runtime=RuntimeKind.SIMULATED, cpus=1.0, memory_bytes=2**36),),
        ),
        stored,
    )

    assert (
        NodePlan("n1", Verb.REMOVED, (), 3, is_in_use=True),
        NodePlan("n2", Verb.REMOVED),
        NodePlan("n3", Verb.ADDED),
    ) == plan.nodes
    assert ("n1",) == tuple(node.name for node in plan.nodes_in_use)


def test_of_nodes_that_stay_it_is_not_said_what_they_hold() -> None:
    nodes = (cordoned(NODES[0]), NODES[1])

    (node,) = plan_of(FLEET, fleet(POOL, nodes=nodes), instances(4)).nodes

    assert ("n1", 0, False) == (node.name, node.n_held, node.is_in_use)


def test_that_a_node_cannot_be_dropped_comes_first() -> None:
    text = plan_text(plan_of(FLEET, fleet(POOL, nodes=NODES[1:]), instances(1)))

    first, *others = text.splitlines()
    assert first.startswith(
        "cannot drop nodes that hold instances and are not cordoned: n1 (holds 1 instance); "
    )
    assert "'ollama-fleet instances list --node=n1'" in first
    assert "nodes removed: n1 (holds 1 instance)" == others[-1]


def test_several_nodes_that_cannot_be_dropped_are_all_named() -> None:
    stored = [*instances(1), *instances(2, node="n2")]

    first = plan_text(plan_of(FLEET, fleet(POOL, nodes=()), stored)).splitlines()[0]

    assert "n1 (holds 1 instance), n2 (holds 2 instances); " in first
    assert "could not reach 3 instances there" in first
    assert "--node=NODE'" in first


def test_a_cordoned_node_may_go_and_the_plan_says_what_it_holds() -> None:
    before = fleet(POOL, nodes=(cordoned(NODES[0]), NODES[1]))

    text = plan_text(plan_of(before, fleet(POOL, nodes=NODES[1:]), instances(2)))

    assert "cannot drop" not in text
    assert "nodes removed: n1 (holds 2 instances)" == text.splitlines()[-1]


# Nodes that would be other machines


CONTAINED = (
    Node(
        name="n1",
        runtime=RuntimeKind.CONTAINERD,
        address="10.0.0.1",
        endpoint="https://10.0.0.1:11480",
        cpus=1.0,
        memory_bytes=2**36,
    ),
    Node(
        name="n2",
        runtime=RuntimeKind.CONTAINERD,
        address="10.0.0.2",
        endpoint="https://10.0.0.2:11480",
        cpus=1.0,
        memory_bytes=2**36,
    ),
)


def held(count: int, *, node: Node = CONTAINED[0], phase: Phase = Phase.RUNNING) -> list[Instance]:
    """Return instances that were started on a node."""
    return [
        msgspec.structs.replace(one, phase=phase, listing=listing_of(WORKLOAD, node))
        for one in instances(count, node=node.name)
    ]


def node_plans(
    after: Sequence[Node], stored: Sequence[Instance], *, before: Sequence[Node] = CONTAINED
) -> tuple[NodePlan, ...]:
    old, new = fleet(POOL, nodes=tuple(before)), fleet(POOL, nodes=tuple(after))
    return plan_of(old, new, stored).nodes


def other(node: Node = CONTAINED[0], **fields: Any) -> Node:
    return node.replace(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoint": "https://10.0.0.9:11480"},
        {"runtime": RuntimeKind.PROCESS, "endpoint": ""},
        {"endpoint": "https://10.0.0.9:11480", "address": "10.0.0.9"},
        {"endpoint": "https://10.0.0.9:11480", "is_cordoned": True},
    ],
)
def test_a_node_that_holds_instances_cannot_become_another_machine(fields: dict[str, Any]) -> None:
    (plan,) = node_plans((other(**fields), CONTAINED[1]), held(2))

    assert ("n1", 2, True, True) == (plan.name, plan.n_held, plan.is_moved, plan.is_refused)
    assert () == plan.left_at  # that is for those that are listed again


def test_that_it_is_cordoned_does_not_make_a_node_another_machine() -> None:
    cordoned_one = other(is_cordoned=True)

    (plan,) = node_plans(
        (other(endpoint="https://10.0.0.9:11480"), CONTAINED[1]),
        held(2),
        before=(cordoned_one, CONTAINED[1]),
    )

    assert plan.is_moved


@pytest.mark.parametrize("stored", [[], held(1, phase=Phase.FAILED), held(1, node=CONTAINED[1])])
def test_an_empty_node_may_become_another_machine(stored: list[Instance]) -> None:
    (plan,) = node_plans((other(endpoint="https://10.0.0.9:11480"), CONTAINED[1]), stored)

    assert not plan.is_refused


def test_another_address_is_no_other_machine() -> None:
    """Instances keep the one that they were started with."""
    (plan,) = node_plans((other(address="10.0.0.9"), CONTAINED[1]), held(2))

    assert (0, False) == (plan.n_held, plan.is_refused)


def test_a_machine_cannot_get_another_name_while_it_holds_instances() -> None:
    """Its containers would be nobody's there, and be ended all at once; cordoned or not."""
    before = (other(is_cordoned=True), CONTAINED[1])

    removed, added = node_plans((CONTAINED[1], other(name="n9")), held(2), before=before)

    assert ("n1", 2, False) == (removed.name, removed.n_held, removed.is_refused)
    assert ("n9", "n1", True) == (added.name, added.renamed_from, added.is_refused)


def test_an_empty_machine_may_get_another_name() -> None:
    plans = node_plans((CONTAINED[1], other(name="n9")), held(2, node=CONTAINED[1]))

    assert ["", ""] == [plan.renamed_from for plan in plans]


def test_a_node_cannot_become_the_machine_of_one_that_is_left_out_and_holds_instances() -> None:
    taking = other(CONTAINED[1], endpoint=CONTAINED[0].endpoint)

    _, changed_one = node_plans((taking,), held(2))

    assert ("n2", "n1") == (changed_one.name, changed_one.renamed_from)


@pytest.mark.parametrize(
    "fields", [{"runtime": RuntimeKind.SIMULATED, "endpoint": ""}, {"endpoint": "https://x"}]
)
def test_what_is_no_ones_containerd_may_be_added(fields: dict[str, Any]) -> None:
    _, added = node_plans((CONTAINED[1], other(name="n9", **fields)), held(2))

    assert ("n9", "") == (added.name, added.renamed_from)


@pytest.mark.parametrize(("address", "renamed_from"), [("10.0.0.1", "n1"), ("10.0.0.9", "")])
def test_a_machine_that_was_dropped_before_is_known_by_its_address(
    address: str, renamed_from: str
) -> None:
    (plan,) = node_plans(
        (CONTAINED[1], other(name="n9", address=address)), held(2), before=CONTAINED[1:]
    )

    assert (Verb.ADDED, renamed_from) == (plan.verb, plan.renamed_from)


@pytest.mark.parametrize(
    ("fields", "is_moved"),
    [({}, False), ({"endpoint": "https://x"}, False), ({"address": "10.0.0.9"}, True)],
)
def test_a_node_that_is_listed_again_while_it_holds_instances_has_to_be_where_they_listen(
    fields: dict[str, Any], is_moved: bool
) -> None:
    """So a machine that is reached otherwise now is dropped and listed anew, and keeps them."""
    (plan,) = node_plans((CONTAINED[1], other(**fields)), held(2), before=CONTAINED[1:])

    assert (Verb.ADDED, is_moved, "") == (plan.verb, plan.is_moved, plan.renamed_from)


def test_a_node_that_is_listed_again_elsewhere_is_told_where_its_instances_listen() -> None:
    """It may be what it was when it was dropped: it had got that address while it held some."""
    old, new = fleet(POOL, nodes=CONTAINED[1:]), fleet(POOL, nodes=(other(address="10.0.0.9"),))

    text = plan_text(plan_of(old, new, held(2))).splitlines()[0]

    assert text.startswith(
        "cannot tell whether nodes that are listed again are the machines that hold their "
        "instances: n1 (holds 2 instances at 10.0.0.1); "
    )
    assert "another runtime" not in text


def test_a_node_may_be_listed_again_where_its_instances_listen_and_then_at_another_address() -> (
    None
):
    again, readdressed = (*CONTAINED,), (other(address="10.0.0.9"), CONTAINED[1])

    plans = (
        *node_plans(again, held(2), before=CONTAINED[1:]),
        *node_plans(readdressed, held(2), before=again),
    )

    assert [False, False] == [plan.is_refused for plan in plans]


@pytest.mark.parametrize("runtime", [RuntimeKind.SIMULATED, RuntimeKind.PROCESS])
def test_of_other_runtimes_the_address_is_no_machine(runtime: RuntimeKind) -> None:
    again = other(runtime=runtime, endpoint="", address="10.0.0.9")

    (plan,) = node_plans((CONTAINED[1], again), held(2), before=CONTAINED[1:])

    assert (Verb.ADDED, False) == (plan.verb, plan.is_refused)


def test_a_node_that_stays_as_it_is_reached_takes_no_other_ones_machine() -> None:
    """Two containerds may be at one address; one of them was dropped, and still holds some."""
    beside = other(name="n9", endpoint="https://10.0.0.1:11481")

    (plan,) = node_plans((other(beside, cpus=2.0),), held(2), before=(beside,))

    assert (Verb.CHANGED, False) == (plan.verb, plan.is_refused)


def test_where_instances_of_an_older_release_listen_is_not_known_and_refuses_nothing() -> None:
    (plan,) = node_plans(CONTAINED, instances(2), before=CONTAINED[1:])

    assert not plan.is_refused


def test_against_a_specification_that_cannot_be_read_no_node_is_another_machine() -> None:
    plans = plan_of(None, fleet(POOL, nodes=(other(address="10.0.0.9"),)), held(2)).nodes

    assert [False] == [plan.is_refused for plan in plans]


def test_why_nodes_cannot_be_other_machines_comes_first() -> None:
    after = (other(endpoint="https://x"), other(CONTAINED[1], name="n9"))
    stored = [*held(1), *held(2, node=CONTAINED[1])]

    text = plan_text(
        plan_of(fleet(POOL, nodes=CONTAINED), fleet(POOL, nodes=after), stored)
    ).splitlines()

    assert text[0].startswith("cannot drop nodes that hold instances and are not cordoned: n2 (h")
    assert text[1].startswith(
        "cannot have another runtime or endpoint for nodes that hold instances: n1 (holds 1 "
        "instance); "
    )
    assert "'ollama-fleet instances list --node=n1'" in text[1]
    assert text[2].startswith(
        "cannot list a machine by another name while it holds instances: n2 as n9; "
    )
    assert "'ollama-fleet instances list --node=n2'" in text[2]


# Nodes with less room


@pytest.mark.parametrize(
    ("fields", "is_tightened"),
    [
        ({"cpus": 3.0}, True),
        ({"memory_bytes": 99}, True),
        ({"max_instances": 4}, True),
        ({"first_port": 21_000}, True),
        ({"last_port": 21_000}, True),
        ({"cpus": 5.0, "memory_bytes": 101, "max_instances": 6}, False),
        ({"max_instances": 0, "first_port": 19_000, "last_port": 30_000}, False),
        ({"labels": {"a": "1"}}, False),
    ],
)
def test_that_a_node_has_less_room_for_what_it_holds_is_told(
    fields: dict[str, Any], is_tightened: bool
) -> None:
    before = other(cpus=4.0, memory_bytes=100, max_instances=5)
    after = before.replace(**fields)

    (plan,) = node_plans((after,), held(2), before=(before,))
    (empty,) = node_plans((after,), [], before=(before,))

    assert (is_tightened, False) == (plan.is_tightened, empty.is_tightened)


def test_a_limit_where_there_was_none_is_less_room_and_told_in_words() -> None:
    before, after = (other(max_instances=n) for n in (0, 9))

    text = plan_text(
        plan_of(fleet(POOL, nodes=(before,)), fleet(POOL, nodes=(after,)), held(4))
    ).splitlines()

    assert [
        "  max_instances: 0 → 9",
        "  only for what is placed there anew: what it holds stays, be it more than that",
    ] == text[-2:]


def test_a_fleet_cannot_be_renamed_and_the_plan_says_so() -> None:
    plan = plan_of(FLEET, fleet(POOL, name="other"), instances(4))

    assert "lab" == plan.renamed_from
    assert not plan.is_empty
    assert "fleet lab cannot be renamed to other" in plan_text(plan)


def test_a_plan_goes_through_json() -> None:
    plan = plan_of(None, FLEET, [])

    assert plan == msgspec.json.decode(msgspec.json.encode(plan), type=Plan)


def test_a_plan_in_words() -> None:
    workload = WORKLOAD.replace(model="n" * 99)
    pools = (changed(workload=workload, count=1200), Pool(name="x", count=1, workload=WORKLOAD))
    nodes = (
        *NODES[:1],
        *(
            Node(name=f"r{n}", runtime=RuntimeKind.SIMULATED, cpus=1.0, memory_bytes=2**36)
            for n in range(10)
        ),
    )

    text = plan_text(plan_of(FLEET, fleet(*pools, nodes=nodes), instances(4)))

    assert (
        f"""\
POOL            INSTANCES  CREATE  REMOVE  REPLACE  MOVE
llama  changed  4 → 1,200   1,196       -        4     -
x      added    0 → 1           1       -        -     -
pool llama:
  count: 4 → 1200
  model: m → {"n" * 60}…
nodes added: r0, r1, r2, r3, r4, r5, r6, r7 and 2 more
nodes removed: n2"""
        == text
    )


def test_of_command_lines_it_is_told_only_that_they_differ() -> None:
    """Anybody may ask for a plan, and a word of it may be a key."""
    command = ("llama-server", "--api-key", "s3cret")
    before = fleet(changed(workload=WORKLOAD.replace(command=command)))

    plan = plan_of(before, FLEET, ())

    assert [("command", "…", "…")] == [
        (change.name, change.before, change.after) for change in plan.pools[0].changes
    ]
    assert b"s3cret" not in msgspec.json.encode(plan)


def test_of_warm_up_requests_it_is_told_only_that_they_differ() -> None:
    """Anybody may ask for a plan, and a body may hold a secret."""
    warm_up = (WarmUp(path="/x", body='{"key": "s3cret"}'),)
    before = fleet(changed(workload=WORKLOAD.replace(warm_up=warm_up)))

    plan = plan_of(before, FLEET, ())

    assert [("warm_up", "…", "…")] == [
        (change.name, change.before, change.after) for change in plan.pools[0].changes
    ]
    assert b"s3cret" not in msgspec.json.encode(plan)
