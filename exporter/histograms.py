"""Boundaries of histograms, read from what servers write."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Final

MAX_BUCKETS: Final = 128
MAX_BOUNDARY_CHARACTERS: Final = 32


@lru_cache(maxsize=256)
def boundaries_of(les: tuple[str, ...] | tuple[bytes, ...]) -> tuple[float, ...]:
    """Return the boundaries below +Inf: the same object for the same texts.

    Raises:
        ValueError: They are too many, no numbers, not in order, or +Inf is not the last.
    """
    if len(les) > MAX_BUCKETS:
        raise ValueError(f"has more than {MAX_BUCKETS} buckets")
    boundaries = [float(le) for le in les]
    if not boundaries or boundaries[-1] != float("inf"):
        raise ValueError("lacks the bucket +Inf")
    if boundaries[0] < 0 or not all(low < high for low, high in pairwise(boundaries)):
        raise ValueError("has buckets that are not in order")
    return tuple(boundaries[:-1])
