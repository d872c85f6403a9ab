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
from provisioning.plan import (
    FieldChange,
    NodePlan,
    NodeRefusal,
    Plan,
    PoolPlan,
    Verb,
    plan_of,
    plan_text,
)
from provisioning.workload import instance_id

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


def test_a_fleet_that_matches_its_specification_has_an_empty_plan() -> None:
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


@pytest.mark.parametrize(("count", "n_without"), [(0, 2), (2, 0)])
def test_a_pool_that_is_put_away_tells_how_many_developers_have_no_instance(
    count: int, n_without: int
) -> None:
    kept = changed(count=count, developers=("ann", "bob"))

    assert n_without == pool_plan(fleet(kept), instances(4)).n_without
    assert 0 == pool_plan(fleet(), instances(4)).n_without


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


def test_instances_that_are_too_many_are_not_also_replaced_or_moved() -> None:
    """Of four instances two go; of the two that stay, one is on a node that goes."""
    workload = WORKLOAD.replace(model="n")
    stored = [*instances(3, node="n2"), *instances(4)[3:]]

    plan = pool_plan(fleet(changed(count=2, workload=workload), nodes=NODES[:1]), stored)

    assert (0, 2, 1, 1) == counts(plan)


def test_a_count_creates_or_removes_and_a_node_that_goes_moves() -> None:
    assert (2, 0, 0, 0) == counts(pool_plan(fleet(changed(count=6)), instances(4)))
    assert (0, 1, 0, 0) == counts(pool_plan(fleet(changed(count=3)), instances(4)))
    for nodes in (NODES[1:], (NODES[0].replace(is_cordoned=True), NODES[1])):
        assert (0, 0, 0, 4) == counts(pool_plan(fleet(POOL, nodes=nodes), instances(4)))


def test_values_that_may_be_secrets_are_hidden() -> None:
    """Variables, command lines and bodies may hold keys, and plans are shown and logged."""
    warm_up = (WarmUp(path="/x", body='{"key": "s3cret"}'),)
    environment = {"A": "s3cret", "OLLAMA_HOST": "s3cret", "X": ""}
    changes = {"command": ("serve", "s3cret"), "warm_up": warm_up, "environment": environment}
    before = fleet(changed(workload=WORKLOAD.replace(**changes)))

    plan = plan_of(before, FLEET, ())

    assert [
        ("command", "…", "…"),
        ("environment.A", "…", "…"),
        ("environment.OLLAMA_HOST", "…", ""),
        ("environment.X", "…", ""),
        ("warm_up", "…", "…"),
    ] == [(change.name, change.before, change.after) for change in plan.pools[0].changes]
    assert b"s3cret" not in msgspec.json.encode(plan)
    assert plan == msgspec.json.decode(msgspec.json.encode(plan), type=Plan)


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


# Nodes that hold instances


CONTAINED = tuple(
    Node(
        name=name,
        runtime=RuntimeKind.CONTAINERD,
        endpoint=f"https://{name}:11480",
        cpus=1.0,
        memory_bytes=2**36,
    )
    for name in ("n1", "n2")
)
FIRST, SECOND = CONTAINED
ELSEWHERE = "https://n9:11480"


def node_plans(
    before: Sequence[Node], after: Sequence[Node], stored: Sequence[Instance]
) -> tuple[NodePlan, ...]:
    return plan_of(fleet(POOL, nodes=before), fleet(POOL, nodes=after), stored).nodes


