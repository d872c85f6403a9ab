"""Fleets that cannot be are refused, with what is in the way."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import reduce
from typing import Any

import msgspec
import pytest

from provisioning.errors import SpecError
from provisioning.model import Fleet, Limits, Node, Placement, Pool, RuntimeKind, Workload
from provisioning.spec import checked_fleet, checks, encode_fleet
from tests.provisioning.spec.documents import faults, fleet_of, node, pool


@pytest.mark.parametrize("name", ["a", "a.b_c-d", "A1", "x" * 76])
def test_names_that_containerd_takes_are_taken(name: str) -> None:
    assert "" == faults(nodes=[node(name=name)])
    assert "" == faults(name=name[:60])


@pytest.mark.parametrize("name", ["", "-a", "a-", "a..b", "a b", "é", "a/b", "x" * 77])
def test_names_that_containerd_refuses_are_refused(name: str) -> None:
    found = faults(name=name, nodes=[node(name=name)], pools=[pool(name=name)])

    assert ["name", "nodes[0].name", "pools[0].name"] == [
        line.split(": ")[1] for line in found.splitlines()
    ]


def test_a_pools_name_leaves_room_for_the_longest_name_of_a_container() -> None:
    """`pool-1000000.1234567890` has to fit into containerd's 76 characters."""
    assert "" == faults(pools=[pool(name="p" * 57)])
    assert "must be at most 57 characters long, got 58" in faults(pools=[pool(name="p" * 58)])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"address": "10.0.0.1:80"}, "address: must be a host name or an IP address, without"),
        ({"address": "a b"}, "address: must be a host name or an IP address, got 'a b'"),
        ({"endpoint": "unix:///x"}, "endpoint: must be the control API of `ollama-fleet simulate`"),
        (
            {"runtime": "process", "endpoint": "unix:///x"},
            "endpoint: means nothing to runtime process; leave it out",
        ),
        ({"runtime": "containerd"}, "endpoint: must say where containerd listens"),
        ({"first_port": 30_000}, "first_port: ports must ascend within 1 to 65535"),
        ({"memory": "0B"}, "memory: must be more than 0, got 0"),
        ({"labels": {"a-b": "x"}}, "labels.a-b: is no label name"),
        ({"labels": {"__a": "x"}}, "labels.__a: is no label name"),
        ({"labels": {"pool": "x"}}, "labels.pool: cannot be: the inventory has a key"),
        ({"labels": {"a": "\x07"}}, "labels.a: must not hold control characters"),
    ],
)
def test_a_node_that_cannot_be_is_refused(changes: dict[str, Any], fault: str) -> None:
    assert fault in faults(nodes=[node(**changes)], pools=[])


