"""Sizes, durations and shares as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.spec.amounts import (
    count_text,
    duration_text,
    parse_duration_s,
    parse_share,
    parse_size_bytes,
    share_text,
    size_text,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("8GiB", 8 * 2**30), ("512MiB", 2**29), ("1.5 kB", 1500), ("0B", 0), ("2TB", 2 * 10**12)],
)
def test_a_size_has_a_unit(text: str, size_bytes: int) -> None:
    assert size_bytes == parse_size_bytes(text)


@pytest.mark.parametrize(
    "given", ["8", 8, "8gib", "GiB", "-1GiB", "1e3MB", "8GiBs", None, "٣B", True]
)
def test_what_is_no_size_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="must be a size such as 8GiB or 512MiB, got "):
        parse_size_bytes(given)


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("7d", 604_800.0),
        ("30s", 30.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("0.5m", 30.0),
        ("2w", 1_209_600.0),
        (0, 0.0),
        ("0", 0.0),
    ],
)
def test_a_duration_has_units(text: object, duration_s: float) -> None:
    assert duration_s == parse_duration_s(text)


@pytest.mark.parametrize("given", ["7", 7, "", "d", "-1s", "1 s", "1y", None, False, 1.5, []])
def test_what_is_no_duration_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 7d"):
        parse_duration_s(given)


@pytest.mark.parametrize(("given", "ratio"), [("5%", 0.05), (0.05, 0.05), (1, 1.0), ("0%", 0.0)])
def test_a_share_is_a_percentage_or_a_ratio(given: object, ratio: float) -> None:
    assert pytest.approx(ratio) == parse_share(given)


@pytest.mark.parametrize("given", ["5", True, "101%", -0.1, 2, None])
def test_what_is_no_share_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"must be (a share such as 5% or 0\.05|from 0% to 100%)"):
        parse_share(given)


@given(st.integers(0, 2**50))
def test_a_size_that_is_written_is_read_as_it_was(size_bytes: int) -> None:
    assert size_bytes == parse_size_bytes(size_text(size_bytes))


@given(st.integers(0, 10**9))
def test_a_duration_that_is_written_is_read_as_it_was(duration_ms: int) -> None:
    text = duration_text(duration_ms / 1000)

    assert pytest.approx(duration_ms / 1000) == parse_duration_s(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(2**33, "8GiB"), (1536 * 2**20, "1536MiB"), (7, "7B"), (0, "0B")]
)
def test_a_size_is_written_in_the_largest_whole_unit(size_bytes: int, text: str) -> None:
    assert text == size_text(size_bytes)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (604_800, "7d"),
        (5400, "90m"),
        (90.0, "90s"),
        (0.25, "250ms"),
        (0, "0s"),
        (1.25e-07, "0.000125ms"),
    ],
)
def test_a_duration_is_written_in_the_largest_whole_unit(duration_s: float, text: str) -> None:
    assert text == duration_text(duration_s)


@given(st.floats(0.0, 3.2e8, exclude_min=True))
def test_any_duration_that_is_written_is_read_as_the_very_same(duration_s: float) -> None:
    assert duration_s == parse_duration_s(duration_text(duration_s))


def test_a_large_size_is_read_to_the_byte() -> None:
    assert 2**53 + 1 == parse_size_bytes(f"{2**53 + 1}B")


@pytest.mark.parametrize(
    ("ratio", "share"), [(0.05, "5%"), (0.07, "7%"), (1.0, "100%"), (0.0, "0%"), (1 / 3, 1 / 3)]
)
def test_a_share_is_written_as_a_percentage_where_it_is_one(ratio: float, share: object) -> None:
    assert share == share_text(ratio)


def test_a_share_that_no_short_percentage_is_is_written_as_it_is() -> None:
    assert 1e-12 == share_text(1e-12)


@pytest.mark.parametrize(("n", "text"), [(0, "0 nodes"), (1, "1 node"), (1200, "1,200 nodes")])
def test_a_number_of_things_is_written_with_their_name(n: int, text: str) -> None:
    assert text == count_text(n, "node")
