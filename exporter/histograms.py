"""Check, subtract and merge histograms of any boundaries, and bound their quantiles."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from exporter.model import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Boundaries = tuple[float, ...]

MAX_BUCKETS: Final = 64
"""Maximum number of buckets of one histogram; servers have up to 41."""
MAX_BOUNDARY_CHARACTERS: Final = 32
MAX_UNION: Final = 96
"""Boundaries of a merged histogram; all engines together have 90. A histogram that would add more
is merged onto those that are there."""
MAX_LAYOUTS: Final = 16
"""Layouts of boundaries that are kept apart for the bounds of a quantile; others do not count."""


@lru_cache(maxsize=256)
def boundaries_of(les: tuple[str, ...] | tuple[bytes, ...]) -> Boundaries:
    """Return the boundaries below +Inf: the same object for the same texts.

    Raises:
        ValueError: They are too many, no numbers, not in order, or +Inf is not the last.
    """
    if len(les) > MAX_BUCKETS:
        raise ValueError(f"has more than {MAX_BUCKETS} buckets")
    boundaries = [float(le) for le in les]
    if not boundaries or boundaries[-1] != float("inf"):
        raise ValueError("lacks the bucket +Inf")
    if len(boundaries) == 1:
        raise ValueError("has no bucket but +Inf")
    if boundaries[0] < 0 or not all(low < high for low, high in pairwise(boundaries)):
        raise ValueError("has buckets that are not in order")
    return tuple(boundaries[:-1])


def gained(before: Histogram | None, now: Histogram) -> Histogram | None:
    """Return what a histogram gained since it was last reported; None where that is nothing.

    Zeros if it was not reported before, or had other boundaries: then the gain is unknown.
    """
    if before is None or before.boundaries_s != now.boundaries_s:
        return Histogram((0.0,) * len(now.cumulative), 0.0, now.boundaries_s)
    if now.cumulative == before.cumulative and now.sum_s == before.sum_s:
        return None
    counts = tuple([n - m for n, m in zip(now.cumulative, before.cumulative, strict=True)])
    gained_s = now.sum_s - before.sum_s
    # While the server runs, no bucket can lose requests: else it has restarted.
    if gained_s < 0 or any(lower > upper for lower, upper in pairwise((0.0, *counts))):
        return now
    return Histogram(counts, gained_s, now.boundaries_s) if counts[-1] else None


def onto(histogram: Histogram, boundaries_s: Boundaries) -> Histogram:
    """Return the histogram over other boundaries.

    At each it counts what is surely at or below it: the requests up to the histogram's own largest
    boundary that is not above. So a quantile is never taken for less than it is.
    """
    if histogram.boundaries_s == boundaries_s:
        return histogram
    counts = (0.0, *histogram.cumulative)
    positions = _positions(histogram.boundaries_s, boundaries_s)
    cumulative = (*[counts[position] for position in positions], counts[-1])
    return Histogram(cumulative, histogram.sum_s, boundaries_s)


@lru_cache(maxsize=256)
def _positions(own_s: Boundaries, others_s: Boundaries) -> tuple[int, ...]:
    """Return for each of the others how many of its own boundaries are not above it."""
    return tuple([bisect_right(own_s, boundary) for boundary in others_s])


def _sum(one: Histogram, other: Histogram) -> Histogram:
    """Add histograms of the same boundaries."""
    cumulative = tuple([n + m for n, m in zip(one.cumulative, other.cumulative, strict=True)])
    return Histogram(cumulative, one.sum_s + other.sum_s, one.boundaries_s)


class MergedHistograms:
    """Totals by model, over the union of the boundaries that were added so far.

    Histograms with these boundaries are added up exactly, others as `onto` says. That is the same
    whether the union was there before them or grew later.
    """

    def __init__(self) -> None:
        self.by_model: dict[str, Histogram] = {}
        self.boundaries_s: Boundaries = ()
        self.by_layout: dict[Boundaries, Histogram] = {}
        """The sum over all models by the boundaries that the instances have."""

    def add(self, model: str, histogram: Histogram) -> None:
        """Add what an instance gained."""
        self._note_layout(histogram)
        if histogram.boundaries_s != self.boundaries_s:
            self._grow(histogram.boundaries_s)
            histogram = onto(histogram, self.boundaries_s)
        known = self.by_model.get(model)
        self.by_model[model] = histogram if known is None else _sum(known, histogram)

    def total(self) -> Histogram:
        """Return the sum over all models."""
        total = Histogram((0.0,) * (len(self.boundaries_s) + 1), 0.0, self.boundaries_s)
        for histogram in self.by_model.values():
            total = _sum(total, histogram)
        return total

    def _grow(self, boundaries_s: Boundaries) -> None:
        union_s = tuple(sorted({*self.boundaries_s, *boundaries_s}))
        if len(self.boundaries_s) < len(union_s) <= MAX_UNION:
            self.boundaries_s = union_s
            self.by_model = {
                model: onto(histogram, union_s) for model, histogram in self.by_model.items()
            }

    def _note_layout(self, histogram: Histogram) -> None:
        known = self.by_layout.get(histogram.boundaries_s)
        if known is not None:
            self.by_layout[histogram.boundaries_s] = _sum(known, histogram)
        elif len(self.by_layout) < MAX_LAYOUTS:
            self.by_layout[histogram.boundaries_s] = histogram


BOUNDS_SAMPLE_S: Final = 60.0
BOUNDS_SAMPLES: Final = 6
"""The oldest of them is five to six minutes old."""


class RecentBounds:
    """The bounds of a quantile over the last five minutes, whatever the boundaries are."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[Boundaries, Histogram]]] = deque(
            maxlen=BOUNDS_SAMPLES
        )

    def update(
        self, q: float, by_layout: Mapping[Boundaries, Histogram], now_s: float
    ) -> tuple[float, float | None] | None:
        """Take in the totals as they are now; return the bounds of the recent q-quantile."""
        if not self._samples or now_s - self._samples[-1][0] >= BOUNDS_SAMPLE_S:
            self._samples.append((now_s, dict(by_layout)))
        before = self._samples[0][1]
        changes = [
            gained(before[boundaries_s], now) if boundaries_s in before else now
            for boundaries_s, now in by_layout.items()
        ]
        return quantile_bounds(q, [change for change in changes if change is not None])


def quantile_bounds(q: float, histograms: Sequence[Histogram]) -> tuple[float, float | None] | None:
    """Return the boundaries between which the q-quantile of all requests lies, in seconds.

    The upper one is None if the quantile may be above all boundaries. None: there are no requests.
    """
    rank = q * sum([histogram.cumulative[-1] for histogram in histograms])
    if not rank:
        return None
    lower_s = 0.0
    for boundary in sorted({edge for one in histograms for edge in one.boundaries_s}):
        if sum([_surely(one, boundary) for one in histograms]) >= rank:
            return lower_s, boundary
        if sum([_at_most(one, boundary) for one in histograms]) < rank:
            lower_s = boundary
    return lower_s, None


def _surely(histogram: Histogram, boundary: float) -> float:
    """Return how many requests are surely at or below a boundary of any histogram."""
    return (0.0, *histogram.cumulative)[bisect_right(histogram.boundaries_s, boundary)]


def _at_most(histogram: Histogram, boundary: float) -> float:
    """Return how many requests may be at or below it."""
    return histogram.cumulative[bisect_left(histogram.boundaries_s, boundary)]
