"""Amounts as people write them: `8GiB`, `1h30m`, `5%`.

In:   a text, or a number where no unit is needed.
Out:  bytes, seconds or a ratio; and back, as short as can be. Fails with ValueError. Pure.
"""

from __future__ import annotations

import re
from decimal import Decimal

BYTES_BY_UNIT = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
SECONDS_BY_UNIT = {"w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,400})?"
"""Of the smallest float, what is not zero begins at the 308th decimal."""
SIZE = re.compile(rf"({NUMBER}) ?({'|'.join(BYTES_BY_UNIT)})", re.ASCII)
DURATION_PART = re.compile(rf"({NUMBER})(ms|[wdhms])", re.ASCII)
DURATION = re.compile(rf"(?:{DURATION_PART.pattern})+", re.ASCII)
SHARE = re.compile(rf"({NUMBER}) ?%", re.ASCII)


def parse_size_bytes(given: object) -> int:
    """Return a size in bytes; the unit must be there."""
    found = SIZE.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise ValueError(f"must be a size such as 8GiB or 512MiB, got {given!r}")
    return round(Decimal(found[1]) * BYTES_BY_UNIT[found[2]])


def parse_duration_s(given: object) -> float:
    """Return a duration in seconds; only zero needs no unit."""
    if given in (0, "0") and not isinstance(given, bool):
        return 0.0
    if not isinstance(given, str) or not DURATION.fullmatch(given):
        raise ValueError(f"must be a duration such as 7d, 1h30m or 30s, got {given!r}")
    return sum(
        float(number) * SECONDS_BY_UNIT[unit] for number, unit in DURATION_PART.findall(given)
    )


def parse_share(given: object) -> float:
    """Return a share as a ratio, 0 to 1: of `5%`, or of 0.05."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        ratio = float(given)
    elif isinstance(given, str) and (found := SHARE.fullmatch(given)):
        ratio = float(found[1]) / 100
    else:
        raise ValueError(f"must be a share such as 5% or 0.05, got {given!r}")
    if not 0 <= ratio <= 1:
        raise ValueError(f"must be from 0% to 100%, got {given!r}")
    return ratio


def size_text(size_bytes: int) -> str:
    """Return a size in the largest unit that divides it: 8GiB, 1536MiB."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % BYTES_BY_UNIT[unit] == 0:
            return f"{size_bytes // BYTES_BY_UNIT[unit]}{unit}"
    return f"{size_bytes}B"


def duration_text(duration_s: float) -> str:
    """Return a duration in the largest unit that divides it: 7d, 90s, 250ms."""
    for unit in ("d", "h", "m", "s"):
        amount, rest = divmod(duration_s, SECONDS_BY_UNIT[unit])
        if amount and not rest:
            return f"{amount:.0f}{unit}"
    short = f"{1000 * duration_s:.12g}ms" if duration_s else "0s"
    return short if _is_read_as(duration_s, short) else f"{Decimal(repr(duration_s)):f}s"


def share_text(ratio: float) -> str | float:
    """Return a ratio as a share, 5%, or as it is where no short percentage is the same."""
    short = f"{100 * ratio:.9g}%"
    return short if SHARE.fullmatch(short) and parse_share(short) == ratio else ratio


def count_text(n: int, noun: str) -> str:
    """Return a number of things: 1 node, 1,200 nodes."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _is_read_as(duration_s: float, text: str) -> bool:
    return DURATION.fullmatch(text) is not None and parse_duration_s(text) == duration_s
