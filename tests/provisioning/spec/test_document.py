"""A specification is read with every problem at once, and written as the very document it is."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings

from ollama_fleet.problems import MAX_CHARACTERS, MAX_PROBLEMS
from provisioning.errors import SpecError
from provisioning.spec import schema
from provisioning.spec.document import (
    checked_fleet,
    decode_fleet,
    document_of,
    encode_fleet,
    fleet_yaml,
    keys_of,
    load_fleet,
    read_fleet,
)
from provisioning.spec.schema import Fleet
from tests.provisioning.spec.documents import (
    document,
    fleet_of,
    node,
    pool,
    problems,
    problems_of,
)
from tests.provisioning.spec.fleets import fleets


def read(text: str) -> Fleet:
    return read_fleet(text, source="shown.yml", folder=Path("nowhere"))


@given(fleets())
@settings(max_examples=60, phases=[Phase.generate, Phase.shrink])
def test_what_is_written_is_read_as_the_same_fleet(fleet: Fleet) -> None:
    text = encode_fleet(fleet)

    assert fleet == read(fleet_yaml(fleet)) == read(text)
    assert fleet == checked_fleet(text) == decode_fleet(text)
    assert text == encode_fleet(decode_fleet(text))
    assert document_of(fleet) == json.loads(text) == yaml.safe_load(fleet_yaml(fleet))


def test_every_key_is_written_with_its_default() -> None:
    """A later release with another default must change nothing of a fleet that runs."""
    requests = [{"path": "/", "body": "x"}]
    mounts = [{"source": "/a", "target": "/b"}]
    written = document_of(fleet_of(pools=[pool(mounts=mounts, warm_up=requests)]))
    (first_node,), (first_pool,) = written["nodes"], written["pools"]

    for section, part in (
        (schema.Fleet, written),
        (schema.Node, first_node),
        (schema.Pool, first_pool),
        (schema.Probe, first_pool["health"]),
        (schema.WarmUp, first_pool["warm_up"][0]),
        (schema.Mount, first_pool["mounts"][0]),
        (schema.Placement, first_pool["placement"]),
        (schema.Rotation, first_pool["rotation"]),
        (schema.Limits, written["limits"]),
    ):
        assert set(keys_of(section)) == set(part)


def test_amounts_are_written_with_their_units() -> None:
    limits = {"unavailable": "7%", "backoff_base": "250ms"}
    written = document_of(fleet_of(limits=limits, pools=[pool(rotation={"every": "36h"})]))
    (first_node,), (first_pool,) = written["nodes"], written["pools"]

    assert ("64GiB", 8) == (first_node["memory"], first_node["cpus"])
    assert ("1d12h", "1m") == (first_pool["rotation"]["every"], first_pool["rotation"]["drain"])
    assert limits.items() <= written["limits"].items()


def test_a_warm_up_with_a_name_is_written_by_it() -> None:
    """So it stays right where a person gives the pool another model."""
    written = document_of(fleet_of())

    assert "pull" == written["pools"][0]["warm_up"]


def test_a_default_of_the_engine_that_is_dropped_is_written_without_a_value() -> None:
    fleet = fleet_of(pools=[pool(environment={"OLLAMA_NUM_PARALLEL": None})])

    written = document_of(fleet)["pools"][0]["environment"]

    assert None is written["OLLAMA_NUM_PARALLEL"]
    assert "{address}" == written["OLLAMA_HOST"]
    assert fleet == read(fleet_yaml(fleet))


@pytest.mark.parametrize(
    "text", ["\x85", "a\u2028b", "\ufeff", "😀", "\x7f", "a\n b\n", "~", "1e3", "word " * 60]
)
def test_any_text_survives(text: str) -> None:
    fleet = fleet_of()
    (only,) = fleet.pools
    workload = only.workload.replace(environment={"A": text})
    fleet = fleet.replace(pools=(only.replace(workload=workload),))

    for written in (encode_fleet(fleet), fleet_yaml(fleet)):
        assert text == read(written).pools[0].workload.environment["A"]


def test_yaml_is_written_to_be_read_by_people() -> None:
    text = fleet_yaml(fleet_of(nodes=[node(name="n{1..3}", labels={"rack": "lämà"})]))

    assert text.startswith("name: lab\nnodes:\n- name: n1\n")
    assert 3 == text.count("    rack: lämà\n")


def test_all_problems_are_told_at_once_each_with_its_line() -> None:
    text = """
name: lab
nodes:
  - {name: n1, runtime: simulatd, cpus: 8, memory: 64GiB}
  - {name: "n{3..1}", runtime: simulated, cpus: 8, memory: 64GiB}
  - {name: "bad{1..3}", runtime: simulated, cpus: 8, memory: 64GiB, first_port: 9, last_port: 2}
pools:
  - name: llama
    model: m
    cuont: 4
    rotation:
      every: 7
