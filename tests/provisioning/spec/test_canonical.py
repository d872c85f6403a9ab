"""What the store keeps of a fleet is the fleet, and equal fleets are equal texts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.errors import SpecError
from provisioning.model import Fleet, Node, Pool
from provisioning.spec import checked_fleet, decode_fleet, encode_fleet, problems
from provisioning.spec.checks import problems_of
from provisioning.spec.problems import MAX_CHARACTERS, MAX_TOLD, Problem, did_you_mean
from tests.provisioning.spec.documents import fleet_of, node, pool


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


def test_a_specification_of_an_earlier_release_gets_the_default_of_a_later_setting() -> None:
    document = json.loads(encode_fleet(fleet_of()))
    del document["pools"][0]["rotation"]["warm_up_s"]

    assert 60.0 == decode_fleet(json.dumps(document)).pools[0].rotation.warm_up_s


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

    found = list(problems_of(msgspec.structs.replace(fleet, nodes=(changed,))))

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


def test_of_many_unknown_keys_only_those_that_are_told_are_compared_with_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each comparison takes long, and a stranger's text may hold a million keys."""
    compared: list[str] = []

    def guess(word: str, _known: object) -> str:
        compared.append(word)
        return "?"

    monkeypatch.setattr(problems, "did_you_mean", guess)
    document = {**json.loads(encode_fleet(fleet_of())), **{f"x{n}": 0 for n in range(5_000)}}

    with pytest.raises(
        SpecError, match=r"^more than 100 problems in the specification\n"
    ) as caught:
        decode_fleet(json.dumps(document))

    assert (MAX_TOLD, "x0", "x99") == (len(compared), compared[0], compared[-1])
    assert ("x99: unknown key?", "and more") == caught.value.problems[-2:]


@pytest.mark.parametrize(
    ("n_problems", "count", "last"),
    [(100, "100", "x99: unknown key"), (101, "more than 100", "and more")],
)
def test_that_there_are_more_is_told_only_where_they_are_too_many(
    n_problems: int, count: str, last: str
) -> None:
    unknown = {f"x{n}": 0 for n in range(n_problems)}

    with pytest.raises(SpecError, match=f"^{count} problems") as caught:
        decode_fleet(json.dumps({**json.loads(encode_fleet(fleet_of())), **unknown}))

    assert last == caught.value.problems[-1]


def test_of_many_problems_of_a_stranger_the_first_are_told() -> None:
    many = msgspec.structs.replace(fleet_of().pools[0], count=0, developers=("",) * 300)

    with pytest.raises(SpecError) as caught:
        checked_fleet(encode_fleet(msgspec.structs.replace(fleet_of(), pools=(many,))))

    assert MAX_TOLD + 1 == len(caught.value.problems)
    assert "and more" == caught.value.problems[-1]


def test_nothing_is_looked_at_beyond_what_is_told() -> None:
    """Most of a stranger's document may be wrong, and plans are made one at a time."""
    looked_at = 0

    def endless() -> Iterator[Problem]:
        nonlocal looked_at
        while True:
            looked_at += 1
            yield Problem(("x",), "is wrong")

    with pytest.raises(SpecError):
        problems.refuse("it", endless())

    assert MAX_TOLD + 1 == looked_at


def test_an_engine_that_there_is_none_of_is_compared_when_it_is_told() -> None:
    pool = fleet_of().pools[0]
    workload = msgspec.structs.replace(pool.workload, engine="olama")
    wrong = msgspec.structs.replace(
        fleet_of(), pools=(msgspec.structs.replace(pool, workload=workload),)
    )

    with pytest.raises(SpecError, match=r"engine: must be one of .*; did you mean ollama\?"):
        checked_fleet(encode_fleet(wrong))


def test_a_problem_is_told_in_a_bounded_number_of_characters() -> None:
    document = {**json.loads(encode_fleet(fleet_of())), "x" * 1_000_000: 0}

    with pytest.raises(SpecError) as caught:
        decode_fleet(json.dumps(document))

    assert ("x" * MAX_CHARACTERS + "…",) == caught.value.problems


@pytest.mark.parametrize(
    ("word", "is_compared"), [("b" + "a" * 99, True), ("b" + "a" * 100, False)]
)
def test_only_words_that_may_be_meant_are_compared(word: str, is_compared: bool) -> None:
    """The time that it takes grows with their length."""
    assert is_compared == bool(did_you_mean(word, ["a" * 100]))


@pytest.mark.parametrize("text", ["", "{}", "[]", "1", b"\xff", "[" * 10_000, '{"name": 3}'])
def test_what_is_no_fleet_is_refused(text: str | bytes) -> None:
    with pytest.raises(SpecError, match="1 problem in the specification\n  is none: "):
        decode_fleet(text)
