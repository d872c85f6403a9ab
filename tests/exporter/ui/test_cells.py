"""What cells show, and which instances are the worst."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.instances import Filter
from exporter.model import (
    CanaryOutcome,
    CanaryState,
    Condition,
    Generation,
    LoadedModel,
    Outcome,
    State,
    Status,
)
from exporter.snapshot import Row
from exporter.ui import cells
from exporter.ui.cells import (
    CONDITIONS,
    STATUS,
    STATUS_CODES,
    UNKNOWN,
    Columns,
    Value,
    columns,
)
from exporter.ui.layout import STEP_ROWS, next_layout
from exporter.ui.worst import FOLDED, N_WORST, Group, Worst, worst
from tests.exporter.ui.building import NOW_S, FakePoller, cell, ids, run

HOUR_S = 3600.0


def no_errors(_: Row) -> int | None:
    return None


def seen(*rows: Row, errors: Callable[[Row], int | None] = no_errors) -> Columns:
    layout = run(next_layout(rows, None, lambda: "1"))
    result: Columns = run(columns(rows, layout, frozenset(Value), now_s=NOW_S, errors=errors))
    return result


def column(name: str, *rows: Row) -> list[int]:
    """Return a column of rows that are given in the order of their cells."""
    return list(seen(*rows).by_name[name])


def speeds(*tokens_per_second: float | None) -> list[int]:
    rows = [cell(f"i{n:05}", speed=speed) for n, speed in enumerate(tokens_per_second)]
    return column(Value.SPEED, *rows)


def test_a_cell_gets_what_its_own_row_says() -> None:
    """Cells come by node, rows by id."""
    rows = (
        cell("a", node="n2", p99_s=0.001, outcome=Outcome.REFUSED),
        cell("b", node="n1", p99_s=0.002),
        cell("c", node="n2", p99_s=0.003),
    )

    result = seen(*rows)

    assert [2, 1, 3] == list(result.by_name[Value.P99])
    assert [0, 2, 0] == list(result.by_name[STATUS])


# Speed


def test_speed_is_in_per_cent_of_the_median_of_the_peers() -> None:
    assert [50, 100, 150] == speeds(20.0, 40.0, 60.0)


def test_who_is_not_measured_has_no_speed_and_is_no_peer() -> None:
    assert [50, UNKNOWN, 100, 150] == speeds(20.0, None, 40.0, 60.0)


def test_two_are_too_few_to_be_compared() -> None:
    assert [UNKNOWN, UNKNOWN, UNKNOWN] == speeds(20.0, 40.0, None)


def test_other_models_and_engines_are_no_peers() -> None:
    rows = [
        *[cell(f"a{n}", model="m1", speed=10.0 + n) for n in range(3)],
        *[cell(f"b{n}", model="m2", speed=100.0) for n in range(3)],
        *[cell(f"c{n}", model="m1", engine="ollama", speed=50.0) for n in range(2)],
    ]

    assert [91, 100, 109, 100, 100, 100, UNKNOWN, UNKNOWN] == column(Value.SPEED, *rows)


def test_only_healthy_instances_are_compared() -> None:
    rows = [cell(f"a{n}", speed=40.0) for n in range(3)]
    rows += [
        cell("b", speed=1.0, outcome=Outcome.TIMEOUT),
        cell("c", speed=1.0, state=State.DRAINING),
    ]

    assert [100, 100, 100, UNKNOWN, UNKNOWN] == column(Value.SPEED, *rows)


# Latency, errors, age


def test_latency_is_in_whole_milliseconds() -> None:
    rows = (cell("a", p99_s=0.0894), cell("b", p99_s=0.0896), cell("c", p99_s=9.0), cell("d"))

    assert [89, 90, 9000, UNKNOWN] == column(Value.P99, *rows)
    assert [UNKNOWN] == column(Value.P99, cell("e", outcome=None))


def test_a_canary_takes_whole_milliseconds_until_it_is_too_old_to_count() -> None:
    def asked(ago_s: float, generation: Generation | None) -> Row:
        outcome = CanaryOutcome.STALLED if generation is None else CanaryOutcome.OK
        at_s = NOW_S - ago_s
        return cell(f"{ago_s}", canary=CanaryState(outcome, "", at_s, 0, at_s, generation))

    answered = Generation(8.0, duration_s=1.2344)
    rows = (asked(1.0, answered), asked(2.0, None), asked(2 * HOUR_S, answered), cell("never"))

    assert [1234, UNKNOWN, UNKNOWN, UNKNOWN] == column(Value.CANARY, *rows)


def test_age_is_in_whole_hours_of_those_that_are_up() -> None:
    rows = (
        cell("a", age_s=HOUR_S - 1),
        cell("b", age_s=25 * HOUR_S),
        cell("c", age_s=25 * HOUR_S, outcome=Outcome.REFUSED),
        cell("d"),
        cell("e", age_s=-30.0),  # its clock is ahead of ours
        cell("f", age_s=HOUR_S, state=State.DRAINING),
        cell("g", listed_age_s=2 * HOUR_S),
        cell("h", listed_age_s=2 * HOUR_S, age_s=HOUR_S),
    )

    assert [0, 25, UNKNOWN, UNKNOWN, 0, 1, 2, 1] == column(Value.AGE, *rows)


# Medians


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.integers(1, 9))
def test_a_median_of_many_parts_is_the_median_of_the_whole(numbers: list[float], n: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cells, "SORTED_AT_ONCE", n)

        assert statistics.median(numbers) == run(cells.median(numbers))


@pytest.mark.parametrize("numbers", [[7.0] * 20_001, [float(n % 977) for n in range(50_000)]])
def test_the_median_of_a_large_group_is_found_in_short_steps(numbers: list[float]) -> None:
    n_steps = sum(1 for _ in cells.median(numbers))

    assert len(numbers) / cells.SORTED_AT_ONCE <= n_steps < 100
    assert statistics.median(numbers) == run(cells.median(numbers))


# What is asked for


@pytest.mark.parametrize("value", Value)
def test_only_what_is_wanted_is_computed(value: Value) -> None:
    rows = (cell("a"),)
    layout = run(next_layout(rows, None, lambda: "1"))

    some = run(columns(rows, layout, {value}, now_s=NOW_S, errors=no_errors))
    nothing = run(columns(rows, layout, (), now_s=NOW_S, errors=no_errors))

    assert {STATUS, CONDITIONS, value} == set(some.by_name)
    assert {STATUS, CONDITIONS} == set(nothing.by_name)


# Totals


def test_totals_count_each_status_and_sum_up_healthy_speeds() -> None:
    totals = seen(
        cell("a", speed=40.0, p99_s=0.1),
        cell("b", speed=50.0),
        cell("c", p99_s=0.3),
        cell("d", speed=99.0, p99_s=9.0, outcome=Outcome.TIMEOUT),
        cell("e", outcome=None),
    ).totals

    assert {Status.HEALTHY: 3, Status.UNHEALTHY: 1, Status.UNKNOWN: 1} == totals.instances
    assert (90.0, 2) == (totals.tokens_per_second, totals.n_measured)
    assert [0.1, 0.3] == totals.latencies_p99_s


def test_conditions_are_bits_of_a_cell_and_are_counted() -> None:
    rows = (
        cell("a", node="n2", conditions=(Condition.MODEL_NOT_LOADED, Condition.ON_CPU)),
        cell("b", node="n1"),
        cell("c", node="n2", conditions=(Condition.ON_CPU,)),
    )

    result = seen(*rows)

    assert [0, 0b01001, 0b01000] == list(result.by_name[CONDITIONS])
    assert {Condition.MODEL_NOT_LOADED: 1, Condition.ON_CPU: 2} == result.totals.conditions


def test_what_is_in_memory_is_summed_up_by_model_and_instances_by_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Models beyond the limit are summed up under one name."""
    monkeypatch.setattr(cells, "MAX_MODELS", 2)
    big, small = LoadedModel("big", 40e9, 30e9), LoadedModel("small", 2e9)

    totals = seen(
        cell("a", engine="ollama", loaded=(big, small)),
        cell("b", engine="ollama", loaded=(big, LoadedModel("third"))),
        cell("c", engine="vllm"),
        cell("d", engine="ollama", outcome=None),
    ).totals

    assert {"ollama": 3, "vllm": 1} == totals.engines
    assert {
        "big": (2, 80e9, 60e9), "small": (1, 2e9, None), "other": (1, None, None)
    } == {
        name: (use.n_instances, use.bytes, use.vram_bytes) for name, use in totals.models.items()
    }  # fmt: skip


