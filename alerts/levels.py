"""Thresholds that may grow with the fleet: `9900`, `99%` or `40 per instance`.

In:   texts or numbers of settings.
Out:  Levels, which become PromQL beside an expression for the fleet's size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

NUMBER = r"(\d{1,15}(?:\.\d{1,9})?)"
ABSOLUTE = re.compile(NUMBER)
PERCENT = re.compile(rf"{NUMBER} ?%")
PER_INSTANCE = re.compile(rf"{NUMBER} per instance")
PERCENT_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Level:
    """A number, or a number for each instance of the fleet."""

    value: float
    is_per_instance: bool = False

    def promql(self, size: str) -> str:
        """Return the level as PromQL; `size` is a number or an expression for the fleet's size."""
        if not self.is_per_instance:
            return number(self.value)
        if ABSOLUTE.fullmatch(size):
            return number(round(self.value * float(size), PERCENT_DIGITS))
        return f"{number(self.value)} * {size}"

    def __str__(self) -> str:
        if not self.is_per_instance:
            return number(self.value)
        return percent(self.value) if self.value <= 1 else f"{number(self.value)} per instance"


def number(value: float) -> str:
    """Return a number as PromQL and people write it: `9900`, `0.99`; never with an exponent."""
    text = f"{value:.12f}".rstrip("0").rstrip(".")
    return text or "0"


def percent(ratio: float) -> str:
    """Return a ratio as per cent: `99%`."""
    return f"{number(round(100 * ratio, PERCENT_DIGITS))}%"


def parse_level(given: object) -> Level:
    """Return the level that a setting gives.

    Raises:
        ValueError: It is none, or is zero.
    """
    text = str(given).strip()
    if isinstance(given, bool):
        text = ""
    level = Level(0.0)
    if match := ABSOLUTE.fullmatch(text):
        level = Level(float(match[1]))
    elif match := PERCENT.fullmatch(text):
        level = Level(float(match[1]) / 100, is_per_instance=True)
    elif match := PER_INSTANCE.fullmatch(text):
        level = Level(float(match[1]), is_per_instance=True)
    if level.value <= 0:
        raise ValueError(
            "is neither a number above 0, nor a share such as 99%, nor `40 per instance`"
        )
    return level


def parse_share(given: object) -> float:
    """Return the ratio, above 0 and at most 1, of a text such as `99.9%`.

    Raises:
        ValueError: It is not written so, or is out of bounds.
    """
    match = PERCENT.fullmatch(str(given).strip())
    ratio = float(match[1]) / 100 if match else 0.0
    if not 0 < ratio <= 1:
        raise ValueError("is not a share above 0% and up to 100%, such as 99.9%")
    return round(ratio, PERCENT_DIGITS)


LevelSetting = Annotated[Level, BeforeValidator(parse_level), PlainSerializer(str)]
Share = Annotated[float, BeforeValidator(parse_share), PlainSerializer(percent)]
