"""A person's YAML becomes a whole fleet, or a list of all that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.errors import SpecError
from provisioning.model import (
    DAY_S,
    Limits,
    Placement,
    Probe,
    Rotation,
    RuntimeKind,
    Spread,
    WarmUp,
)
from provisioning.spec import load_fleet
from tests.provisioning.spec.documents import (
    document,
    faults,
    faults_of,
    fleet_of,
    node,
    pool,
)

WHOLE = """
name: lab
nodes:
  - name: rack1-n{01..03}
    runtime: containerd
    address: 10.0.1.{11..13}
    endpoint: https://10.0.1.{11..13}:2376
    cpus: 96
    memory: 768GiB
    max_instances: 90
    first_port: 21000
    last_port: 21999
    labels: {rack: 1, gpu: "no"}
    cordoned: false
pools:
  - name: llama
    model: llama3.1:8b
    engine: llamacpp
    count: 12
    image: registry.local/llama:1
    archive: /srv/images/llama.tar
    command: [llama-server, --host, "{host}", --port, "{port}"]
    environment: {LLAMA_ARG_CTX_SIZE: 4096}
    mounts: [{source: /srv/models, target: /models}]
    cpus: 1.5
    memory: 512MiB
    health: {path: /ready, interval: 5s, timeout: 500ms, failures: 2}
    warm_up: [{path: /completion, body: {prompt: x, n_predict: 1}, timeout: 1m}, {path: /slots}]
    placement: {strategy: pack, max_per_node: 6, selector: {rack: 1}}
    rotation: {every: 1d12h, at_once: 2, drain: 30s, warm_up: 90s}
    developers: [ann, bob]
limits:
  {operations: 7, operations_per_node: 2, unavailable: 10%, start_timeout: 45s,
   warm_up_timeout: 10m, tries: 5,
   backoff_base: 2s, backoff_cap: 1m, retry_failed: 5m, node_grace: 3m, stop_grace: 20s}
