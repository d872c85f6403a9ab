"""Each value of a specification is checked where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provisioning.spec.document import read_fleet
from provisioning.spec.schema import (
    Canary,
    Limits,
    Mount,
    Placement,
    PlacementStrategy,
    Probe,
    Rotation,
    RuntimeKind,
    WarmUp,
)
from provisioning.spec.values import DAY_S, GIB
from tests.provisioning.spec.documents import fleet_of, node, pool, problems

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
    health: {path: /ready, interval: 5s, timeout: 500ms, failures: 2,
             canary: {period: 10m, timeout: 1m, failures: 1}}
    warm_up: [{path: /completion, body: {prompt: x, n_predict: 1}, timeout: 1m}, {path: /slots}]
    placement: {strategy: binpack, max_per_node: 6, selector: {rack: 1}}
    rotation: {every: 1d12h, at_once: 2, drain: 30s, warm_up: 90s}
    developers: [ann, bob]
limits:
  {operations: 7, operations_per_node: 2, unavailable: 10%, start_timeout: 45s,
   warm_up_timeout: 10m, tries: 5,
   backoff_base: 2s, backoff_cap: 1m, retry_failed: 5m, node_grace: 3m, stop_grace: 20s}
"""


def test_a_whole_specification_is_read_as_it_was_meant() -> None:
    fleet = read_fleet(WHOLE, source="fleet.yml", folder=Path("nowhere"))

    third, (llama,) = fleet.nodes[2], fleet.pools
    workload = llama.workload
    assert ("rack1-n03", "10.0.1.13") == (third.name, third.address)
    assert (RuntimeKind.CONTAINERD, "https://10.0.1.13:2376") == (third.runtime, third.endpoint)
    assert (96.0, 768 * GIB, 90) == (third.cpus, third.memory_bytes, third.max_instances)
    assert (21_000, 21_999) == (third.first_port, third.last_port)
    assert ({"gpu": "no", "rack": "1"}, False) == (third.labels, third.is_cordoned)
    assert ("llama", 12, ("ann", "bob")) == (llama.name, llama.count, llama.developers)
    assert Placement(
        strategy=PlacementStrategy.BINPACK, max_per_node=6, selector={"rack": "1"}
    ) == (llama.placement)
    assert Rotation(every_s=1.5 * DAY_S, at_once=2, drain_s=30, warm_up_s=90) == llama.rotation
    assert "/srv/images/llama.tar" == llama.archive
    assert ("llama3.1:8b", "llamacpp") == (workload.model, workload.engine)
    assert "registry.local/llama:1" == workload.image
    assert ("llama-server", "--host", "{host}", "--port", "{port}") == workload.command
    assert {"LLAMA_ARG_CTX_SIZE": "4096"} == workload.environment
    assert (Mount(source="/srv/models", target="/models"),) == workload.mounts
    assert (1.5, GIB // 2) == (workload.cpus, workload.memory_bytes)
    canary = Canary(period_s=600, timeout_s=60, n_failures=1)
    assert workload.probe == Probe(
        path="/ready", interval_s=5, timeout_s=0.5, n_failures=2, canary=canary
    )
    assert (
        WarmUp(path="/completion", body='{"prompt": "x", "n_predict": 1}', timeout_s=60),
        WarmUp(path="/slots"),
    ) == workload.warm_up
    assert fleet.limits == Limits(
        operations=7,
        operations_per_node=2,
        unavailable_ratio=0.1,
        start_timeout_s=45,
        warm_up_timeout_s=600,
        tries=5,
        backoff_base_s=2,
        backoff_cap_s=60,
        retry_failed_s=300,
        node_grace_s=180,
        stop_grace_s=20,
    )


@pytest.mark.parametrize("name", ["a", "a.b_c-d", "A1", "x" * 76])
def test_names_that_containerd_takes_are_taken(name: str) -> None:
    assert "" == problems(nodes=[node(name=name)], name=name[:60])


@pytest.mark.parametrize("name", ["", "-a", "a-", "a..b", "a b", "é", "a/b", "x" * 77])
def test_names_that_containerd_refuses_are_refused(name: str) -> None:
    found = problems(name=name, nodes=[node(name=name)], pools=[pool(name=name)])

    assert ["name", "nodes[0].name", "pools[0].name"] == [
        line.split(": ")[1] for line in found.splitlines()
    ]


def test_a_pools_name_leaves_room_for_the_longest_name_of_a_container() -> None:
    """`pool-1000000.1234567890` has to fit into containerd's 76 characters."""
    assert "" == problems(pools=[pool(name="p" * 57)])
    assert "must be at most 57 characters long, got 58" in problems(pools=[pool(name="p" * 58)])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"address": "10.0.0.1:80"}, "address: must be a host name or an IP address, without"),
        ({"address": "fe80::1%eth0"}, "address: must not name a zone"),
        ({"address": "a b"}, "address: must be a host name or an IP address, got 'a b'"),
        ({"endpoint": "unix:///x"}, "endpoint: must be the control API of `ollama-fleet simulate`"),
        (
            {"runtime": "process", "endpoint": "unix:///x"},
            "endpoint: means nothing to runtime process; leave it out",
        ),
        ({"runtime": "containerd"}, "endpoint: must say where containerd listens"),
        ({"first_port": 30_000}, "last_port: must not be less than first_port, 30000, got 29999"),
        ({"last_port": 65_536}, "last_port: must be less than or equal to 65535, got 65536"),
        ({"first_port": 0}, "first_port: must be greater than or equal to 1, got 0"),
        ({"memory": "0B"}, "memory: must be greater than 0"),
        ({"memory": 8}, "memory: must be a size such as 8GiB or 512MiB, got 8"),
        ({"cpus": 0}, "cpus: must be greater than or equal to 0.001, got 0"),
        ({"cordoned": "yes"}, "cordoned: must be true or false"),
        ({"labels": {"a-b": "x"}}, "labels.a-b: is no label name"),
        ({"labels": {"__a": "x"}}, "labels.__a: is no label name"),
        ({"labels": {"pool": "x"}}, "labels.pool: cannot be: the inventory has a key"),
        ({"labels": {"a": "\x07"}}, "labels.a: must not hold control characters"),
        (
            {"labels": {f"a{n}": "x" for n in range(65)}},
            "labels: must have at most 64 entries",
        ),
    ],
)
def test_a_node_that_cannot_be_is_refused(changes: dict[str, Any], fault: str) -> None:
    assert f"nodes[0].{fault}" in problems(nodes=[node(**changes)], pools=[])