@pytest.mark.parametrize(
    ("before", "after", "refusals"),
    [
        ((FIRST, SECOND), (SECOND,), [NodeRefusal.DROPPED]),
        ((FIRST.replace(is_cordoned=True),), (), [None]),
        ((FIRST,), (FIRST.replace(is_cordoned=True),), [None]),
        ((FIRST,), (FIRST.replace(address="10.0.0.9", cpus=9.0),), [None]),
        ((FIRST,), (FIRST.replace(endpoint=ELSEWHERE),), [NodeRefusal.MOVED]),
        ((FIRST,), (FIRST.replace(runtime="process", endpoint=""),), [NodeRefusal.MOVED]),
        ((SECOND,), (FIRST, SECOND), [NodeRefusal.LISTED_AGAIN]),
        (
            (FIRST.replace(is_cordoned=True),),
            (FIRST.replace(name="n9"),),
            [None, NodeRefusal.RENAMED],
        ),
        (
            (FIRST,),
            (SECOND.replace(endpoint=FIRST.endpoint),),
            [NodeRefusal.DROPPED, NodeRefusal.RENAMED],
        ),
        ((FIRST,), (SECOND,), [NodeRefusal.DROPPED, None]),
    ],
)
def test_a_node_that_holds_instances_has_to_be_drained_before_it_is_another_one(
    before: tuple[Node, ...], after: tuple[Node, ...], refusals: list[NodeRefusal | None]
) -> None:
    """Its containers would run on unseen, or be removed as orphans."""
    failed = [msgspec.structs.replace(one, phase=Phase.FAILED) for one in instances(2)]

    assert refusals == [plan.refusal for plan in node_plans(before, after, instances(2))]
    assert {None} == {plan.refusal for plan in node_plans(before, after, failed)}
    unread = plan_of(None, fleet(POOL, nodes=after), instances(2))
    assert not unread.nodes_in_use


def test_why_a_node_has_to_be_drained_comes_first_in_words() -> None:
    before = (FIRST, SECOND, FIRST.replace(name="n3", endpoint=ELSEWHERE, is_cordoned=True))
    after = (SECOND.replace(endpoint="https://x"), FIRST.replace(name="n9", endpoint=ELSEWHERE))
    stored = [one for n in (1, 2, 3) for one in instances(n, node=f"n{n}")]
    shows = "shows none but failed ones"

    plan = plan_of(fleet(POOL, nodes=before), fleet(POOL, nodes=after), stored)

    drain = "drain first: list as before with cordoned: true, apply, and wait until"
    assert [
        "cannot drop nodes that hold instances and are not cordoned: n1 (holds 1 instance); "
        f"{drain} 'ollama-fleet instances list --node=n1' {shows}",
        "cannot change runtime or endpoint of nodes that hold instances: n2 (holds 2 instances); "
        f"{drain} 'ollama-fleet instances list --node=n2' {shows}",
        "cannot list machines by another name while they hold instances: n3 as n9 (holds 3 "
        f"instances); {drain} 'ollama-fleet instances list --node=n3' {shows}",
    ] == plan_text(plan).splitlines()[:3]
    assert "nodes removed: n1 (holds 1 instance), n3 (holds 3 instances)" in plan_text(plan)


def test_a_fleet_cannot_be_renamed_and_the_plan_says_so() -> None:
    plan = plan_of(FLEET, fleet(POOL, name="other"), instances(4))

    assert "lab" == plan.renamed_from
    assert not plan.is_empty
    assert "fleet lab cannot be renamed to other" in plan_text(plan)


def test_of_long_values_a_plan_shows_what_tells_them_apart() -> None:
    names = [f"dev-{n:04}" for n in range(500)]
    listed = changed(developers=(*names[:300], "ann"), count=400)
    more = changed(developers=tuple(names[:310]), count=400)
    turned = changed(developers=("ann", *names[:300]), count=400)
    one, other = (f"/srv/{'x' * 80}/{end}.tar" for end in ("a", "b"))

    def shown(before: Pool, after: Pool) -> str:
        text = plan_text(plan_of(fleet(before), fleet(after), instances(4)))
        return text.splitlines()[-1].strip()

    assert "developers: +10, −1" == shown(listed, more)
    assert "developers: in another order" == shown(listed, turned)
    assert "image: …xxxxxxxxx/a.tar → …xxxxxxxxx/b.tar" == shown(
        *(changed(workload=WORKLOAD.replace(image=image)) for image in (one, other))
    )


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