"""


def test_every_key_gets_to_its_place() -> None:
    assert [] == faults_of(WHOLE)


def test_a_whole_specification_is_read_as_it_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text(WHOLE)

    fleet = load_fleet(path)

    third, (llama,) = fleet.nodes[2], fleet.pools
    assert ("rack1-n03", "10.0.1.13", "https://10.0.1.13:2376") == (
        third.name,
        third.address,
        third.endpoint,
    )
    assert (RuntimeKind.CONTAINERD, 96.0, 768 * 2**30) == (
        third.runtime,
        third.cpus,
        third.memory_bytes,
    )
    assert (90, 21_000, 21_999) == (third.max_instances, third.first_port, third.last_port)
    assert ((("gpu", "no"), ("rack", "1")), False) == (third.labels, third.is_cordoned)
    assert ("llama", 12, ("ann", "bob")) == (llama.name, llama.count, llama.developers)
    assert Placement(Spread.PACK, 6, (("rack", "1"),)) == llama.placement
    assert Rotation(1.5 * DAY_S, 2, 30.0, 90.0) == llama.rotation
    assert Limits(7, 2, 0.1, 45.0, 600.0, 5, 2.0, 60.0, 300.0, 180.0, 20.0) == fleet.limits


def test_a_workload_is_read_as_it_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text(WHOLE)

    pool = load_fleet(path).pools[0]
    workload = pool.workload

    assert "/srv/images/llama.tar" == pool.archive
    assert ("llama3.1:8b", "llamacpp") == (workload.model, workload.engine)
    assert "registry.local/llama:1" == workload.image
    assert ("llama-server", "--host", "{host}", "--port", "{port}") == workload.command
    assert (("LLAMA_ARG_CTX_SIZE", "4096"),) == workload.environment
    assert (("/srv/models", "/models"),) == workload.mounts
    assert (1.5, 512 * 2**20) == (workload.cpus, workload.memory_bytes)
    assert Probe("/ready", 5.0, 0.5, 2) == workload.probe
    assert (
        WarmUp("/completion", '{"prompt": "x", "n_predict": 1}', 60.0),
        WarmUp("/slots", "", 300.0),
    ) == workload.warm_up


def test_an_ollama_pool_is_complete_with_a_name_a_model_and_a_count() -> None:
    workload = fleet_of().pools[0].workload

    assert ("ollama", "serve") == workload.command
    assert (
        ("OLLAMA_HOST", "{address}"),
        ("OLLAMA_MAX_LOADED_MODELS", "1"),
        ("OLLAMA_NUM_PARALLEL", "1"),
    ) == workload.environment
    assert Probe(path="/api/version") == workload.probe
    assert (
        WarmUp("/api/pull", '{"model": "llama3.1:8b", "stream": false}', 0.0),
        WarmUp("/api/generate", '{"model": "llama3.1:8b", "stream": false, "keep_alive": -1}', 0.0),
    ) == workload.warm_up


def test_what_a_person_sets_goes_before_an_engines_default() -> None:
    changed = pool(environment={"OLLAMA_NUM_PARALLEL": 4}, command=["/opt/ollama", "serve"])

    workload = fleet_of(pools=[changed]).pools[0].workload

    assert "4" == dict(workload.environment)["OLLAMA_NUM_PARALLEL"]
    assert ("/opt/ollama", "serve") == workload.command


def test_a_variable_without_a_value_drops_an_engines_default() -> None:
    changed = pool(environment={"OLLAMA_NUM_PARALLEL": None, "A": ""})

    workload = fleet_of(pools=[changed]).pools[0].workload

    assert ["A", "OLLAMA_HOST", "OLLAMA_MAX_LOADED_MODELS"] == [
        name for name, _ in workload.environment
    ]


def test_of_an_engine_that_is_unknown_no_variable_is_told_to_be_unknown_too() -> None:
    changed = pool(engine="olama", environment={"OLLAMA_HOST": None})

    assert "has no value" not in faults(pools=[changed])


@pytest.mark.parametrize(
    ("warm_up", "paths"), [("load", ["/api/generate"]), ("none", []), ([], [])]
)
def test_a_warm_up_can_be_chosen_by_name(warm_up: object, paths: list[str]) -> None:
    workload = fleet_of(pools=[pool(warm_up=warm_up)]).pools[0].workload

    assert paths == [request.path for request in workload.warm_up]


def test_a_count_makes_several_nodes() -> None:
    fleet = fleet_of(nodes=[node(name="rack", count=10)])

    assert ["rack-01", "rack-02", "rack-10"] == [fleet.nodes[n].name for n in (0, 1, 9)]


def test_developers_can_be_a_number_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("# who\n ann \n\nbob\n")
    pools = [
        pool(count=2, developers={"count": 2, "prefix": "d"}),
        pool(name="other", count=2, developers={"file": "people.txt"}),
    ]

    fleet = fleet_of(folder=tmp_path, pools=pools)

    assert [("d0001", "d0002"), ("ann", "bob")] == [one.developers for one in fleet.pools]


def test_all_problems_are_told_at_once_each_with_its_line() -> None:
    text = """
name: lab
nodes:
  - {name: n1, runtime: simulatd, cpus: 8, memory: 64GiB}
pools:
  - name: llama
    model: m
    cuont: 4
    rotation:
      every: 7