@pytest.mark.parametrize("address", ["::1", "10.0.0.1", "gpu-7.example.org"])
def test_addresses_and_names_of_hosts_are_taken(address: str) -> None:
    assert "" == faults(nodes=[node(address=address)])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model": ""}, "model: must not be empty"),
        ({"model": "m" * 257}, "model: must be at most 256 characters long, got 257"),
        ({"memory": "0MiB"}, "memory: must be more than 0"),
        ({"command": [""]}, "command[0]: must name a program"),
        ({"command": ["a", "{prot}"]}, "command[1]: holds the unknown placeholder {prot}"),
        ({"command": ["a", "\0"]}, "command[1]: must not hold a NUL"),
        ({"environment": {"A": "{"}}, "environment.A: holds braces that are no placeholder; known"),
        ({"environment": {"A B": ""}}, "environment.A B: is no name for a variable"),
        ({"mounts": [{"source": "x", "target": "/x"}]}, "mounts[0].source: must be an absolute"),
        ({"mounts": [{"source": "/x", "target": "/../x"}]}, "mounts[0].target: must be an absol"),
        ({"mounts": [{"source": "/x", "target": "/y"}] * 2}, "mounts: holds '/y' twice"),
        ({"health": {"path": "health"}}, "health.path: must begin with /"),
        ({"health": {"timeout": 0}}, "health.timeout: must be more than 0"),
        ({"health": {"failures": 0}}, "health.failures: must be 1 or more"),
        ({"warm_up": [{"path": "x"}]}, "warm_up[0].path: must begin with /"),
        ({"rotation": {"at_once": 0}}, "rotation.at_once: must be 1 or more"),
        ({"rotation": {"warm_up": "99999d"}}, "rotation.warm_up: must be"),
        ({"rotation": {"every": "1m", "at_once": 1}}, "every: 60 s is too short: to replace 4 i"),
        ({"developers": ["a"] * 5}, "developers: 5 want one of 4 instances"),
        ({"developers": ["a", "b"], "count": 1}, "developers: 2 want one of 1 instance;"),
        ({"developers": ["a", "a"]}, "developers: holds 'a' twice"),
        ({"developers": [""]}, "developers[0]: must not be empty"),
        ({"placement": {"selector": {"a": 1}}}, "selector: no node has the labels a=1"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(changes: dict[str, Any], fault: str) -> None:
    assert fault in faults(pools=[pool(**changes)])


def test_a_fleet_has_a_size_that_can_be() -> None:
    pools = [pool(name=name, count=600_000) for name in ("a", "b")]

    assert "pools: must not have more than 1,000,000 instances in all" in faults(pools=pools)


def test_a_pool_that_is_put_away_keeps_its_developers_listed() -> None:
    assert "" == faults(pools=[pool(count=0, developers=["ann", "bob"])])


def test_as_many_developers_as_instances_are_taken() -> None:
    assert "" == faults(pools=[pool(developers=list("abcd"))])


def test_a_rotation_that_just_keeps_up_is_taken() -> None:
    """Four instances, one after the other: drain, stop, start, warm-up, and 5 s to notice."""
    assert "" == faults(pools=[pool(rotation={"every": "660s", "at_once": 1})])
    assert "" == faults(pools=[pool(rotation={"every": 0})])
    two_at_once = pool(rotation={"every": "330s", "at_once": 4})
    assert "" == faults(pools=[two_at_once], limits={"unavailable": "50%"})


@pytest.mark.parametrize(
    ("rotation", "limits", "whole", "bounds"),
    [
        ({"at_once": 1}, {}, "1 at once, 165 s each", "at_once and limits.unavailable"),
        ({"at_once": 4}, {}, "1 at once, 165 s each", "limits.unavailable"),
        ({"at_once": 4}, {"unavailable": "50%"}, "2 at once, 165 s each", "limits.unavailable"),
        ({"at_once": 2}, {"unavailable": "100%"}, "2 at once, 165 s each", "at_once"),
        (
            {"at_once": 4, "drain": 0},
            {"unavailable": "100%", "operations": 1, "start_timeout": "3m"},
            "1 at once, 255 s each",
            "limits.operations",
        ),
    ],
)
def test_a_rotation_that_cannot_keep_its_period_is_refused_with_the_arithmetic(
    rotation: dict[str, Any], limits: dict[str, Any], whole: str, bounds: str
) -> None:
    found = faults(pools=[pool(rotation={"every": "100s", **rotation})], limits=limits)

    assert "pools[0].rotation.every: 100 s is too short: to replace 4 instances, " in found
    assert whole in found
    assert found.endswith(f"rotate less often, drain for a shorter time, or raise {bounds}")


@pytest.mark.parametrize(
    ("warm_up", "expected", "every", "figures"),
    [
        ("none", "2m", "419s", ("105 s", "", "420 s")),
        ("load", "1m", "659s", ("165 s", "60 s warm_up, ", "660 s")),
        ([{"path": "/load"}], "2m", "899s", ("225 s", "120 s warm_up, ", "900 s")),
    ],
)
def test_a_refused_rotation_shows_what_each_turn_consists_of(
    warm_up: object, expected: str, every: str, figures: tuple[str, str, str]
) -> None:
    rotation = {"every": every, "at_once": 1, "warm_up": expected}
    turn, loading, whole = figures

    assert (
        f"to replace 4 instances, 1 at once, {turn} each (60 s drain, 10 s limits.stop_grace, "
        f"30 s limits.start_timeout, {loading}5 s to notice), takes {whole}; "
    ) in faults(pools=[pool(warm_up=warm_up, rotation=rotation)])


@pytest.mark.parametrize("ratio", [1e308, -1e308])
def test_a_share_that_cannot_be_says_nothing_of_a_rotation(ratio: float) -> None:
    made = fleet_of(pools=[pool(rotation={"every": "1h", "at_once": 4})])
    wrong = msgspec.structs.replace(made, limits=Limits(unavailable_ratio=ratio))

    assert ["limits.unavailable: must be from 0% to 100%"] == [
        f"{one}" for one in checks.problems_of(wrong)
    ]


def test_of_a_rotation_within_limits_that_cannot_be_only_these_are_told() -> None:
    found = faults(pools=[pool(rotation={"every": "1s"})], limits={"unavailable": "101%"})

    assert ["limits.unavailable"] == [line.split(": ")[1] for line in found.splitlines()]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"operations": 0}, "limits.operations: must be 1 or more, got 0"),
        ({"tries": 0}, "limits.tries: must be 1 or more"),
        ({"start_timeout": 0}, "limits.start_timeout: must be more than 0"),
        ({"warm_up_timeout": 0}, "limits.warm_up_timeout: must be more than 0"),
        ({"backoff_base": "2s", "backoff_cap": "1s"}, "backoff_cap: must not be shorter than"),
        ({"unavailable": "101%"}, "limits.unavailable: must be from 0% to 100%"),
    ],
)
def test_limits_that_stop_everything_are_refused(changes: dict[str, Any], fault: str) -> None:
    assert fault in faults(limits=changes)


