"""Thresholds and durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.durations import duration_s, duration_text
from alerts.levels import Level, number, parse_level, parse_share, percent


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("15s", 15), ("2m", 120), ("1h30m", 5400), ("7d", 604_800), ("2w", 1_209_600)],
)
def test_a_duration_is_read_as_prometheus_writes_it(text: str, seconds: float) -> None:
    assert seconds == duration_s(text)


@pytest.mark.parametrize(
    "text", ["", "5", "5 m", "m5", "0s", "-5s", "1.5h", "5m5h", 300, None, True]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="such as 500ms, 15s, 1h30m or 7d"):
        duration_s(text)


@given(st.integers(min_value=1, max_value=10**11))
def test_a_duration_that_is_written_reads_the_same_again(milliseconds: int) -> None:
    seconds = milliseconds / 1000

    assert seconds == duration_s(duration_text(seconds))


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (9900, Level(9900.0)),
        ("9900", Level(9900.0)),
        ("0.5", Level(0.5)),
        ("99%", Level(0.99, is_per_instance=True)),
        ("99.5 %", Level(0.995, is_per_instance=True)),
        ("40 per instance", Level(40.0, is_per_instance=True)),
    ],
)
def test_a_level_is_a_number_a_share_or_so_much_per_instance(
    given_: object, expected: Level
) -> None:
    assert expected == parse_level(given_)


@pytest.mark.parametrize(
    "given_", ["", "0", "0%", -5, "-5", "1e3", "99percent", "per instance", True, None, "nan", []]
)
def test_what_is_no_level_is_refused(given_: object) -> None:
    with pytest.raises(ValueError, match="neither a number above 0, nor a share"):
        parse_level(given_)


@pytest.mark.parametrize("given_", ["0%", "101%", "0.5", 1, "", "%", None])
def test_what_is_no_share_is_refused(given_: object) -> None:
    with pytest.raises(ValueError, match="not a share above 0% and up to 100%"):
        parse_share(given_)


@pytest.mark.parametrize("text", ["99%", "0.5%", "40 per instance", "9900", "400000"])
def test_a_level_is_told_as_it_was_written(text: str) -> None:
    assert text == str(parse_level(text))


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("9900", "fleet:x:sum", "9900"),
        ("99%", "fleet:x:sum", "0.99 * fleet:x:sum"),
        ("40 per instance", "fleet:x:sum", "40 * fleet:x:sum"),
        ("99%", "10000", "9900"),
        ("40 per instance", "10000", "400000"),
    ],
)
def test_a_level_is_compared_with_the_fleets_size_or_stands_by_itself(
    text: str, size: str, expected: str
) -> None:
    assert expected == parse_level(text).promql(size)


def test_numbers_have_no_exponent_and_no_rest() -> None:
    assert ["400000000", "0.0144", "0.72", "0"] == [
        number(value) for value in (4e8, 14.4 * 0.001, 1 - 0.28, 0)
    ]
    assert "99.9%" == percent(0.999)
