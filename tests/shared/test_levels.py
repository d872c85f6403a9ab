"""Thresholds and shares as people write them."""

from __future__ import annotations

import pytest

from ollama_fleet.levels import (
    Level,
    number,
    parse_count_level,
    parse_level,
    parse_positive_share,
    parse_share,
    percent,
)


def test_a_level_is_a_number_a_share_or_a_number_per_instance() -> None:
    levels = {
        9900: (Level(9900.0), 9900.0),
        "0.5": (Level(0.5), 0.5),
        "99%": (Level(0.99, is_per_instance=True), 198.0),
        "99.5 %": (Level(0.995, is_per_instance=True), 199.0),
        " 40 per instance ": (Level(40.0, is_per_instance=True), 8000.0),
    }

    assert levels == {given: (parse_level(given), parse_level(given).of(200)) for given in levels}


@pytest.mark.parametrize(
    "given",
    [
        "",
        "0",
        "0%",
        -5,
        "-5",
        "1e3",
        "99percent",
        "per instance",
        True,
        None,
        "nan",
        [],
        "1_0",
        "٣",
    ],
)
def test_what_is_not_a_level_is_refused_with_examples(given: object) -> None:
    with pytest.raises(ValueError, match="a share such as 99%, or `40 per instance`, got"):
        parse_level(given)


def test_a_number_of_instances_is_at_most_all_of_them() -> None:
    for good in ("100%", "99.5%", "9900", 12):
        assert parse_level(good) == parse_count_level(good)
    for bad in ("110%", "100.1%", "40 per instance"):
        with pytest.raises(ValueError, match=r"must be at most 100%, got"):
            parse_count_level(bad)


@pytest.mark.parametrize("text", ["99%", "0.5%", "40 per instance", "9900", "400000"])
def test_a_level_is_written_as_it_was_read(text: str) -> None:
    assert text == str(parse_level(text))


def test_a_share_is_a_percentage_or_a_ratio() -> None:
    shares = {"5%": 0.05, 0.05: 0.05, 1: 1.0, "0%": 0.0, "99.9 %": 0.999}

    assert shares == {given: parse_share(given) for given in shares}
    assert "99.9%" == percent(parse_positive_share("99.9%"))


@pytest.mark.parametrize("given", ["101%", "-1%", "5", 1.1, True, None, "", "%"])
def test_what_is_not_a_share_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="must be a share from 0% to 100%, got"):
        parse_share(given)


def test_a_positive_share_is_above_zero() -> None:
    with pytest.raises(ValueError, match="must be above 0%"):
        parse_positive_share("0%")


def test_numbers_have_no_exponent_and_no_trailing_zeros() -> None:
    assert ["400000000", "0.0144", "0.72", "0"] == [
        number(value) for value in (4e8, 14.4 * 0.001, 1 - 0.28, 0)
    ]
