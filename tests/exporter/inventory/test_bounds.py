"""However large or strange an inventory is, it is read or refused in bounded time and memory."""

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
from exporter.inventory.formats import Format, records
from exporter.model import Target

LONG = 200_000


def read(body: bytes, form: Format) -> tuple[Target, ...]:
    return targets_of(records(body, "f", form), "f")


def refusal(body: bytes, form: Format = Format.HTTP) -> InputError:
    with pytest.raises(InputError) as caught:
        read(body, form)
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

    assert len(str(refusal(body, form))) < 1_000


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize(
    "fault", ["1", '{"id": "a", "url": "http://h:1"}', '{"url": 7}', '{"targets": [7, 7]}']
)
def test_reading_stops_after_a_hundred_problems(form: Format, fault: str) -> None:
    problems = refusal(f"[{','.join([fault] * 1_000)}]".encode(), form).problems

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

    assert "holds more than 2 values" in str(refusal(body, form))


@pytest.mark.parametrize("group", [True, False])
def test_more_instances_than_the_limit_are_refused(
    *, group: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "MAX_INSTANCES", 2)
    names = ["h:1", "h:2", "h:3"]
    listed = [{"targets": names}] if group else [{"url": f"http://{name}"} for name in names]

    (problem,) = refusal(json.dumps(listed).encode()).problems

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
    assert message in str(refusal(body.encode(), Format.YAML))


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
        read(body[: len(body) - n_cut], form)
