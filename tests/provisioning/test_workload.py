"""Orders to runtimes: names, digests, placeholders."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from provisioning.model import (
    ContainerSpec,
    Instance,
    Mount,
    Node,
    Phase,
    Pool,
    RuntimeKind,
    Workload,
)
from provisioning.spec.values import MAX_POOL_NAME_CHARACTERS, NAME, filled, placeholder_fault
from provisioning.workload import container_spec, instance_id

WORKLOAD = Workload(
    model="llama3.1:8b",
    engine="llamacpp",
    image="local/llama:1",
    command=("serve", "--at={host}:{port}", "{{{id}}}"),
    environment={"A": "{address}", "B": "{node} runs {model}"},
    mounts=(Mount(source="/srv", target="/models"),),
    cpus=1.5,
    memory_bytes=2**30,
)
NODE = Node(
    name="rack1-n01",
    runtime=RuntimeKind.SIMULATED,
    address="10.0.0.7",
    cpus=8.0,
    memory_bytes=2**30,
)


def _instance(**changes: Any) -> Instance:
    instance = Instance("llama-00042", "llama", "rack1-n01", 20_042, 3, Phase.STARTING, 0.0, "d")
    return msgspec.structs.replace(instance, **changes)


def test_a_container_is_its_instances_generation_with_all_placeholders_filled_in() -> None:
    container = container_spec(
        "lab",
        Pool(name="llama", count=1, workload=WORKLOAD, archive="/srv/llama.tar"),
        NODE,
        _instance(),
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
            engine="llamacpp",
        )
        == container
    )


def test_values_are_not_filled_in_again() -> None:
    assert "{port}" == filled("{model}", {"model": "{port}", "port": "1"})


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
