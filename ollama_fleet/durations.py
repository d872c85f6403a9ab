"""Durations as Prometheus writes them: `500ms`, `1.5s`, `15s`, `1h30m`, `7d`, `2w`."""

from __future__ import annotations

import re
from decimal import Decimal

UNITS_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
"""Longest first, as they stand in a text."""
NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
DURATION = re.compile("".join(rf"(?:{NUMBER}{unit})?" for unit in UNITS_MS), re.ASCII)
EXAMPLES = "7d, 1h30m, 15s or 500ms"


def parse_duration_s(given: object) -> float:
    """Return the seconds of a text such as `1h30m`, exact to the millisecond; 0 needs no unit.

    Raises:
        ValueError: It is not a duration, or has parts of a millisecond.
    """
    text = given.strip() if isinstance(given, str) else ""
    if text == "0" or (given == 0 and not isinstance(given, bool)):
        return 0.0
    match = DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"must be a duration such as {EXAMPLES}, got {given!r}")
    counts = (Decimal(count or 0) for count in match.groups())
    total_ms = sum(n * unit_ms for n, unit_ms in zip(counts, UNITS_MS.values(), strict=True))
    if total_ms != int(total_ms):
        raise ValueError(f"must be whole milliseconds, got {given!r}")
    return int(total_ms) / 1000


def parse_positive_duration_s(given: object) -> float:
    """Return the seconds of a duration that is longer than zero.

    Raises:
        ValueError: It is not one.
    """
    duration_s = parse_duration_s(given)
    if not duration_s:
        raise ValueError(f"must be longer than 0, such as {EXAMPLES}")
    return duration_s


def duration_text(duration_s: float) -> str:
    """Return a duration, 0 or longer, largest units first, rounded to the millisecond.

    Weeks are written as days: `14d`.
    """
    rest_ms = round(1000 * duration_s)
    parts = []
    for unit, unit_ms in list(UNITS_MS.items())[1:]:
        count, rest_ms = divmod(rest_ms, unit_ms)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
