from __future__ import annotations

import pytest

from exporter.page.levels import Level, level


@pytest.mark.parametrize(
    ("text", "expected", "of_200"),
    [
        ("9900", Level(9900.0), 9900.0),
        ("0.5", Level(0.5), 0.5),
        ("99%", Level(0.99, is_per_instance=True), 198.0),
        ("99.5 %", Level(0.995, is_per_instance=True), 199.0),
        ("40 per instance", Level(40.0, is_per_instance=True), 8000.0),
        (" 0.5 per instance ", Level(0.5, is_per_instance=True), 100.0),
    ],
)
def test_a_level_is_a_number_or_grows_with_the_fleet(
    text: str, expected: Level, of_200: float
) -> None:
    assert expected == level(text)
    assert of_200 == level(text).of(200)


@pytest.mark.parametrize(
    "text",
    ["", "0", "0%", "-1", "many", "1e3", "40 per node", "99%%", "per instance", "1_000", "٣"],
)
def test_what_is_no_level_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="a share such as 99%, nor `40 per instance`"):
        level(text)
