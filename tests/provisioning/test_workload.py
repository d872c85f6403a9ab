"""Orders to runtimes: names, digests, placeholders."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from provisioning.model import (
    ContainerSpec,
    Instance,
    Node,
    Phase,
    Pool,
    Probe,
    RuntimeKind,
    WarmUp,
    Workload,
)
from provisioning.placeholders import filled, placeholder_fault
from provisioning.spec.words import MAX_POOL_NAME_CHARACTERS, NAME
from provisioning.workload import container_spec, instance_id, netloc, workload_digest

WORKLOAD = Workload(
    model="llama3.1:8b",
    engine="llamacpp",
    image="local/llama:1",
    command=("serve", "--at={host}:{port}", "{{{id}}}"),
    environment=(("A", "{address}"), ("B", "{node} runs {model}")),
    mounts=(("/srv", "/models"),),
    cpus=1.5,
    memory_bytes=2**30,
)
NODE = Node("rack1-n01", RuntimeKind.SIMULATED, address="10.0.0.7")


def _instance(**changes: Any) -> Instance:
    instance = Instance("llama-00042", "llama", "rack1-n01", 20_042, 3, Phase.STARTING, 0.0, "d")
    return msgspec.structs.replace(instance, **changes)


def test_a_container_is_its_instances_generation_with_all_placeholders_filled_in() -> None:
    container = container_spec(
        "lab", Pool("llama", 1, WORKLOAD, archive="/srv/llama.tar"), NODE, _instance()
    )

    assert (
        ContainerSpec(
            name="llama-00042.3",
            fleet="lab",
            instance_id="llama-00042",
            generation=3,
            pool="llama",
            host="10.0.0.7",
            port=20_042,
            image="local/llama:1",
            command=("serve", "--at=10.0.0.7:20042", "{llama-00042}"),
            environment=(("A", "10.0.0.7:20042"), ("B", "rack1-n01 runs llama3.1:8b")),
            mounts=(("/srv", "/models"),),
            cpus=1.5,
            memory_bytes=2**30,
            archive="/srv/llama.tar",
            model="llama3.1:8b",
        )
        == container
    )


def test_values_are_not_filled_in_again() -> None:
    assert "{port}" == filled("{model}", {"model": "{port}", "port": "1"})


def test_an_ipv6_address_stands_in_brackets_before_a_port() -> None:
    assert ("[::1]:80", "127.0.0.1:80") == (netloc("::1", 80), netloc("127.0.0.1", 80))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{port}", ""),
        ("{{x}}", ""),
        ("plain", ""),
        ("{prot}", "unknown placeholder {prot}"),
        ("{}", "unknown placeholder {}"),
        ("{port!r}", "unknown placeholder"),
        ("{", "a single `{`"),
        ("a}", "a single `}`"),
    ],
)
def test_placeholders_that_are_none_are_told(text: str, fault: str) -> None:
    found = placeholder_fault(text)

    assert fault in found
    assert bool(fault) == bool(found)


def test_a_text_with_a_faulty_placeholder_is_not_filled_in() -> None:
    with pytest.raises(ValueError, match="unknown placeholder"):
        filled("{prot}", {})


def test_instances_of_a_pool_are_numbered() -> None:
    assert ("llama-00042", "llama-100000") == (
        instance_id("llama", 42),
        instance_id("llama", 100_000),
    )


def test_the_longest_container_name_fits_containerd() -> None:
    pool = "p" * MAX_POOL_NAME_CHARACTERS
    longest = _instance(id=instance_id(pool, 1_000_000), generation=10**10 - 1).container

    assert 76 == len(longest)
    assert NAME.fullmatch(longest)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"engine": "ollama"},
        {"image": "local/llama:2"},
        {"command": ()},
        {"environment": ()},
        {"mounts": ()},
        {"cpus": 2.0},
        {"memory_bytes": 2**31},
    ],
)
def test_whatever_changes_what_runs_changes_the_digest(changes: dict[str, Any]) -> None:
    changed = msgspec.structs.replace(WORKLOAD, **changes)

    assert workload_digest(WORKLOAD) != workload_digest(changed)


def test_looking_at_health_otherwise_replaces_nothing() -> None:
    changed = msgspec.structs.replace(WORKLOAD, probe=Probe(path="/x"), warm_up=(WarmUp("/y"),))

    assert workload_digest(WORKLOAD) == workload_digest(changed)


def test_a_digest_is_short_and_the_same_in_every_release() -> None:
    """It is stored with each instance: were it to change, every instance would be replaced."""
    digest = workload_digest(Workload(model="m", engine="fleet"))

    assert re.fullmatch("[0-9a-f]{12}", digest)
    assert "280ce4400eb9" == digest
    assert "4c93b7b4461d" == workload_digest(WORKLOAD)