"""

    assert [
        "fleet.yml:5: nodes[1].name: range {3..1} must ascend, and hold at most 10,000 numbers",
        "fleet.yml:4: nodes[0].runtime: must be 'containerd', 'process' or 'simulated'",
        "fleet.yml:6: nodes[2].last_port: must not be less than first_port, 9, got 2",
        "fleet.yml:8: pools[0].count: required",
        "fleet.yml:12: pools[0].rotation.every: must be a duration such as 7d, 1h30m, 15s or "
        "500ms, got 7",
        "fleet.yml:10: pools[0].cuont: unknown key; did you mean count?",
    ] == problems_of(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "fleet.yml: name: required"),
        ("- 1", "fleet.yml: must be a mapping"),
        ("name: [", "fleet.yml:2: is not valid YAML"),
        ("name: a\nname: b", "fleet.yml:2: sets name again"),
        ("a: &x 1\nb: *x", "fleet.yml:2: uses aliases"),
        ("[" * 5000, "fleet.yml:1: is nested too deeply"),
        ("name: " + "[" * 49 + "]" * 49, "fleet.yml:1: name: must be a text"),
        ("name: lab\nnodes: 1\npools: []", "fleet.yml:2: nodes: must be a list, got 1"),
        ("name: lab\nnodes: []\npools: [1]", "fleet.yml:3: pools[0]: must be a mapping"),
    ],
)
def test_what_is_no_specification_is_told_in_a_line(text: str, problem: str) -> None:
    assert problems_of(text)[0].startswith(problem)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SpecError, match=f"^1 problem in {path}\n  {path}"):
        load_fleet(path)


def test_secrets_are_never_shown() -> None:
    for changes in (
        {"environment": {"SECRET": [4711]}},
        {"environment": {"SECRET": '{"password": "4711"}'}},
        {"environment": 4711},
        {"command": ["serve", "--api-key", [4711]]},
        {"command": 4711},
        {"warm_up": [{"path": "/x", "body": 4711}]},
    ):
        found = problems(pools=[pool(**changes)])
        assert found
        assert "4711" not in found


@pytest.mark.parametrize("text", ["", "[]", "1", b"\xff", "[" * 10_000, '{"name": 3}'])
def test_json_that_is_no_specification_is_refused(text: str | bytes) -> None:
    with pytest.raises(SpecError, match="in the specification\n  "):
        checked_fleet(text)


def test_json_from_elsewhere_is_checked_with_defaults_filled_in() -> None:
    assert fleet_of() == checked_fleet(json.dumps(document()))
    with pytest.raises(SpecError, match=r"pools\[0\]\.health: needs a path: engine auto has no"):
        checked_fleet(json.dumps(document(pools=[pool(engine="auto")])))
    with pytest.raises(SpecError, match=r"pools\[0\]\.count: 9 instances do not fit"):
        checked_fleet(json.dumps(document(pools=[pool(count=9)])))


def test_attributes_are_no_keys_of_documents() -> None:
    """Each setting has one name, by which people find it."""
    changed = pool(workload={}, probe={}, health={"interval_s": "5s"})
    found = problems(nodes=[node(memory_bytes=1)], pools=[changed])

    assert [
        "nodes[0].memory_bytes: unknown key; did you mean memory?",
        "pools[0].health.interval_s: unknown key; did you mean interval?",
        "pools[0].workload: unknown key",
        "pools[0].probe: unknown key",
    ] == [line.split(": ", 1)[1] for line in found.splitlines()]


@pytest.mark.parametrize(("n", "count"), [(100, "100"), (101, "more than 100")])
def test_what_is_told_is_bounded(n: int, count: str) -> None:
    """A stranger's document may have a problem in every few of its bytes."""
    unknown = {f"{number}" + "x" * MAX_CHARACTERS: 0 for number in range(n)}

    with pytest.raises(SpecError, match=f"^{count} problems in the specification\n") as caught:
        checked_fleet(json.dumps({**document(), **unknown}))

    assert MAX_PROBLEMS + (n > MAX_PROBLEMS) == len(caught.value.problems)
    assert MAX_CHARACTERS + 1 == max(map(len, caught.value.problems))


Place = tuple[str | int, ...]


def numbers_of(document: Any, place: Place = ()) -> list[Place]:
    """Return where numbers are in a JSON document."""
    if isinstance(document, int | float) and not isinstance(document, bool):
        return [place]
    items: Any = []
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
    return [found for key, value in items for found in numbers_of(value, (*place, key))]


@pytest.mark.parametrize(
    "number", ["1e308", f"{2**64}", f"1{400 * '0'}", f"-1{400 * '0'}", f"1{6000 * '0'}"]
)
def test_no_number_is_too_large_to_be_refused(number: str) -> None:
    """JSON has no bound: 10^400 is no float, and Python reads 10^6000 from no text."""
    encoded = encode_fleet(fleet_of())
    places = numbers_of(json.loads(encoded))

    for place in places:
        changed = json.loads(encoded)
        inner = reduce(lambda at, key: at[key], place[:-1], changed)
        inner[place[-1]] = "@"
        with pytest.raises(SpecError):
            checked_fleet(json.dumps(changed).replace('"@"', number).encode())

    assert 10 < len(places)
