"""Find the instances that somebody should look at first.

In:   the instances as they are now, a filter, and the column that they are ranked by.
Out:  the worst few. Pure; in steps, so that the event loop turns in between.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.model import Status
from exporter.page.cells import STATUS_CODES, UNKNOWN, Value
from exporter.page.layout import STEP_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from exporter.instances import Filter
    from exporter.page.cells import Column
    from exporter.scrape_target import Watch
    from exporter.snapshot import Row

    Rank = Callable[[Row, int], int | None]
    Ranked = tuple[int, str, int]
    """Rank, instance id and value: the lower, the worse."""

N_WORST = 50
WORST_STATUSES = (
    Status.UNREACHABLE,
    Status.UNHEALTHY,
    Status.LOADING,
    Status.UNKNOWN,
    Status.DRAINING,
    Status.PROVISIONING,
)
"""Healthy ones are never among the worst."""


@dataclass(frozen=True, slots=True)
class Worst:
    """The worst of the instances that a filter takes."""

    n_matching: int
    n_ranked: int
    """Those that would stand in a list of any length."""
    found: list[tuple[Watch, int]]
    """With their values, the worst first."""


def worst(
    ids: Sequence[str],
    watches: Mapping[str, Watch],
    wanted: Filter,
    value: Value | None,
    column: Column,
) -> Generator[None, None, Worst]:
    """Return how many instances a filter takes, and the worst of them with their values.

    `ids` and `column` go together, cell by cell; without a value, the status ranks.
    """
    n_matching = n_ranked = 0
    found: list[Ranked] = []
    for first in range(0, len(ids), STEP_ROWS):
        some = range(first, min(first + STEP_ROWS, len(ids)))
        # An instance may have gone since the column was made.
        seen = [(watch.row, column[cell]) for cell in some if (watch := watches.get(ids[cell]))]
        taken = [(row, number) for row, number in seen if wanted.takes(row)]
        n_matching += len(taken)
        ranked = list(_ranked(taken, value))
        n_ranked += len(ranked)
        found = heapq.nsmallest(N_WORST, [*found, *ranked])
        yield
    there = [
        (watches[instance_id], number) for _, instance_id, number in found if instance_id in watches
    ]
    return Worst(n_matching, n_ranked, there)


def _ranked(taken: Sequence[tuple[Row, int]], value: Value | None) -> Iterator[Ranked]:
    for row, number in taken:
        if value is None:
            if row.status is not Status.HEALTHY:
                rank = WORST_STATUSES.index(row.status)
                yield rank, row.target.id, STATUS_CODES[row.status]
        elif number != UNKNOWN:
            yield (number if value is Value.SPEED else -number), row.target.id, number