Place = tuple[str | int, ...]


def numbers_of(document: Any, place: Place = ()) -> Iterator[Place]:
    """Yield where numbers are in a JSON document."""
    if isinstance(document, int | float) and not isinstance(document, bool):
        yield place
    elif isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in items:
            yield from numbers_of(value, (*place, key))


@pytest.mark.parametrize(
    "number", ["1e308", f"{2**64}", f"1{400 * '0'}", f"-1{400 * '0'}", f"1{6000 * '0'}"]
)
def test_no_number_is_too_large_to_be_refused(number: str) -> None:
    """JSON has no bound: 10^400 is no float, and Python reads 10^6000 from no text."""
    fleet = fleet_of(nodes=[node()], pools=[pool()])
    encoded = encode_fleet(fleet)
    taken: list[Place] = []

    for place in numbers_of(json.loads(encoded)):
        document = json.loads(encoded)
        inner = reduce(lambda at, key: at[key], place[:-1], document)
        inner[place[-1]] = "@"
        with contextlib.suppress(SpecError):
            checked_fleet(json.dumps(document).replace('"@"', number).encode())
            taken.append(place)

    assert [] == taken


def test_names_that_are_there_twice_are_refused() -> None:
    found = faults(nodes=[node(), node()], pools=[pool(), pool()])

    assert "nodes[1].name: 'n1' is also the name of another one" in found
    assert "pools[1].name: 'llama' is also the name of another one" in found


# Two nodes on one machine


def _processes(**changes: Any) -> dict[str, Any]:
    return node(runtime="process", **changes)


def test_nodes_with_one_address_need_ports_of_their_own() -> None:
    first = _processes(first_port=20_000, last_port=20_999)

    touching = _processes(name="n2", first_port=20_999, last_port=21_999)
    apart = _processes(name="n2", first_port=21_000, last_port=21_999)
    elsewhere = _processes(name="n2", address="127.0.0.2")

    assert "nodes[1].first_port: node n2 has address 127.0.0.1 and ports that node n1 has" in (
        faults(nodes=[first, touching])
    )
    assert "" == faults(nodes=[first, apart])
    assert "" == faults(nodes=[first, elsewhere])


def test_ports_inside_a_wider_range_are_seen_beyond_a_narrow_one() -> None:
    """The third node clashes with the first; the second, narrower one lies between them."""
    nodes = [
        _processes(name="wide", first_port=1000, last_port=9000),
        _processes(name="narrow", first_port=2000, last_port=2001),
        _processes(name="late", first_port=8000, last_port=8001),
    ]

    assert "node late has address 127.0.0.1 and ports that node wide has too" in faults(nodes=nodes)


def test_simulated_nodes_may_share_everything() -> None:
    assert "" == faults(nodes=[node(name="sim", count=3)])


def test_simulated_nodes_of_one_process_share_its_control_api_but_no_ports() -> None:
    hosted = node(name="sim-{1..2}", endpoint="http://127.0.0.1:11451", address="127.1.0.{1..2}")

    assert "" == faults(nodes=[hosted])
    assert "ports that node sim-1 has too" in faults(nodes=[{**hosted, "address": "127.1.0.1"}])


def test_one_containerd_cannot_be_two_nodes() -> None:
    twins = node(
        name="n{1..2}", runtime="containerd", endpoint="unix:///c.sock", address="127.0.0.{1..2}"
    )

    assert "is also the endpoint of node n1: one containerd" in faults(nodes=[twins])


def test_an_archive_is_an_absolute_path_to_an_image_with_a_name() -> None:
    assert "" == faults(pools=[pool(image="llm:1", archive="/srv/llm.tar")])
    for path in ("llm.tar", "/srv/\0.tar"):
        assert "archive: must be an absolute path" in (
            faults(pools=[pool(image="llm:1", archive=path)])
        )
    assert "archive: needs an `image`" in faults(pools=[pool(archive="/srv/llm.tar")])


# What nodes of a kind ask of pools