"""

    assert [
        "fleet.yml:4: nodes[0].runtime: must be 'containerd', 'process' or 'simulated'",
        "fleet.yml:6: pools[0].count: required",
        "fleet.yml:10: pools[0].rotation.every: must be a duration such as 7d, 1h30m or 30s, got 7",
        "fleet.yml:8: pools[0].cuont: unknown key; did you mean count?",
    ] == faults_of(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "fleet.yml: name: required"),
        ("- 1", "fleet.yml: the specification: must be a mapping"),
        ("name: [", "fleet.yml:1: is not YAML: while parsing a flow node"),
        ("name: a\nname: b", "fleet.yml: line 2 sets name again"),
        ("a: &x 1\nb: *x", "fleet.yml: uses aliases"),
        ("[" * 5000, "fleet.yml: is nested too deeply"),
        ("name: " + "{a: " * 50, "fleet.yml: is nested too deeply"),
        ("name: " + "[" * 49 + "]" * 49, "fleet.yml:1: name: must be a valid string"),
        ("name: \x01", "fleet.yml: is not YAML"),
        ("name: lab\nnodes: 1\npools: []", "fleet.yml:2: nodes: must be a valid list, got 1"),
        ("name: lab\nnodes: []\npools: [1]", "fleet.yml:3: pools[0]: must be a mapping, got 1"),
    ],
)
def test_what_is_no_specification_is_told_in_a_line(text: str, fault: str) -> None:
    assert faults_of(text)[0].startswith(fault)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"developers": {"file": "people.txt"}}, "cannot read nowhere/people.txt: it is not"),
        ({"developers": {"file": "a", "count": 1}}, "names a file beside a count"),
        ({"developers": {"fiel": "a"}}, "developers.fiel: unknown key; did you mean file?"),
        ({"engine": "olama"}, "must be one of auto, fleet, llamacpp, ollama, got 'olama'; did you"),
        ({"engine": "auto"}, "pools[0].health: needs a path: engine auto has no usual one"),
        ({"engine": "fleet", "warm_up": "pull"}, "engine fleet has no warm-up `pull`"),
        ({"warm_up": "pulll"}, "pools[0].warm_up: must be 'pull', 'load' or 'none'"),
        ({"warm_up": [{"paht": "/"}]}, "warm_up[0].paht: unknown key; did you mean path?"),
        ({"environment": {"A": True}}, "environment.A: must be a text or a number; put it in"),
        ({"environment": {"API_KEY": None}}, "environment.API_KEY: has no value, which only drops"),
        (
            {"environment": {"OLLAMA_HOTS": None}},
            'sets by default; write "" for an empty text; did you mean OLLAMA_HOST?',
        ),
        (
            {"engine": "fleet", "environment": {"OLLAMA_HOST": None}},
            "has no value, which only drops what engine fleet sets by default",
        ),
        ({"count": True}, "pools[0].count: must be a valid integer"),
        ({"count": 10**7}, "must be less than or equal to 1000000, got 10000000"),
    ],
)
def test_a_pool_that_cannot_be_completed_is_refused(changes: dict[str, object], fault: str) -> None:
    assert fault in faults(pools=[pool(**changes)])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"name": "n{1..3}", "count": 2}, "holds a range beside a count"),
        ({"name": "n", "count": 0}, "count must be from 1 to 10,000, got 0"),
        ({"name": "n{3..1}"}, "range {3..1} must ascend"),
        ({"name": "n{1..3}-{1..2}"}, "more than one range"),
        ({"name": "n{1..3}", "address": "10.0.0.{1..2}"}, "stands for 2 texts, the name for 3"),
    ],
)
def test_a_group_of_nodes_that_cannot_be_is_refused(changes: dict[str, object], fault: str) -> None:
    assert fault in faults(nodes=[node(**changes)])


def test_values_of_environment_variables_are_never_shown() -> None:
    assert "4711" not in faults(pools=[pool(environment={"SECRET": [4711]})])
    assert "4711" not in faults(pools=[pool(environment={"SECRET": '{"password": "4711"}'})])
    assert "4711" not in faults(pools=[pool(environment=4711)])


def test_words_of_a_command_line_are_never_shown() -> None:
    """One of them may be an API key."""
    assert "4711" not in faults(pools=[pool(command=["serve", "--api-key", 4711])])
    assert "4711" not in faults(pools=[pool(command=4711)])


def test_bodies_of_warm_up_requests_are_never_shown() -> None:
    found = faults(pools=[pool(warm_up=[{"path": "/x", "body": 4711, "timeout": "x"}])])

    assert "warm_up[0].body: must be a valid string" in found
    assert "4711" not in found


def test_a_problem_of_a_group_of_nodes_has_the_groups_line_and_is_told_once() -> None:
    text = """
name: lab
pools: []
nodes:
  - {name: good, runtime: simulated, cpus: 8, memory: 64GiB}
  - {name: "bad{1..3}", runtime: simulated, cpus: 8, memory: 64GiB, first_port: 9, last_port: 2}
"""

    assert [
        "fleet.yml:6: nodes[1].first_port: ports must ascend within 1 to 65535, got 9 to 2"
    ] == faults_of(text)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SpecError, match=f"{path}\n  cannot be read: "):
        load_fleet(path)


def test_the_document_of_the_tests_is_a_good_one() -> None:
    assert "" == faults(**document())
