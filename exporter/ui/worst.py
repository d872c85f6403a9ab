"""Which instances are the worst, those of one node that suffer from the same folded into one."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from exporter.model import Condition, Status
from exporter.ui.cells import STATUS_CODES, UNKNOWN, Value
from exporter.ui.layout import STEP_ROWS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from exporter.instances import Filter
    from exporter.scrape_target import ScrapeTarget
    from exporter.snapshot import Row
    from exporter.ui.cells import Column

    Ranked = tuple[int, str, int]
    """Rank, instance id and value: the lower, the worse."""


N_WORST = 50
WORST_STATUSES = (
    Status.UNREACHABLE,
    Status.UNHEALTHY,
    Status.LOADING,
    Status.UNKNOWN,
    Status.STARTING,
    Status.AWAY,
    Status.DRAINING,
    Status.PROVISIONING,
)
"""Healthy ones come after these, and only where they have a condition."""
WORST_CONDITIONS = (
    Condition.STALLED,
    Condition.NOT_SERVING,
    Condition.MODEL_NOT_INSTALLED,
    Condition.MODEL_NOT_LOADED,
    Condition.NOTHING_LOADED,
    Condition.FLAPPING,
    Condition.ON_CPU,
    Condition.KV_CACHE_FULL,
)


WORST: tuple[Status | Condition, ...] = (*WORST_STATUSES, *WORST_CONDITIONS)
"""By rank."""
FOLDED = 3
"""Instances of a node with the same rank: from this number on they are one line."""


class Group(msgspec.Struct, frozen=True):
    """Instances of a node that suffer from the same."""

    node: str
    what: str
    """A status or a condition."""
    is_condition: bool
    n: int


@dataclass(frozen=True, slots=True)
class Worst:
    """The worst of the instances that a filter takes."""

    n_matching: int
    n_ranked: int
    """Those that would stand in a list of any length."""
    found: list[tuple[ScrapeTarget, int]]
    """With their values, the worst first."""
    groups: list[Group]
    """Of those that are not in `found`; the worst first."""


def worst(
    ids: Sequence[str],
    scrape_targets: Mapping[str, ScrapeTarget],
    wanted: Filter,
    value: Value | None,
    column: Column,
) -> Generator[None, None, Worst]:
    """Return how many instances a filter takes, and the worst of them with their values.

    `ids` and `column` go together, cell by cell; without a value, the status ranks, and instances
    are folded unless the filter is for one node.
    """
    n_matching = n_ranked = 0
    by_place: Counter[tuple[int, str]] = Counter()
    found: list[Ranked] = []
    for first in range(0, len(ids), STEP_ROWS):
        taken = _taken(ids, scrape_targets, wanted, column, first)
        n_matching += len(taken)
        ranked = list(_ranked(taken, value))
        n_ranked += len(ranked)
        if value is None and wanted.node is None:
            by_place.update(
                [(rank, scrape_targets[id_].row.target.node) for rank, id_, _ in ranked]
            )
            found.extend(ranked)
        else:
            found = heapq.nsmallest(N_WORST, [*found, *ranked])
        yield
    folded = {place: n for place, n in by_place.items() if n >= FOLDED}
    singles: list[Ranked] = []
    for first in range(0, len(found), STEP_ROWS):
        some = found[first : first + STEP_ROWS]
        single = [one for one in some if _place(one, scrape_targets) not in folded]
        singles = heapq.nsmallest(N_WORST, [*singles, *single])
        yield
    there = [(scrape_targets[id_], number) for _, id_, number in singles if id_ in scrape_targets]
    return Worst(n_matching, n_ranked, there, _groups(folded))


def _taken(
    ids: Sequence[str],
    scrape_targets: Mapping[str, ScrapeTarget],
    wanted: Filter,
    column: Column,
    first: int,
) -> list[tuple[Row, int]]:
    # An instance may have gone since the column was made.
    seen = [
        (scrape_target.row, column[cell])
        for cell in range(first, min(first + STEP_ROWS, len(ids)))
        if (scrape_target := scrape_targets.get(ids[cell]))
    ]
    return [(row, number) for row, number in seen if wanted.takes(row)]


def _place(one: Ranked, scrape_targets: Mapping[str, ScrapeTarget]) -> tuple[int, str] | None:
    scrape_target = scrape_targets.get(one[1])
    return None if scrape_target is None else (one[0], scrape_target.row.target.node)


def _groups(folded: Mapping[tuple[int, str], int]) -> list[Group]:
    worst_first = heapq.nsmallest(
        N_WORST, folded.items(), key=lambda item: (item[0][0], -item[1], item[0][1])
    )
    return [
        Group(node, WORST[rank], rank >= len(WORST_STATUSES), n) for (rank, node), n in worst_first
    ]


def _ranked(taken: Sequence[tuple[Row, int]], value: Value | None) -> Iterator[Ranked]:
    for row, number in taken:
        if value is None:
            if row.status is not Status.HEALTHY:
                rank = WORST_STATUSES.index(row.status)
                yield rank, row.target.id, STATUS_CODES[row.status]
            elif row.conditions:
                place = min([WORST_CONDITIONS.index(condition) for condition in row.conditions])
                yield len(WORST_STATUSES) + place, row.target.id, STATUS_CODES[row.status]
        elif number != UNKNOWN:
            yield (number if value is Value.SPEED else -number), row.target.id, number
