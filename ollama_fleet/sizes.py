"""Sizes as people write them: `8GiB`, `512MiB`, `1.5kB`."""

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
SIZE = re.compile(rf"(\d{{1,19}}(?:\.\d{{1,9}})?) ?({'|'.join(BYTES_BY_UNIT)})", re.ASCII)


def parse_size_bytes(given: object) -> int:
    """Return a size in bytes, rounded; the unit is required.

    Raises:
        ValueError: It is not a size.
    """
    match = SIZE.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise ValueError(f"must be a size such as 8GiB or 512MiB, got {given!r}")
    return round(Decimal(match[1]) * BYTES_BY_UNIT[match[2]])


def size_text(size_bytes: int) -> str:
    """Return a size in the largest binary unit that divides it: `8GiB`, `1536MiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % BYTES_BY_UNIT[unit] == 0:
            return f"{size_bytes // BYTES_BY_UNIT[unit]}{unit}"
    return f"{size_bytes}B"
