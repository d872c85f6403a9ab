from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from exporter.model import Outcome, State
from exporter.snapshot import Row
from exporter.ui.layout import Layout, next_layout
from tests.exporter.ui.building import cell, run


def layout_of(*rows: Row, before: Layout | None = None) -> Layout:
    """Settle rows; a new layout is named anew."""
    numbers = count(1 if before is None else 1 + int(before.name))
    layout: Layout = run(
        next_layout(sorted(rows, key=lambda row: row.target.id), before, lambda: str(next(numbers)))
    )
    return layout


def drawn(layout: Layout) -> list[tuple[str, str, str, str]]:
    """Return id, node, model and developer of each cell."""
    return [
        (id_, layout.nodes[node], layout.models[model], layout.developers[developer])
        for id_, node, model, developer in zip(
            layout.ids, layout.node, layout.model, layout.developer, strict=True
        )
    ]


def test_cells_are_sorted_by_node_and_then_by_id() -> None:
    layout = layout_of(
        cell("a", node="n2", model="m1"),
        cell("b", node="n10", model="m2", developer="ada"),
        cell("c", node="n2", model="m2"),
        cell("d", node="n1", model="m1"),
    )

    assert [
        ("d", "n1", "m1", ""),
        ("b", "n10", "m2", "ada"),
        ("a", "n2", "m1", ""),
        ("c", "n2", "m2", ""),
    ] == drawn(layout)
    assert ("n1", "n10", "n2") == layout.nodes


def test_each_row_knows_its_cell() -> None:
    layout = layout_of(cell("a", node="n2"), cell("b", node="n1"), cell("c", node="n2"))

    assert [1, 0, 2] == list(layout.cell)
    assert ("b", "a", "c") == layout.ids


def test_peers_have_the_same_model_and_engine() -> None:
    layout = layout_of(
        cell("a", model="m1"),
        cell("b", model="m2"),
        cell("c", model="m1", engine="ollama"),
        cell("d", model="m1"),
    )

    assert layout.peers[0] == layout.peers[3]
    assert 3 == len(set(layout.peers)) == layout.n_groups


def test_the_same_rows_keep_the_very_layout() -> None:
    rows = [cell("a"), cell("b")]
    layout = layout_of(*rows)

    assert layout_of(*rows, before=layout) is layout


NOT_DRAWN: list[dict[str, Any]] = [
    {"outcome": Outcome.TIMEOUT},
    {"state": State.DRAINING},
    {"port": 2},
    {"speed": 3.0, "errors": 4.0, "age_s": 5.0, "p99_s": 6.0},
]


@pytest.mark.parametrize("changed", NOT_DRAWN, ids=str)
def test_what_is_not_drawn_leaves_the_cells_where_they_are(changed: dict[str, Any]) -> None:
    layout = layout_of(cell("a"), cell("b"))

    after = layout_of(cell("a"), cell("b", **changed), before=layout)

    assert layout.name == after.name
    assert drawn(layout) == drawn(after)


DRAWN: list[list[Row]] = [
    [cell("a")],
    [cell("a"), cell("b"), cell("c")],
    [cell("a"), cell("c")],
    [cell("a"), cell("b", node="n2")],
    [cell("a"), cell("b", model="m2")],
    [cell("a"), cell("b", developer="ada")],
    [cell("a"), cell("b", engine="ollama")],
    [],
]


@pytest.mark.parametrize(
    "rows", DRAWN, ids=["gone", "new", "renamed", "node", "model", "developer", "engine", "all"]
)
def test_whatever_is_drawn_or_compared_makes_another_layout(rows: list[Row]) -> None:
    layout = layout_of(cell("a"), cell("b"))

    assert layout.name != layout_of(*rows, before=layout).name


def test_two_instances_that_swap_their_models_make_another_layout() -> None:
    layout = layout_of(cell("a", model="m1"), cell("b", model="m2"))

    after = layout_of(cell("a", model="m2"), cell("b", model="m1"), before=layout)

    assert layout.name != after.name
