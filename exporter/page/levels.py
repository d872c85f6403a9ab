"""Levels that may grow with the fleet: `9900`, `99%` or `40 per instance`.

In:   the text of a setting.
Out:  a Level, which is a number once the number of instances is known.
The alerts' thresholds are written in the same way; a test holds the two to the same numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NUMBER = r"(\d{1,15}(?:\.\d{1,9})?)"
FORMS = (
    # pattern, divisor, whether it is for each instance
    (re.compile(NUMBER, re.ASCII), 1.0, False),
    (re.compile(rf"{NUMBER} ?%", re.ASCII), 100.0, True),
    (re.compile(rf"{NUMBER} per instance", re.ASCII), 1.0, True),
)


@dataclass(frozen=True, slots=True)
class Level:
    """A number, or a number for each instance."""

    value: float
    is_per_instance: bool = False

    def of(self, n_instances: int) -> float:
        """Return the level for so many instances."""
        return self.value * n_instances if self.is_per_instance else self.value


def level(text: str) -> Level:
    """Return the level that a text gives.

    Raises:
        ValueError: It is none, or is zero.
    """
    for pattern, divisor, is_per_instance in FORMS:
        match = pattern.fullmatch(text.strip())
        if match and float(match[1]) > 0:
            return Level(float(match[1]) / divisor, is_per_instance)
    raise ValueError(
        f"is neither a number above 0, nor a share such as 99%, nor `40 per instance`: {text!r}"
    )
