"""Sizes with units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_fleet.sizes import parse_size_bytes, size_text


def test_a_size_is_a_number_with_a_unit() -> None:
    sizes = {"8GiB": 2**33, "512MiB": 2**29, "1.5 kB": 1500, "0B": 0, "2TB": 2 * 10**12}

    assert sizes == {text: parse_size_bytes(text) for text in sizes}


@pytest.mark.parametrize(
    "text", ["8", 8, "8gib", "GiB", "-1GiB", "1e3MB", "8GiBs", None, "٣B", True]
)
def test_anything_else_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ValueError, match="must be a size such as 8GiB or 512MiB, got "):
        parse_size_bytes(text)


@given(st.integers(min_value=0, max_value=2**60))
def test_a_size_that_is_written_reads_the_same(size_bytes: int) -> None:
    assert size_bytes == parse_size_bytes(size_text(size_bytes))


def test_a_size_is_written_in_the_largest_unit_that_divides_it() -> None:
    sizes = {2**33: "8GiB", 1536 * 2**20: "1536MiB", 1000: "1000B", 0: "0B"}

    assert sizes == {size_bytes: size_text(size_bytes) for size_bytes in sizes}
