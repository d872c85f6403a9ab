"""Specifications whose parts contradict each other are refused, with what is in the way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.spec.schema import (
    Fleet,
    Node,
    Placement,
    Pool,
    RuntimeKind,
    Workload,
)
from provisioning.spec.validate import faults_of
from tests.provisioning.spec.documents import node, pool, problems


def test_names_that_are_there_twice_are_refused() -> None:
    found = problems(nodes=[node(), node()], pools=[pool(), pool()])

    assert "nodes[1].name: 'n1' is also the name of another one" in found
    assert "pools[1].name: 'llama' is also the name of another one" in found


def test_a_fleet_has_at_most_a_million_instances() -> None:
    pools = [pool(name=name, count=600_000) for name in ("a", "b")]

    assert "pools: must not have more than 1,000,000 instances in all" in problems(pools=pools)


def test_developers_need_an_instance_each_unless_the_pool_has_none() -> None:
    assert "developers: 2 want one of 1 instance; raise its count or list fewer" in problems(
        pools=[pool(count=1, developers=["a", "b"])]
    )
    assert "" == problems(pools=[pool(count=2, developers=["a", "b"])])
    assert "" == problems(pools=[pool(count=0, developers=["a", "b"])])


def test_the_cap_of_the_backoff_is_not_shorter_than_its_base() -> None:
    assert "limits.backoff_cap: must not be shorter" in problems(limits={"backoff_base": "31s"})


def test_a_rotation_that_just_keeps_up_is_taken() -> None:
    """Four instances, one after the other: drain, stop, start, warm-up, and 5 s to notice."""
    assert "" == problems(pools=[pool(rotation={"every": "660s", "at_once": 1})])
    assert "659 s is too" in problems(pools=[pool(rotation={"every": "659s", "at_once": 1})])
    assert "" == problems(pools=[pool(rotation={"every": 0})])
    two_at_once = pool(rotation={"every": "330s", "at_once": 4})
    assert "" == problems(pools=[two_at_once], limits={"unavailable": "50%"})


@pytest.mark.parametrize(
    ("changes", "limits", "arithmetic", "bounds"),
    [
        ({"rotation": {"at_once": 1}}, {}, "1 at once, 165 s", "at_once and limits.unavailable"),
        ({"rotation": {"at_once": 4}}, {}, "60 s warm_up, 5 s to notice", "limits.unavailable"),
        ({"rotation": {"at_once": 2}}, {"unavailable": "100%"}, "2 at once, 165 s", "at_once"),
        (
            {"rotation": {"at_once": 4, "drain": 0}},
            {"unavailable": "100%", "operations": 1, "start_timeout": "3m"},
            "1 at once, 255 s each",
            "limits.operations",
        ),
        (
            {"warm_up": "none"},
            {},
            "105 s each (60 s drain, 10 s limits.stop_grace, 30 s limits.start_timeout, 5 s to",
            "limits.unavailable",
        ),
    ],
)
def test_a_rotation_that_cannot_keep_its_period_is_refused_with_the_arithmetic(
    changes: dict[str, Any], limits: dict[str, Any], arithmetic: str, bounds: str
) -> None:
    rotation = {"every": "100s", **changes.get("rotation", {})}

    found = problems(pools=[pool(**{**changes, "rotation": rotation})], limits=limits)

    assert "pools[0].rotation.every: 100 s is too short: to replace 4 instances, " in found
    assert arithmetic in found
    assert found.endswith(f"rotate less often, drain for a shorter time, or raise {bounds}")


def _processes(**changes: Any) -> dict[str, Any]:
    return node(runtime="process", **changes)


def test_nodes_with_one_address_need_ports_of_their_own() -> None:
    """The last node clashes with the widest; a narrower one lies between them."""
    wide = _processes(name="wide", first_port=1000, last_port=9000)
    narrow = _processes(name="narrow", first_port=9001, last_port=9002)
    inside = _processes(name="inside", first_port=2000, last_port=2001)
    late = _processes(name="late", first_port=9000, last_port=9000)

    assert "" == problems(nodes=[wide, narrow, _processes(address="127.0.0.2")])
    found = problems(nodes=[wide, inside, late])
    assert "nodes[1].first_port: node inside has address 127.0.0.1 and ports that node wi" in found
    assert "nodes[2].first_port: node late has address 127.0.0.1 and ports that node wide" in found


def test_only_nodes_in_memory_share_ports() -> None:
    hosted = node(name="sim-{1..2}", endpoint="http://127.0.0.1:11451", address="127.1.0.{1..2}")

    assert "" == problems(nodes=[node(name="sim", count=3)])
    assert "" == problems(nodes=[hosted])
    assert "ports that node sim-1 has too" in problems(nodes=[{**hosted, "address": "127.1.0.1"}])


def test_one_containerd_cannot_be_two_nodes() -> None:
    twins = node(
        name="n{1..2}", runtime="containerd", endpoint="unix:///c.sock", address="127.0.0.{1..2}"
    )

    assert "is also the endpoint of node n1: one containerd" in problems(nodes=[twins])


def test_containers_need_an_image_and_processes_a_command() -> None:
    contained = node(runtime="containerd", endpoint="unix:///c.sock")

    assert "image: required: its nodes run containerd" in problems(nodes=[contained])
    assert "command: required: its nodes run processes; say how" in (
        problems(nodes=[_processes()], pools=[pool(engine="llamacpp")])
    )
    assert "" == problems(nodes=[contained], pools=[pool(image="x")])
    assert "" == problems(nodes=[node()], pools=[pool(engine="llamacpp")])


def test_a_selector_has_to_select_nodes_that_take_instances() -> None:
    nodes = [node(labels={"zone": "a"}, cordoned=True), node(name="n2", labels={"zone": "b"})]

    for zone, fault in (
        ("a", "all nodes with the labels zone=a are cordoned"),
        ("c", "no node ha"),
    ):
        chosen = pool(placement={"selector": {"zone": zone}})
        assert f"placement.selector: {fault}" in problems(nodes=nodes, pools=[chosen])
        # So that a zone can be emptied at once: its pool's count 0, its nodes cordoned or gone.
        assert "" == problems(nodes=nodes, pools=[{**chosen, "count": 0}])


@pytest.mark.parametrize(
    ("node_changes", "pool_changes", "fault"),
    [
        ({"memory": "31GiB"}, {}, "room for 3 on 1 node, 1 too few; memory binds: 8GiB each"),
        ({"cpus": 7}, {}, "room for 3 on 1 node, 1 too few; cpus bind: 2 each, the nodes have 7"),
        ({"last_port": 20_002}, {}, "room for 3 on 1 node, 1 too few; ports bind: the nodes h"),
        ({"max_instances": 3}, {}, "room for 3 on 1 node, 1 too few; max_instances binds"),
        ({}, {"placement": {"max_per_node": 3}}, "3 on 1 node, 1 too few; max_per_node binds"),
        ({"cordoned": True}, {}, "4 instances, but no node may take any"),
    ],
)
def test_instances_that_do_not_fit_are_told_with_what_is_in_the_way(
    node_changes: dict[str, Any], pool_changes: dict[str, Any], fault: str
) -> None:
    assert fault in problems(nodes=[node(**node_changes)], pools=[pool(**pool_changes)])


def test_what_just_fits_is_taken() -> None:
    """Also shares of CPUs: in floating-point numbers 0.3 divided by 0.1 is less than 3."""
    assert "" == problems(nodes=[node(memory="32GiB", last_port=20_003, max_instances=4)])
    assert "" == problems(nodes=[node(cpus=0.3)], pools=[pool(count=3, cpus=0.1)])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"memory": "40GiB", "cpus": 99}, "memory: all pools want 64GiB, their nodes have 40"),
        ({"cpus": 10}, "cpus: all pools want 16, their nodes have 10"),
        ({"cpus": 99, "max_instances": 6}, "places (ports, max_instances): all pools want 8, the"),
    ],
)
def test_pools_that_fit_only_one_by_one_are_told(changes: dict[str, Any], fault: str) -> None:
    """Nodes that no pool selects are no room."""
    nodes = [node(labels={"a": "1"}, **changes), node(name="other", memory="999GiB", cpus=99)]
    pools = [pool(name=name, placement={"selector": {"a": 1}}) for name in ("x", "y")]

    assert f"pools: do not fit together, by {fault}" in problems(nodes=nodes, pools=pools)


def test_too_many_kinds_of_nodes_and_pools_are_refused_before_they_are_compared() -> None:
    """Whoever may ask for a plan could ask for 16 million comparisons: half a minute."""
    workload = Workload(model="m", engine="fleet", cpus=1.0, memory_bytes=1)

    def fleet(n_nodes: int, n_pools: int, *, n_kinds: int) -> Fleet:
        nodes = (room_of(n, cpus=4.0, labels={"a": f"{n % n_kinds}"}) for n in range(n_nodes))
        pools = (
            Pool(
                name=f"p{n}",
                count=1,
                workload=workload,
                placement=Placement(selector={"a": f"{n % n_kinds}"}),
            )
            for n in range(n_pools)
        )
        return Fleet(name="lab", nodes=tuple(nodes), pools=tuple(pools))

    (fault,) = faults_of(fleet(4_000, 4_000, n_kinds=4_000))
    assert fault.message.startswith("4,000 pools on 4,000 kinds of nodes are too many")
    assert [] == list(faults_of(fleet(1_000, 1_000, n_kinds=1_000)))
    assert [] == list(faults_of(fleet(5_000, 1_000, n_kinds=10)))


LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2)
POOL = st.builds(
    lambda name, cpus, memory, most, labels: Pool(
        name=name,
        count=0,
        workload=Workload(model="m", engine="fleet", cpus=cpus, memory_bytes=memory),
        placement=Placement(max_per_node=most, selector=labels),
    ),
    st.text("xyz", min_size=1, max_size=3),
    st.sampled_from([0.001, 0.1, 0.3, 1.0, 1.5]),
    st.integers(1, 5),
    st.integers(0, 3),
    LABELS,
)
POOLS = st.lists(POOL, min_size=1, max_size=3, unique_by=lambda pool: pool.name)
PICKS = st.lists(st.integers(0, 2), max_size=12)


def room_of(number: int, **changes: Any) -> Node:
    fields = {"cpus": 1.0, "memory_bytes": 2**30, **changes}
    return Node(name=f"n{number}", runtime=RuntimeKind.SIMULATED, **fields)


@given(POOLS, st.lists(st.tuples(PICKS, LABELS), min_size=1, max_size=4))
def test_what_can_be_placed_is_never_refused(
    pools: list[Pool], picks: list[tuple[list[int], dict[str, str]]]
) -> None:
    """Nodes are made to hold what was drawn for them: so there is a way to place it all."""
    nodes: list[Node] = []
    count: Counter[str] = Counter()
    for number, (indices, labels) in enumerate(picks):
        chosen: list[Pool] = []
        for one in (pools[index % len(pools)] for index in indices):
            most = one.placement.max_per_node or len(indices)
            if chosen.count(one) < most and one.placement.selector.items() <= labels.items():
                chosen.append(one)
        if chosen:
            room = room_of(
                number,
                cpus=sum(one.workload.cpus for one in chosen),
                memory_bytes=sum(one.workload.memory_bytes for one in chosen),
                max_instances=len(chosen),
                last_port=19_999 + len(chosen),
                labels=labels,
            )
            nodes.append(room)
            count.update(one.name for one in chosen)

    wanted = tuple(one.replace(count=count[one.name]) for one in pools)

    assert [] == list(faults_of(Fleet(name="lab", nodes=tuple(nodes), pools=wanted)))
