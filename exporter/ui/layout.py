"""Which cells the map has, in which order, and which of them can be compared."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from exporter.instances import engine_of
from exporter.steps import sorted_in_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Sequence

    from exporter.model import Target
    from exporter.snapshot import Row

    Numbers = array[int]


Key = TypeVar("Key", bound="Hashable")

STEP_ROWS = 500
"""Rows per step: about a millisecond."""


@dataclass(frozen=True, slots=True)
class Described:
    """What decides about the layout, in the order of the rows: known again without a close look."""

    targets: list[Target]
    models: list[str]
    engines: list[str]

    def lists(self, rows: Sequence[Row], first: int) -> bool:
        """Return whether the inventory says the same of some rows, the first at `first`."""
        # Mostly these are the very same objects, which a list sees at once.
        return [row.target for row in rows] == self.targets[first : first + len(rows)]

    def holds(self, rows: Sequence[Row], first: int) -> bool:
        """Return whether some rows, the first of them at `first`, are described as they were."""
        last = first + len(rows)
        return (
            self.lists(rows, first)
            and [row.counters.model for row in rows] == self.models[first:last]
            and [engine_of(row) for row in rows] == self.engines[first:last]
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """The cells, sorted by node and then by id; all sequences are as long as there are cells."""

    name: str
    """Another one for each layout and each process."""
    ids: tuple[str, ...]
    nodes: tuple[str, ...]
    """Sorted."""
    models: tuple[str, ...]
    developers: tuple[str, ...]
    node: Numbers
    """Index into `nodes`, by cell; the next two likewise."""
    model: Numbers
    developer: Numbers
    peers: Numbers
    """Number of the group of cells with the same model and engine, by cell."""
    n_groups: int
    cell: Numbers
    """The cell of each row."""
    described: Described

    def is_like(self, other: Layout) -> bool:
        """Return whether the map would have the same cells."""
        return (
            self.ids == other.ids
            and (self.nodes, self.models, self.developers)
            == (other.nodes, other.models, other.developers)
            and self.node == other.node
            and self.model == other.model
            and self.developer == other.developer
            and self.peers == other.peers
        )


class Codes:
    """Numbers texts in the order in which they come."""

    def __init__(self) -> None:
        self._codes: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def code(self, key: Hashable) -> int:
        """Return the number of a key, which is the next one where it is new."""
        return self._codes.setdefault(key, len(self._codes))

    def texts(self) -> tuple[str, ...]:
        """Return the texts by their numbers."""
        return tuple(str(key) for key in self._codes)


def next_layout(
    rows: Sequence[Row],
    before: Layout | None,
    new_name: Callable[[], str],
    *,
    is_held: bool = False,
) -> Generator[None, None, Layout]:
    """Return the layout of some rows, which is the one before where nothing changed.

    One that is held stays until the inventory says something else, whatever instances say.
    """
    if before is not None and (yield from _is_described(rows, before, is_held=is_held)):
        return before
    layout = yield from _layout(rows, new_name)
    if before is not None and layout.is_like(before):
        # Only what is not drawn has changed, such as an address: the cells stay where they are.
        return replace(layout, name=before.name)
    return layout


def _is_described(
    rows: Sequence[Row], before: Layout, *, is_held: bool
) -> Generator[None, None, bool]:
    if len(rows) != len(before.ids):
        return False
    is_same = before.described.lists if is_held else before.described.holds
    for first in range(0, len(rows), STEP_ROWS):
        if not is_same(rows[first : first + STEP_ROWS], first):
            return False
        yield
    return True


def _layout(rows: Sequence[Row], new_name: Callable[[], str]) -> Generator[None, None, Layout]:
    nodes, order = yield from _order(rows)
    code_by_node = {node: code for code, node in enumerate(nodes)}
    models, developers, groups = Codes(), Codes(), Codes()
    ids: list[str] = []
    node, model, developer, peers = array("I"), array("I"), array("I"), array("I")
    cell = array("I", bytes(4 * len(rows)))
    for first in range(0, len(rows), STEP_ROWS):
        for place in range(first, min(first + STEP_ROWS, len(rows))):
            row = rows[order[place]]
            target = row.target
            cell[order[place]] = place
            ids.append(target.id)
            node.append(code_by_node[target.node])
            model.append(models.code(row.counters.model))
            developer.append(developers.code(target.developer))
            peers.append(groups.code((row.counters.model, engine_of(row))))
        yield
    described = yield from _described(rows)
    return Layout(
        new_name(), tuple(ids), tuple(nodes), models.texts(), developers.texts(),
        node, model, developer, peers, len(groups), cell, described,
    )  # fmt: skip


def _order(rows: Sequence[Row]) -> Generator[None, None, tuple[list[str], Numbers]]:
    """Return the nodes, sorted, and the rows in the order of their cells."""
    rows_by_node: dict[str, Numbers] = {}
    for first in range(0, len(rows), STEP_ROWS):
        for index, row in enumerate(rows[first : first + STEP_ROWS], first):
            rows_by_node.setdefault(row.target.node, array("I")).append(index)
        yield
    nodes = yield from sorted_in_steps(rows_by_node)
    order = array("I")
    for count, node in enumerate(nodes, 1):
        order.extend(rows_by_node[node])
        if count % STEP_ROWS == 0:
            yield
    return nodes, order


def _described(rows: Sequence[Row]) -> Generator[None, None, Described]:
    described = Described([], [], [])
    for first in range(0, len(rows), STEP_ROWS):
        some = rows[first : first + STEP_ROWS]
        described.targets.extend([row.target for row in some])
        described.models.extend([row.counters.model for row in some])
        described.engines.extend([engine_of(row) for row in some])
        yield
    return described
