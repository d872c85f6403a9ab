"""Durations as Prometheus writes them: `500ms`, `15s`, `2m`, `1h30m`, `7d`, `2w`.

In:   texts of settings.
Out:  seconds as floats inside the program, texts again in what it writes.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

UNITS_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
DURATION = re.compile(
    "".join(rf"(?:(\d{{1,9}}){unit}(?!s))?" for unit in "wdhm") + r"(?:(\d{1,9})s)?(?:(\d{1,9})ms)?"
)
EXAMPLES = "500ms, 15s, 1h30m or 7d"


def duration_s(text: object) -> float:
    """Return the seconds of a text such as `1h30m`.

    Raises:
        ValueError: It is not written so, or is zero.
    """
    if not isinstance(text, str) or not (match := DURATION.fullmatch(text.strip())):
        raise ValueError(f"is not a duration such as {EXAMPLES}")
    counts = (int(count or 0) for count in match.groups())
    total_ms = sum(n * unit_ms for n, unit_ms in zip(counts, UNITS_MS.values(), strict=True))
    if total_ms <= 0:
        raise ValueError(f"must be longer than nothing, such as {EXAMPLES}")
    return total_ms / 1000


def duration_text(seconds: float) -> str:
    """Return seconds as Prometheus writes them, largest units first; `0s` for nothing.

    Weeks are written as days and what is not whole to the millisecond is rounded: Prometheus knows
    no smaller unit.
    """
    rest_ms = round(seconds * 1000)
    parts = []
    for unit, unit_ms in list(UNITS_MS.items())[1:]:
        count, rest_ms = divmod(rest_ms, unit_ms)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


Duration = Annotated[float, BeforeValidator(duration_s), PlainSerializer(duration_text)]
"""A setting that is written as a duration, and is seconds in the program."""
