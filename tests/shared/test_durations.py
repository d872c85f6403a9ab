"""Durations: one grammar for every setting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_fleet.durations import duration_text, parse_duration_s, parse_positive_duration_s

SECONDS_BY_TEXT = {
    "500ms": 0.5,
    "1.5s": 1.5,
    "15s": 15.0,
    "0.5m": 30.0,
    "1h30m": 5400.0,
    "1h2m3s4ms": 3723.004,
    "7d": 604_800.0,
    "2w": 1_209_600.0,
    " 10s ": 10.0,
    "0": 0.0,
    "0s": 0.0,
}
REFUSED: tuple[object, ...] = (
    *("", " ", "7", "s", "1 s", "-1s", "10S", "1y", "1s1m", "1s2s", "10s,", "1e3s", "inf", "٣s"),
    *(7, 1.5, None, True, False, [], "9" * 400 + "h"),
)


def test_a_duration_is_numbers_with_units_the_longest_first() -> None:
    assert SECONDS_BY_TEXT == {text: parse_duration_s(text) for text in SECONDS_BY_TEXT}
    assert 0.0 == parse_duration_s(0)


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 7d, 1h30m, 15s or 500ms, got"):
        parse_duration_s(text)


def test_parts_of_a_millisecond_are_refused() -> None:
    with pytest.raises(ValueError, match="must be whole milliseconds"):
        parse_duration_s("1.0001s")


def test_a_positive_duration_is_longer_than_zero() -> None:
    assert 1.0 == parse_positive_duration_s("1s")
    with pytest.raises(ValueError, match="must be longer than 0, such as 7d"):
        parse_positive_duration_s("0h0s")


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_that_is_written_reads_the_same(duration_ms: int) -> None:
    assert duration_ms / 1000 == parse_duration_s(duration_text(duration_ms / 1000))


def test_a_duration_is_written_as_prometheus_writes_it() -> None:
    texts = {0.0: "0s", 0.15: "150ms", 90.0: "1m30s", 5400.0: "1h30m", 1_209_600.0: "14d"}

    assert texts == {duration_s: duration_text(duration_s) for duration_s in texts}
