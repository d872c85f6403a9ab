"""YAML documents with the line of each value."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ollama_fleet import yaml_lines
from ollama_fleet.problems import Problem
from ollama_fleet.yaml_lines import InvalidDocumentError

FLEET = b"""\
fleet: demo
pools:
  - name: a
    count: 3
  - {name: b,
     count: 4}
"""


def refusal(text: bytes) -> str:
    with pytest.raises(InvalidDocumentError) as caught:
        yaml_lines.parse(text, "f")
    return str(caught.value.problem)


def test_each_value_has_its_line() -> None:
    document = yaml_lines.parse(FLEET, "f")

    assert {
        "fleet": "demo",
        "pools": [{"name": "a", "count": 3}, {"name": "b", "count": 4}],
    } == document.content
    assert ["f:1: fleet", "f:5: pools[1]", "f:6: pools[1].count"] == [
        document.place(path) for path in (("fleet",), ("pools", 1), ("pools", 1, "count"))
    ]


def test_a_value_that_is_missing_has_the_line_of_what_is_around_it() -> None:
    document = yaml_lines.parse(FLEET, "f")

    assert "f:3: pools[0].health.path" == document.place(("pools", 0, "health", "path"))
    assert "f: colour" == document.place(("colour",))
    assert "f" == document.place(())


def test_an_empty_text_is_a_document_without_content() -> None:
    assert yaml_lines.parse(b"# nothing\n", "f").content is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a: [b", "f:2: is not valid YAML at column 1: while parsing a flow sequence, did not "),
        (b"log:\n  a: b: c", "f:2: is not valid YAML at column 7: mapping values are not allowed"),
        (b"\tpoll: 1", "f:1: is not valid YAML at column 1: "),
        (b"? [a]\n: b", "f:1: is not valid YAML at column 3: "),
        ("a: é\nb: \x01".encode(), "f:2: is not valid YAML at column 4: "),
        (b"a: !secret b", "f:1: is not valid YAML at column 4: could not determine a constructor"),
        (b"{}\n---\n{}", "f:2: is not valid YAML"),
        (b"a: 1\nb: \xff\xfe", "f:2: is not UTF-8: invalid start byte at byte 8"),
        (b"a: 2026-13-01", "f: holds a value that cannot be: month must be in 1..12"),
        (b"a:\n  b: 1\n  b: 2", "f:3: sets a.b again"),
        (b"a: &a [x]\nb: *a", "f:2: uses aliases"),
        (b"a:\n " + b"[" * 100_000, "f:2: is nested too deeply"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(text: bytes, expected: str) -> None:
    problem = refusal(text)

    assert expected == problem[: len(expected)]
    assert "\n" not in problem


def test_a_fault_alone_does_not_quote_the_text() -> None:
    with pytest.raises(InvalidDocumentError) as caught:
        yaml_lines.parse(b"password: *secret", "f")

    assert "secret" not in caught.value.fault


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_not_a_regular_file_is_not_read(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    """A pipe that nobody writes to would be read for ever."""
    path = tmp_path / "fleet.yml"
    make(path)

    assert Problem(str(path), "cannot be read: it is not a regular file") == problem_of(path)


def test_a_file_that_is_missing_or_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text("a: 1234567")

    assert Problem(str(path), "is larger than 9 bytes") == problem_of(path)
    path.unlink()
    assert Problem(str(path), "does not exist") == problem_of(path)


def problem_of(path: Path) -> Problem:
    with pytest.raises(InvalidDocumentError) as caught:
        yaml_lines.read(path, max_bytes=9)
    return caught.value.problem
