"""What is written of a fleet is a specification, and reads as that very fleet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import Phase, given, settings

from provisioning.model import Fleet, WarmUp
from provisioning.spec import fleet_json, fleet_yaml, read_fleet, schema
from provisioning.spec.document import fleet_document
from tests.provisioning.spec.documents import fleet_of, node, pool
from tests.provisioning.spec.fleets import fleets

NOWHERE = Path("nowhere")


def read(text: str) -> Fleet:
    return read_fleet(text, source="shown.yml", folder=NOWHERE)


def with_workload(**changes: Any) -> Fleet:
    fleet = fleet_of()
    (only,) = fleet.pools
    workload = msgspec.structs.replace(only.workload, **changes)
    return msgspec.structs.replace(fleet, pools=(msgspec.structs.replace(only, workload=workload),))


@given(fleets())
@settings(max_examples=60, phases=[Phase.generate, Phase.shrink])
def test_what_is_written_is_read_as_the_same_fleet(fleet: Fleet) -> None:
    assert fleet == read(fleet_yaml(fleet))
    assert fleet == read(fleet_json(fleet))


def test_yaml_and_json_say_the_same() -> None:
    fleet = fleet_of(pools=[pool(developers=["ann"], environment={"A": "yes"})])

    assert fleet_document(fleet) == yaml.safe_load(fleet_yaml(fleet))
    assert fleet_document(fleet) == json.loads(fleet_json(fleet))
    assert 1 == len(fleet_json(fleet).splitlines())


def test_every_key_is_written() -> None:
    document = fleet_document(fleet_of(pools=[pool(mounts=[{"source": "/a", "target": "/b"}])]))
    (first_node,), (first_pool,) = document["nodes"], document["pools"]

    for section, written in (
        (schema.FleetForm, document),
        (schema.PoolForm, first_pool),
        (schema.HealthForm, first_pool["health"]),
        (schema.MountForm, first_pool["mounts"][0]),
        (schema.PlacementForm, first_pool["placement"]),
        (schema.RotationForm, first_pool["rotation"]),
        (schema.LimitsForm, document["limits"]),
    ):
        assert set(section.model_fields) == set(written)
    assert set(schema.NodeForm.model_fields) - {"count"} == set(first_node)


def test_amounts_are_written_as_people_write_them() -> None:
    document = fleet_document(fleet_of(limits={"unavailable": "7%", "backoff_base": "250ms"}))
    (first_node,), (first_pool,) = document["nodes"], document["pools"]

    assert ("64GiB", 8) == (first_node["memory"], first_node["cpus"])
    assert ("7d", "1m") == (first_pool["rotation"]["every"], first_pool["rotation"]["drain"])
    assert ("10s", "2s") == (first_pool["health"]["interval"], first_pool["health"]["timeout"])
    assert ("7%", "250ms") == (
        document["limits"]["unavailable"],
        document["limits"]["backoff_base"],
    )


@pytest.mark.parametrize("preset", ["pull", "load", "none"])
def test_a_warm_up_that_goes_by_a_name_is_written_by_it(preset: str) -> None:
    fleet = fleet_of(pools=[pool(warm_up=preset)])

    assert preset == fleet_document(fleet)["pools"][0]["warm_up"]


def test_requests_that_no_name_stands_for_are_written_out() -> None:
    fleet = with_workload(warm_up=(WarmUp("/x", '{"a": 1}', 90.0),))

    assert [{"path": "/x", "body": '{"a": 1}', "timeout": "90s"}] == (
        fleet_document(fleet)["pools"][0]["warm_up"]
    )


def test_a_default_of_the_engine_that_is_not_wanted_is_written_without_a_value() -> None:
    """A fleet that somebody put there by the API may do without it."""
    fleet = with_workload(environment=(("OLLAMA_HOST", "{address}"),))

    assert {
        "OLLAMA_HOST": "{address}",
        "OLLAMA_MAX_LOADED_MODELS": None,
        "OLLAMA_NUM_PARALLEL": None,
    } == fleet_document(fleet)["pools"][0]["environment"]
    assert fleet == read(fleet_yaml(fleet))


@pytest.mark.parametrize(
    "text", ["\x85", "a\u2028b", "\ufeff", "😀", "\x7f", "a\n b\n", "~", "1e3"]
)
def test_any_text_survives(text: str) -> None:
    fleet = with_workload(environment=(("A", text),))

    for written in (fleet_json(fleet), fleet_yaml(fleet)):
        assert (("A", text),) == read(written).pools[0].workload.environment


@pytest.mark.parametrize(
    ("number", "text"),
    [(5e-05, "0.00005"), (1.25e-07, "0.000000125"), (1e16, "10000000000000000"), (0.25, "0.25")],
)
def test_numbers_are_written_without_powers_of_ten_in_json(number: float, text: str) -> None:
    """YAML takes some of those for texts."""
    fleet = with_workload(cpus=number, environment=(("A", '1e-05"2e-05'),))

    written = fleet_json(fleet)

    assert f'"cpus": {text}, "memory"' in written
    assert fleet_document(fleet) == json.loads(written)
    assert fleet_document(fleet) == yaml.safe_load(written)


def test_nodes_of_a_group_are_written_one_by_one_without_aliases() -> None:
    fleet = fleet_of(nodes=[node(name="n{1..3}", labels={"rack": "1"})])

    assert ["n1", "n2", "n3"] == [one["name"] for one in yaml.safe_load(fleet_yaml(fleet))["nodes"]]
    assert fleet == read(fleet_yaml(fleet))


def test_yaml_is_written_to_be_read_by_people() -> None:
    """Keys in the README's order, letters as they are, each text on one line."""
    long = " ".join(["word"] * 60)
    text = fleet_yaml(fleet_of(pools=[pool(model="lämà", environment={"LONG": long})]))

    assert ["name", "nodes", "pools", "limits"] == re.findall(r"(?m)^(\w+):", text)
    assert "  model: lämà\n" in text
    assert f"    LONG: {long}\n" in text