@pytest.mark.parametrize("address", ["::1", "10.0.0.1", "gpu-7.example.org"])
def test_addresses_and_names_of_hosts_are_taken(address: str) -> None:
    assert "" == problems(nodes=[node(address=address)])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model": ""}, "model: must not be empty"),
        ({"model": "m" * 257}, "model: must be at most 256 characters long, got 257"),
        ({"engine": "olama"}, "engine: must be one of auto, fleet, llamacpp, ollama, vllm, sglang"),
        ({"memory": "0MiB"}, "memory: must be greater than 0"),
        ({"count": True}, "count: must be a whole number"),
        ({"count": 10**7}, "count: must be less than or equal to 1000000, got 10000000"),
        ({"command": [""]}, "command: must name a program"),
        ({"command": ["a", "{prot}"]}, "command[1]: holds the unknown placeholder {prot}"),
        ({"command": ["a", "\0"]}, "command[1]: must not hold a NUL"),
        ({"environment": {"A": "{"}}, "environment.A: holds braces that are no placeholder; known"),
        ({"environment": {"A B": ""}}, "environment.A B: is no name for a variable"),
        ({"environment": {"A": True}}, "environment.A: must be a text or a number; put it in"),
        ({"mounts": [{"source": "x", "target": "/x"}]}, "mounts[0].source: must be an absolute"),
        ({"mounts": [{"source": "/x", "target": "/../x"}]}, "mounts[0].target: must be an absol"),
        ({"mounts": [{"source": "/x", "target": "/y"}] * 2}, "mounts: holds '/y' twice"),
        ({"health": {"path": "health"}}, "health.path: must begin with /"),
        ({"health": {"timeout": 0}}, "health.timeout: must be greater than 0"),
        ({"health": {"failures": 0}}, "health.failures: must be greater than or equal to 1"),
        ({"health": {"canary": {"timeout": 0}}}, "health.canary.timeout: must be greater than 0"),
        ({"health": {"canary": {"every": "1m"}}}, "health.canary.every: unknown key"),
        ({"engine": "fleet", "health": {"canary": {}}}, "health: engine fleet has no canary, only"),
        ({"warm_up": "pulll"}, "warm_up: must be 'pull', 'load' or 'none'"),
        ({"warm_up": [{"path": "x"}]}, "warm_up[0].path: must begin with /"),
        ({"warm_up": [{"paht": "/"}]}, "warm_up[0].paht: unknown key; did you mean path?"),
        ({"warm_up": [{"path": "/x", "body": 1}]}, "warm_up[0].body: must be a text"),
        ({"engine": "fleet", "warm_up": "pull"}, "warm_up: engine fleet has no warm-up `pull`"),
        ({"rotation": {"at_once": 0}}, "rotation.at_once: must be greater than or equal to 1"),
        ({"rotation": {"warm_up": "99999d"}}, "rotation.warm_up: must be less than or equal to"),
        ({"developers": ["a", "a"]}, "developers: holds 'a' twice"),
        ({"developers": [""]}, "developers[0]: must not be empty"),
        ({"archive": "/srv/llm.tar"}, "archive: needs an `image`"),
        ({"archive": "llm.tar", "image": "llm:1"}, "archive: must be an absolute path"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(changes: dict[str, Any], fault: str) -> None:
    assert f"pools[0].{fault}" in problems(pools=[pool(**changes)])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"operations": 0}, "operations: must be greater than or equal to 1, got 0"),
        ({"tries": 0}, "tries: must be greater than or equal to 1"),
        ({"start_timeout": 0}, "start_timeout: must be greater than 0"),
        ({"warm_up_timeout": 0}, "warm_up_timeout: must be greater than 0"),
        ({"unavailable": "101%"}, "unavailable: must be a share from 0% to 100%"),
    ],
)
def test_limits_that_stop_everything_are_refused(changes: dict[str, Any], fault: str) -> None:
    assert f"limits.{fault}" in problems(limits=changes)


def test_a_fleet_may_be_empty() -> None:
    assert ((), ()) == (fleet_of(nodes=[], pools=[]).nodes, fleet_of(pools=[]).pools)


def test_workloads_that_run_alike_have_one_digest() -> None:
    """What is only asked or sent afterwards replaces nothing that runs."""
    workload = fleet_of(pools=[pool(warm_up="none")]).pools[0].workload
    alike = workload.replace(probe=Probe(path="/x"), warm_up=(WarmUp(path="/y"),))

    assert workload.digest == alike.digest
    assert len({workload.digest, *(workload.replace(**one).digest for one in OTHERS)}) == 9


OTHERS: tuple[dict[str, Any], ...] = (
    {"model": "m"},
    {"engine": "fleet"},
    {"image": "i"},
    {"command": ("x",)},
    {"environment": {"A": "b"}},
    {"mounts": (Mount(source="/a", target="/b"),)},
    {"cpus": 3.0},
    {"memory_bytes": 1},
)
