"""What the store keeps of a fleet is the fleet, and equal fleets are equal texts."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.fleet.errors import SpecError
from provisioning.fleet.fleet import Fleet, Node, Pool
from provisioning.fleet.spec import checked_fleet, decode_fleet, encode_fleet
from provisioning.fleet.spec.checks import problems_of
from tests.provisioning.fleet.spec.documents import fleet_of, node, pool


@given(
    nodes=st.lists(st.from_type(Node), max_size=3), pools=st.lists(st.from_type(Pool), max_size=3)
)
def test_every_fleet_comes_back_as_it_was(nodes: list[Node], pools: list[Pool]) -> None:
    fleet = Fleet("lab", tuple(nodes), tuple(pools))
    text = encode_fleet(fleet)
    if "null" not in text:  # infinite numbers, which no specification holds
        assert fleet == decode_fleet(text)
        assert text == encode_fleet(decode_fleet(text))


def test_defaults_are_written_out() -> None:
    """A later release with another default must change nothing of a fleet that runs."""
    document = json.loads(encode_fleet(fleet_of()))

    assert 604_800.0 == document["pools"][0]["rotation"]["every_s"]
    assert set(Node.__struct_fields__) == set(document["nodes"][0])


def test_a_fleet_of_a_stranger_is_checked() -> None:
    fleet = msgspec.structs.replace(fleet_of(), name="-")
    text = encode_fleet(fleet)

    assert fleet == decode_fleet(text)
    with pytest.raises(SpecError, match=r"1 problem in the specification\n  name: must be letters"):
        checked_fleet(text)
    assert fleet_of() == checked_fleet(encode_fleet(fleet_of()))


@pytest.mark.parametrize(
    ("ports", "is_fault"), [((1, 65_535), False), ((0, 9), True), ((1, 65_536), True)]
)
def test_ports_of_a_stranger_are_checked(ports: tuple[int, int], is_fault: bool) -> None:
    """YAML's are by their form; JSON's have no other check than this."""
    fleet = fleet_of()
    first, last = ports
    changed = msgspec.structs.replace(fleet.nodes[0], first_port=first, last_port=last)

    found = problems_of(msgspec.structs.replace(fleet, nodes=(changed,)))

    assert is_fault == bool(found)


def test_every_unknown_key_is_refused() -> None:
    document = json.loads(encode_fleet(fleet_of(nodes=[node()], pools=[pool()])))
    document["pols"] = []
    document["pools"][0]["workload"]["modell"] = "x"

    with pytest.raises(SpecError) as caught:
        decode_fleet(json.dumps(document))

    assert (
        "pools[0].workload.modell: unknown key; did you mean model?",
        "pols: unknown key; did you mean pools?",
    ) == caught.value.problems


@pytest.mark.parametrize("text", ["", "{}", "[]", "1", b"\xff", "[" * 10_000, '{"name": 3}'])
def test_what_is_no_fleet_is_refused(text: str | bytes) -> None:
    with pytest.raises(SpecError, match="1 problem in the specification\n  is none: "):
        decode_fleet(text)
