from __future__ import annotations

from array import array

from exporter.instances import Filter
from exporter.model import Outcome, State
from exporter.snapshot import Row
from exporter.ui.cells import N_WORST, STATUS_CODES, UNKNOWN, Value, worst
from exporter.ui.layout import STEP_ROWS
from tests.exporter.ui.building import FakePoller, cell, ids, run

Found = tuple[int, int, list[tuple[str, int]]]


def found(
    rows: list[Row],
    value: Value | None = None,
    numbers: list[int] | None = None,
    wanted: Filter | None = None,
    gone: str = "",
) -> Found:
    """Return how many match, how many have a rank, and the worst ids with their values."""
    poller = FakePoller()
    poller.show(*[row for row in rows if row.target.id != gone])
    column = array("i", numbers or [STATUS_CODES[row.status] for row in rows])
    ranked = run(
        worst(ids(rows), poller.scrape_targets, wanted or Filter(), value, column)  # type: ignore[arg-type]
    )
    shown = [(scrape_target.row.target.id, number) for scrape_target, number in ranked.found]
    return ranked.n_matching, ranked.n_ranked, shown


ROWS = [
    cell("a", state=State.PROVISIONING),
    cell("b", state=State.DRAINING, node="n2"),
    cell("c", outcome=None),
    cell("d", outcome=Outcome.LOADING),
    cell("e", outcome=Outcome.TIMEOUT),
    cell("f", outcome=Outcome.REFUSED, node="n2"),
    cell("g"),
    cell("h", outcome=Outcome.REFUSED),
]


def test_by_status_those_come_first_that_are_gone() -> None:
    """Unreachable, unhealthy, loading, unknown, draining, provisioning; healthy ones never."""
    expected = [("f", 2), ("h", 2), ("e", 1), ("d", 3), ("c", 6), ("b", 5), ("a", 4)]

    assert (8, 7, expected) == found(ROWS)


def test_the_slowest_and_the_highest_are_the_worst() -> None:
    rows = [cell(id_) for id_ in "abcd"]
    numbers = [100, UNKNOWN, 70, 120]

    assert (4, 3, [("c", 70), ("a", 100), ("d", 120)]) == found(rows, Value.SPEED, numbers)
    for value in (Value.P99, Value.ERRORS, Value.AGE):
        assert (4, 3, [("d", 120), ("a", 100), ("c", 70)]) == found(rows, value, numbers)


def test_no_more_than_the_worst_few_are_given_and_all_are_counted() -> None:
    n = 2 * STEP_ROWS + 3
    rows = [cell(f"i{i:05}") for i in range(n)]

    n_matching, n_ranked, worst_ones = found(rows, Value.P99, list(range(n)))

    assert n == n_matching == n_ranked
    assert [(f"i{i:05}", i) for i in range(n - 1, n - 1 - N_WORST, -1)] == worst_ones


def test_who_has_gone_since_is_left_out() -> None:
    n_matching, _, worst_ones = found(ROWS, gone="f")

    assert (7, ("h", 2)) == (n_matching, worst_ones[0])
