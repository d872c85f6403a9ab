"""What a specification leaves out is filled in: engines' defaults, ranges of nodes, developers."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.spec.schema import Probe, WarmUp
from tests.provisioning.spec.documents import fleet_of, node, pool, problems


def test_an_ollama_pool_is_complete_with_a_name_a_model_and_a_count() -> None:
    workload = fleet_of().pools[0].workload

    assert ("ollama", "serve") == workload.command
    assert {
        "OLLAMA_HOST": "{address}",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_NUM_PARALLEL": "1",
    } == workload.environment
    assert Probe(path="/api/version") == workload.probe
    load = '{"model": "llama3.1:8b", "stream": false, "keep_alive": -1}'
    assert (
        WarmUp(path="/api/pull", body='{"model": "llama3.1:8b", "stream": false}', timeout_s=0),
        WarmUp(path="/api/generate", body=load, timeout_s=0),
    ) == workload.warm_up_requests


def test_what_a_person_sets_goes_before_an_engines_default() -> None:
    environment = {"OLLAMA_NUM_PARALLEL": 4, "OLLAMA_MAX_LOADED_MODELS": None, "A": ""}
    changed = pool(environment=environment, command=["/opt/ollama", "serve"], health={"path": "/x"})

    workload = fleet_of(pools=[changed]).pools[0].workload

    assert {"A": "", "OLLAMA_HOST": "{address}", "OLLAMA_NUM_PARALLEL": "4"} == workload.environment
    assert ("/opt/ollama", "serve") == workload.command
    assert "/x" == workload.probe.path


@pytest.mark.parametrize(
    ("warm_up", "paths"),
    [("load", ["/api/generate"]), ("none", []), ([], []), ([{"path": "/slots"}], ["/slots"])],
)
def test_a_warm_up_has_a_name_or_a_list(warm_up: object, paths: list[str]) -> None:
    workload = fleet_of(pools=[pool(warm_up=warm_up)]).pools[0].workload

    assert paths == [request.path for request in workload.warm_up_requests]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"engine": "auto"}, "health: needs a path: engine auto has no usual one"),
        ({"environment": {"API_KEY": None}}, "environment.API_KEY: has no value, which only drops"),
        (
            {"environment": {"OLLAMA_HOTS": None}},
            'sets by default; write "" for an empty text; did you mean OLLAMA_HOST?',
        ),
        (
            {"engine": "fleet", "environment": {"OLLAMA_HOST": None}},
            "has no value, which only drops what engine fleet sets by default",
        ),
    ],
)
def test_a_pool_that_cannot_be_completed_is_refused(changes: dict[str, object], fault: str) -> None:
    assert fault in problems(pools=[pool(**changes)])


def test_variables_are_not_compared_with_those_of_an_unknown_engine() -> None:
    changed = pool(engine="olama", environment={"OLLAMA_HOST": None})

    assert "has no value" not in problems(pools=[changed])


def test_a_range_or_a_count_makes_several_nodes() -> None:
    ranged = node(name="r{08..10}", address="10.0.1.{8..10}", labels={"rack": 1})
    counted = node(name="rack", count=10)

    nodes = fleet_of(nodes=[ranged, counted]).nodes

    assert ["r08", "r09", "r10", "rack-01", "rack-10"] == [nodes[n].name for n in (0, 1, 2, 3, 12)]
    assert ("10.0.1.10", {"rack": "1"}) == (nodes[2].address, nodes[2].labels)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"name": "n{1..3}", "count": 2}, "holds a range beside a count"),
        ({"name": "n", "count": 0}, "count must be from 1 to 10,000"),
        ({"name": "n", "count": True}, "count must be from 1 to 10,000"),
        ({"name": "n{3..1}"}, "range {3..1} must ascend"),
        ({"name": "n{1..3}-{1..2}"}, "more than one range"),
        ({"name": "n{1..3}", "address": "10.0.0.{1..2}"}, "stands for 2 texts, the name for 3"),
    ],
)
def test_a_group_of_nodes_that_cannot_be_is_refused(changes: dict[str, object], fault: str) -> None:
    assert fault in problems(nodes=[node(**changes)])


def test_developers_are_a_list_a_count_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("# who\n ann \n\nbob\n")
    pools = [
        pool(count=2, developers={"count": 2, "prefix": "d"}),
        pool(name="other", count=2, developers={"file": "people.txt"}),
        pool(name="third", count=2, developers=["ann"]),
    ]

    fleet = fleet_of(folder=tmp_path, pools=pools, nodes=[node(cpus=16)])

    assert [("d0001", "d0002"), ("ann", "bob"), ("ann",)] == [one.developers for one in fleet.pools]


@pytest.mark.parametrize(
    ("developers", "fault"),
    [
        ({"file": "people.txt"}, "cannot read nowhere/people.txt: it does not exist"),
        ({"file": "a", "count": 1}, "must be a list of names, or have either a file or a count"),
        ({"fiel": "a"}, "has the unknown key fiel; did you mean file?"),
        ({"count": 10**7}, "count must be from 0 to 1,000,000"),
    ],
)
def test_developers_that_cannot_be_read_are_refused(developers: object, fault: str) -> None:
    assert f"pools[0].developers: {fault}" in problems(pools=[pool(developers=developers)])
