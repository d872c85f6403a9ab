"""Many nodes written as one: `rack1-n{01..12}`.

In:   texts with at most one range in braces, or a count.
Out:  the texts that they stand for. Fails with ValueError. Pure.
"""

from __future__ import annotations

import re

RANGE = re.compile(r"\{([0-9]{1,6})\.\.([0-9]{1,6})\}", re.ASCII)
MAX_NODES = 10_000


def names_of(text: str, count: int | None) -> tuple[str, ...]:
    """Return the names that a name, with a range or beside a count, stands for."""
    if count is None:
        return expanded(text)
    if RANGE.search(text):
        raise ValueError("holds a range beside a count; give one or the other")
    if not 1 <= count <= MAX_NODES:
        raise ValueError(f"count must be from 1 to {MAX_NODES:,}, got {count:,}")
    width = len(str(count))
    return tuple(f"{text}-{number:0{width}}" for number in range(1, count + 1))


def expanded(text: str) -> tuple[str, ...]:
    """Return a text for each number of its range; zeros in front keep the width."""
    found = RANGE.search(text)
    if found is None:
        return (text,)
    if RANGE.search(text, found.end()):
        raise ValueError(f"holds more than one range: {text}")
    first, last = int(found[1]), int(found[2])
    if not first <= last < first + MAX_NODES:
        raise ValueError(f"range {found[0]} must ascend, and hold at most {MAX_NODES:,} numbers")
    width = len(found[1])
    before, after = text[: found.start()], text[found.end() :]
    return tuple(f"{before}{number:0{width}}{after}" for number in range(first, last + 1))


def aligned(text: str, n: int) -> tuple[str, ...]:
    """Return n texts: those of a range, which has to have n numbers, or n times the same."""
    texts = expanded(text)
    if RANGE.search(text) is None:
        return texts * n
    if len(texts) != n:
        raise ValueError(f"range stands for {len(texts):,} texts, the name for {n:,} nodes: {text}")
    return texts
