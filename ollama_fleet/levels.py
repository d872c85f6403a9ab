"""Shares such as `5%`, and levels of a fleet: `9900`, `99%`, `40 per instance`."""

from __future__ import annotations

import re
from dataclasses import dataclass

NUMBER = r"(\d{1,15}(?:\.\d{1,12})?)"
ABSOLUTE = re.compile(NUMBER, re.ASCII)
PERCENT = re.compile(rf"{NUMBER} ?%", re.ASCII)
PER_INSTANCE = re.compile(rf"{NUMBER} per instance", re.ASCII)
DECIMALS = 12


@dataclass(frozen=True, slots=True)
class Level:
    """A number, or a number for each instance of the fleet."""

    value: float
    is_per_instance: bool = False

    def of(self, n_instances: float) -> float:
        """Return the level for a fleet of a size."""
        return round(self.value * n_instances, DECIMALS) if self.is_per_instance else self.value

    def __str__(self) -> str:
        if not self.is_per_instance:
            return number(self.value)
        if self.value <= 1:
            return percent(self.value)
        return f"{number(self.value)} per instance"


def parse_level(given: object) -> Level:
    """Return the level that a setting gives.

    Raises:
        ValueError: It is not a level, or is zero.
    """
    text = "" if isinstance(given, bool) else str(given).strip()
    level = Level(0.0)
    if match := ABSOLUTE.fullmatch(text):
        level = Level(float(match[1]))
    elif match := PERCENT.fullmatch(text):
        level = Level(float(match[1]) / 100, is_per_instance=True)
    elif match := PER_INSTANCE.fullmatch(text):
        level = Level(float(match[1]), is_per_instance=True)
    if level.value <= 0:
        raise ValueError(
            f"must be a number above 0, a share such as 99%, or `40 per instance`, got {given!r}"
        )
    return level


def parse_count_level(given: object) -> Level:
    """Return a level of a number of instances: at most all of them.

    Raises:
        ValueError: It is not one.
    """
    level = parse_level(given)
    if level.is_per_instance and level.value > 1:
        raise ValueError(f"must be at most 100%, got {given!r}")
    return level


def parse_share(given: object) -> float:
    """Return the ratio, 0 to 1, of a share such as `5%`, or of the ratio itself.

    Raises:
        ValueError: It is neither.
    """
    ratio = -1.0
    if isinstance(given, int | float) and not isinstance(given, bool):
        ratio = float(given)
    elif isinstance(given, str) and (match := PERCENT.fullmatch(given.strip())):
        ratio = float(match[1]) / 100
    if not 0 <= ratio <= 1:
        raise ValueError(f"must be a share from 0% to 100%, got {given!r}")
    return round(ratio, DECIMALS)


def parse_positive_share(given: object) -> float:
    """Return the ratio of a share above zero.

    Raises:
        ValueError: It is not one.
    """
    ratio = parse_share(given)
    if not ratio:
        raise ValueError("must be above 0%, such as 99.9%")
    return ratio


def number(value: float) -> str:
    """Return a number as people write it: `9900`, `0.99`; never with an exponent."""
    return f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".") or "0"


def percent(ratio: float) -> str:
    """Return a ratio as a percentage: `99%`."""
    return f"{number(round(100 * ratio, DECIMALS))}%"