def test_containers_need_an_image_and_processes_a_command() -> None:
    contained = node(runtime="containerd", endpoint="unix:///c.sock")

    assert "image: required: its nodes run containerd" in faults(nodes=[contained])
    assert "command: required: its nodes run processes; say how" in (
        faults(nodes=[_processes()], pools=[pool(engine="llamacpp")])
    )
    assert "" == faults(nodes=[contained], pools=[pool(image="x")])
    assert "" == faults(nodes=[node()], pools=[pool(engine="llamacpp")])


# Room


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
    assert fault in faults(nodes=[node(**node_changes)], pools=[pool(**pool_changes)])


def test_a_pool_whose_nodes_are_all_cordoned_is_told_so() -> None:
    zone = node(labels={"zone": "a"}, cordoned=True)
    other = node(name="n2", labels={"zone": "b"})
    chosen = pool(placement={"selector": {"zone": "a"}})

    found = faults(nodes=[zone, other], pools=[chosen])

    assert "selector: all nodes with the labels zone=a are cordoned" in found
    assert "no node has" not in found


@pytest.mark.parametrize("nodes", [[node(labels={"zone": "a"}, cordoned=True)], [node()]])
def test_a_pool_that_is_put_away_needs_no_nodes(nodes: list[dict[str, Any]]) -> None:
    """So that a zone can be emptied at once: its pool's count 0, its nodes cordoned or gone."""
    away = pool(count=0, placement={"selector": {"zone": "a"}})

    assert "" == faults(nodes=nodes, pools=[away])


def test_what_just_fits_is_taken() -> None:
    exact = node(memory="32GiB", cpus=8, last_port=20_003, max_instances=4)

    assert "" == faults(nodes=[exact])


def test_shares_of_cpus_that_add_up_to_the_node_fit() -> None:
    """In floating-point numbers 0.3 divided by 0.1 is less than 3."""
    assert "" == faults(nodes=[node(cpus=0.3)], pools=[pool(count=3, cpus=0.1)])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"memory": "40GiB", "cpus": 99},
            "memory: all pools want 64GiB, their nodes have 40",
        ),
        ({"cpus": 10}, "cpus: all pools want 16, their nodes have 10"),
        (
            {"cpus": 99, "max_instances": 6},
            "places (ports, max_instances): all pools want 8, their nodes",
        ),
    ],
)
def test_pools_that_fit_only_one_by_one_are_told(changes: dict[str, Any], fault: str) -> None:
    found = faults(nodes=[node(**changes)], pools=[pool(), pool(name="other")])

    assert f"pools: do not fit together, by {fault}" in found


def test_only_nodes_that_some_pool_selects_count_as_room() -> None:
    nodes = [node(labels={"a": "1"}), node(name="other", labels={"a": "2"}, memory="999GiB")]
    pools = [
        pool(name=name, memory="10GiB", placement={"selector": {"a": 1}}) for name in ("x", "y")
    ]

    assert "all pools want 80GiB, their nodes have 64GiB" in faults(nodes=nodes, pools=pools)


def test_a_fleet_may_be_empty() -> None:
    assert (0, 0) == (len(fleet_of(nodes=[], pools=[]).nodes), len(fleet_of(pools=[]).pools))


def test_so_many_kinds_of_nodes_and_pools_are_refused_before_they_are_compared() -> None:
    """Anybody may ask for a plan: 16 million comparisons would take half a minute."""
    count = 4_000
    nodes = tuple(
        Node(f"n{n}", RuntimeKind.SIMULATED, cpus=4.0, memory_bytes=2**30, labels=(("a", f"{n}"),))
        for n in range(count)
    )
    workload = Workload("m", "fleet", cpus=1.0, memory_bytes=1)
    pools = tuple(
        Pool(f"p{n}", 1, workload, Placement(selector=(("a", f"{n}"),))) for n in range(count)
    )

    (problem,) = checks.problems_of(Fleet("lab", nodes, pools))
    few = list(checks.problems_of(Fleet("lab", nodes[:1_000], pools[:1_000])))

    assert str(problem).startswith("pools: 4,000 pools on 4,000 kinds of nodes are too many")
    assert [] == few


def test_nodes_that_are_alike_are_compared_once() -> None:
    nodes = [node(name="n{1..5000}", address="10.0.{0..19}.{1..250}")]
    pools = [pool(name=f"p{n}", count=1) for n in range(1_000)]

    assert "are too many" not in faults(nodes=nodes, pools=pools)


def test_a_node_has_so_many_labels_at_most() -> None:
    labels = {f"a{n}": "x" for n in range(65)}

    assert "labels: must be at most 64, got 65" in faults(nodes=[node(labels=labels)])
    del labels["a0"]
    assert "" == faults(nodes=[node(labels=labels)])
