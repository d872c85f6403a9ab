"""From bytes to records: places, wrappings, bounds, and all that is no inventory."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import InputError
from exporter.inventory import entries, formats
from exporter.inventory.entries import targets_of
from exporter.inventory.fields import Record
from exporter.inventory.formats import Format, records
from exporter.model import Target


def read(body: bytes, form: Format, name: str = "f") -> list[Record]:
    return list(records(body, name, form))


def refusal(body: bytes, form: Format) -> str:
    with pytest.raises(InputError) as caught:
        read(body, form)
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("body", [b"[]", b'{"instances": []}', b"\xef\xbb\xbf[]", b" [ ]\n"])
def test_an_empty_list_is_an_inventory_of_none(form: Format, body: bytes) -> None:
    assert [] == read(body, form)


def test_json_places_are_line_and_index() -> None:
    body = b'\n[\n {"id":\n "a"} , {"id": "b"}\n,\n\n {"id": "c"}]'

    assert ["f:3 [0]", "f:4 [1]", "f:7 [2]"] == [r.place for r in read(body, Format.JSON)]


def test_yaml_places_are_lines() -> None:
    first, second = read(b"# fleet\n- id: a\n  labels:\n    x: y\n-\n  id: b\n", Format.YAML)

    assert ("f:2", "f:6") == (first.place, second.place)
    assert "f:4" == first.at("labels.x")
    assert "f:2" == first.at("nowhere")


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("body", [b"", b" \n\t", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused_rather_than_read_as_no_instances(
    form: Format, body: bytes
) -> None:
    assert "f: is empty; write [] for no instances" == refusal(body, form)


@pytest.mark.parametrize("form", Format)
def test_what_is_not_utf8_is_refused_with_its_line(form: Format) -> None:
    assert "f:2: is not UTF-8" in refusal(b'[\n"\xff\xfe"]', form)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'[\n{"id": "a"},\n{"id": "b', "f:3: is not valid JSON: Input data was truncated"),
        (b"[\n1,\n2}\n", "f:3: is not valid JSON"),
        (b"[1] x", "f:1: is not valid JSON"),
        (b'["\\ud800"]', "f:1: is not valid JSON"),
        (b"\x00\x01\x02", "f:1: is not valid JSON"),
        (b"3", "expected a list of instances"),
        (b"null", "expected a list of instances"),
        (b'{"instances": {}}', "expected a list of instances"),
        (b"{}", "is an object without the key instances"),
        (b'{"instance": []}', "unknown key 'instance' beside the list; did you mean instances?"),
        (b'{"instances": [], "next": 2}', "unknown key 'next' beside the list"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"[" + b"[" * 100_000 + b"]" * 100_000 + b"]", "is nested too deeply"),
    ],
)
def test_what_is_no_json_list_is_refused_with_the_reason(body: bytes, message: str) -> None:
    assert message in refusal(body, Format.JSON)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"- a\n- [", "is not valid YAML"),
        (b"- a: b: c", "f:1: is not valid YAML at column 7: mapping values are not allowed"),
        (b'- a\n- "\x01"', "f:2: is not valid YAML at column 4: "),
        (b'- "\x01"', "characters are not allowed"),
        (b"\x00\x01", "f:1: is not valid YAML at column 1: "),
        (b"word", "f:1: expected a list of instances"),
        (b"# nothing", "expected a list of instances"),
        (b"a:\n", "f:1: unknown key 'a' beside the list"),
        (b"{}", "f:1: expected a list of instances"),
        (b"instances:\n", "expected a list of instances"),
        (b"instances: []\ninstances: []\n", "f:2: has the key instances twice"),
        (b"[]\n---\n[]", "f:2: has a second document"),
        (b"- id: a\n  id: b\n", "f:2: has the key id twice in one mapping"),
        (b"- id: !!python/object:os.system x", "tags are not supported"),
        (b"- !secret x", "f:1: has the tag !secret"),
        (b"- ? [a]\n  : b\n", "f:1: has a key that is not a plain text"),
        (b"- *nobody", "f:1: refers to *nobody"),
        (b"- &a [*a]", "refers to *a, which is not defined before it"),
        (b"- <<: x", "merges (<<) something that is not a mapping"),
        (b"- " * 1_000_000, "is nested too deeply"),
        (b"[" * 1_000_000, "is nested too deeply"),
        (b"{a: " * 1_000_000, "f:1: "),
    ],
)
def test_what_is_no_yaml_list_is_refused_with_the_reason(body: bytes, message: str) -> None:
    assert message in refusal(body, Format.YAML)


def test_yaml_aliases_and_merge_keys_save_repetition() -> None:
    text = b"- &a {node: n, model: m}\n- {<<: *a, node: o}\n- {<<: [{x: y, node: p}, *a]}\n- *a\n"

    assert [
        {"node": "n", "model": "m"},
        {"node": "o", "model": "m"},
        {"node": "p", "model": "m", "x": "y"},
        {"node": "n", "model": "m"},
    ] == [record.value for record in read(text, Format.YAML)]


def test_aliases_of_aliases_do_not_grow() -> None:
    levels = [b"- &l0 [x]"] + [b"- &l%d [%s]" % (i, b"*l%d, " % (i - 1) * 9) for i in range(1, 40)]

    assert 40 == len(read(b"\n".join(levels), Format.YAML))


@given(st.binary(max_size=80), st.sampled_from(Format))
def test_garbage_is_read_or_refused_but_nothing_else(body: bytes, form: Format) -> None:
    with suppress(InputError):
        read(body, form)


@given(st.text(alphabet="[]{}-:?&*!|>'\"#%@`,\\ \nab<~", max_size=60))
def test_yaml_punctuation_is_read_or_refused_but_nothing_else(text: str) -> None:
    with suppress(InputError):
        read(text.encode(), Format.YAML)


LONG = 200_000


def targets(body: bytes, form: Format) -> tuple[Target, ...]:
    return targets_of(records(body, "f", form), "f")


def refused(body: bytes, form: Format = Format.HTTP) -> InputError:
    with pytest.raises(InputError) as caught:
        targets(body, form)
    return caught.value


LONG_TEXTS: dict[str, Callable[[str], object]] = {
    "url": lambda text: {"url": text},
    "host": lambda text: {"host": text, "port": text},
    "target": lambda text: {"targets": [text]},
    "id": lambda text: {"id": text},
    "choice": lambda text: {"url": "http://h:1", "engine": text},
    "key": lambda text: {"url": "http://h:1", text: text},
    "label": lambda text: {"url": "http://h:1", "labels": {f"{text}-": text}},
    "value": lambda text: {"url": "http://h:1", "labels": {"a": text}},
    "scheme": lambda text: {"targets": ["h:1"], "labels": {"__scheme__": text}},
    "element": lambda text: text,
}


@pytest.mark.parametrize("form", [Format.HTTP, Format.YAML])
@pytest.mark.parametrize("place", LONG_TEXTS)
def test_a_text_of_any_length_is_refused_at_once_in_a_short_message(
    place: str, form: Format
) -> None:
    """What takes the square of the length, as a careless pattern does, takes minutes here."""
    body = json.dumps([LONG_TEXTS[place]("a" * LONG)]).encode()

    assert len(str(refused(body, form))) < 1_000


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize(
    "fault", ["1", '{"id": "a", "url": "http://h:1"}', '{"url": 7}', '{"targets": [7, 7]}']
)
def test_reading_stops_after_a_hundred_problems(form: Format, fault: str) -> None:
    problems = refused(f"[{','.join([fault] * 1_000)}]".encode(), form).problems

    assert 100 == len(problems)
    assert "too many problems" in problems[-1].message


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize(
    "body", [b"[1, 1, 1, 1]", b"[[], [], []]", b'[{"targets": ["h:1", "h:2"]}]']
)
def test_more_values_than_the_limit_are_refused_before_they_are_read(
    form: Format, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_VALUES", 2)

    assert "holds more than 2 values" in str(refused(body, form))


@pytest.mark.parametrize("group", [True, False])
def test_more_instances_than_the_limit_are_refused(
    *, group: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "MAX_INSTANCES", 2)
    names = ["h:1", "h:2", "h:3"]
    listed = [{"targets": names}] if group else [{"url": f"http://{name}"} for name in names]

    (problem,) = refused(json.dumps(listed).encode()).problems

    assert "more than 2 instances" in problem.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('- {"' + "k" * 257 + '": 1}', "has a key of 257 characters"),
        ("- {" + ", ".join(f"k{n}: 1" for n in range(1_001)) + "}", "more than 1,000 keys"),
        ("- &a {}\n- <<: [" + "*a," * 65 + "]", "merges (<<) more than 64 mappings"),
    ],
)
def test_yaml_that_would_multiply_is_refused(body: str, message: str) -> None:
    assert message in str(refused(body.encode(), Format.YAML))


def test_the_places_of_a_huge_group_are_not_all_remembered() -> None:
    hosts = "\n".join(f"  - h:{n}" for n in range(12_000, 24_000))
    (record,) = records(f"- targets:\n{hosts}\n".encode(), "f", Format.YAML)

    assert "f:3" == record.at_item("targets", 1)
    assert "f:1.targets[11999]" == record.at_item("targets", 11_999)
    assert len(record.places) <= 10_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "url",
                    "host",
                    "port",
                    "labels",
                    "state",
                    "targets",
                    "__scheme__",
                    "instances",
                ]
            )
            | st.text(max_size=8),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON | st.lists(JSON), st.sampled_from(Format), st.integers(0, 2))
def test_any_document_is_read_or_refused_but_nothing_else(
    document: object, form: Format, n_cut: int
) -> None:
    body = json.dumps(document).encode()

    with suppress(InputError):
        targets(body[: len(body) - n_cut], form)