Found = tuple[int, int, list[tuple[str, int]]]


def ranking(
    rows: list[Row],
    value: Value | None = None,
    numbers: list[int] | None = None,
    wanted: Filter | None = None,
    gone: str = "",
) -> Worst:
    poller = FakePoller()
    poller.show(*[row for row in rows if row.target.id != gone])
    column = array("i", numbers or [STATUS_CODES[row.status] for row in rows])
    targets: Any = poller.scrape_targets
    ranked: Worst = run(worst(ids(rows), targets, wanted or Filter(), value, column))
    return ranked


def found(
    rows: list[Row],
    value: Value | None = None,
    numbers: list[int] | None = None,
    wanted: Filter | None = None,
    gone: str = "",
) -> Found:
    """Return how many match, how many have a rank, and the worst ids with their values."""
    ranked = ranking(rows, value, numbers, wanted, gone)
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
    """Unreachable, unhealthy, loading, unknown, draining, provisioning, with a condition."""
    statuses = [("f", "unreachable"), ("h", "unreachable"), ("e", "unhealthy"), ("d", "loading"),
                ("c", "unknown"), ("b", "draining"), ("a", "provisioning")]  # fmt: skip
    expected = [(id_, STATUS_CODES[Status(status)]) for id_, status in statuses]
    partly = [
        cell("i", conditions=(Condition.ON_CPU,)),
        cell("j", conditions=(Condition.MODEL_NOT_LOADED, Condition.ON_CPU)),
        cell("k", conditions=(Condition.STALLED,)),
    ]

    assert (8, 7, expected) == found(ROWS)
    assert (11, 10, [*expected, ("k", 0), ("j", 0), ("i", 0)]) == found([*ROWS, *partly])


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


def test_instances_of_a_node_that_suffer_from_the_same_are_folded() -> None:
    def gone(node: str, n: int) -> list[Row]:
        return [cell(f"{node}{i}", node=node, outcome=Outcome.REFUSED) for i in range(n)]

    on_cpu = [cell(f"c{i}", node="n1", conditions=(Condition.ON_CPU,)) for i in range(FOLDED)]
    rows = [*gone("n1", FOLDED), *gone("n2", FOLDED - 1), *gone("n3", STEP_ROWS + 1), *on_cpu]

    ranked = ranking(rows)
    of_node = ranking(rows, wanted=Filter(node="n1"))

    assert [
        Group("n3", "unreachable", False, STEP_ROWS + 1),
        Group("n1", "unreachable", False, FOLDED),
        Group("n1", "on_cpu", True, FOLDED),
    ] == ranked.groups
    assert ["n20", "n21"] == [target.row.target.id for target, _ in ranked.found]
    assert len(rows) == ranked.n_ranked
    assert ([], 2 * FOLDED) == (of_node.groups, len(of_node.found))
    assert [] == ranking(rows, Value.P99, [5] * len(rows)).groups
