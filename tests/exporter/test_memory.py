from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.memory import (
    MAX_ERROR_TYPES,
    NOTHING,
    SPEED_KEPT_S,
    Increase,
    Memory,
    remember,
    speed_now,
)
from exporter.model import Histogram, Target, Values

TARGET = Target("a", "127.0.0.1", 1)


def after(*polls: Values, target: Target = TARGET) -> tuple[Memory, list[Increase]]:
    """Return the memory after some polls ten seconds apart, and the increase at each."""
    memory, increases = Memory(), []
    for n, values in enumerate(polls):
        memory, increase = remember(memory, values, target, now_s=10.0 * n)
        increases.append(increase)
    return memory, increases


def generated(*counts: float) -> list[Values]:
    return [Values(generated_tokens_total=count) for count in counts]


def test_the_first_sight_counts_nothing() -> None:
    """The exporter may have been restarted: what was before it is not its own."""
    _, increases = after(*generated(1_000_000), Values(generated_tokens_total=1_000_000))

    assert [Increase(0.0), NOTHING] == increases


def test_an_instance_that_counts_nothing_increases_nothing() -> None:
    _, increases = after(Values(), Values())

    assert [NOTHING, NOTHING] == increases


def test_errors_begin_with_zero_for_each_type() -> None:
    _, increases = after(Values(errors_total=(("oom", 5.0), ("timeout", 0.0))))

    assert (("oom", 0.0), ("timeout", 0.0)) == increases[0].errors


def test_a_counter_that_goes_back_goes_on_from_where_it_was() -> None:
    memory, increases = after(*generated(1000, 1010, 4, 6))

    assert [0, 10, 4, 2] == [increase.generated_tokens for increase in increases]
    assert memory.generated is not None
    assert 1016 == memory.generated.total


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=50))
def test_whatever_an_instance_says_ours_never_goes_back(counts: list[float]) -> None:
    totals = []
    memory = Memory()
    for values in generated(*counts):
        memory, increase = remember(memory, values, TARGET, now_s=0.0)
        assert (increase.generated_tokens or 0.0) >= 0
        assert memory.generated is not None
        totals.append(memory.generated.total)

    assert sorted(totals) == totals


def test_a_count_that_is_missing_once_is_taken_up_where_it_was() -> None:
    _, increases = after(
        Values(generated_tokens_total=10), Values(), Values(generated_tokens_total=15)
    )

    assert [0, None, 5] == [increase.generated_tokens for increase in increases]


def test_errors_count_by_type_and_a_new_type_counts_in_full() -> None:
    _, increases = after(
        Values(errors_total=(("oom", 5.0),)), Values(errors_total=(("oom", 6.0), ("timeout", 2.0)))
    )

    assert (("oom", 1.0), ("timeout", 2.0)) == increases[1].errors


def test_errors_after_a_restart_count_from_zero_also_for_types_not_told_at_first() -> None:
    memory, increases = after(
        Values(errors_total=(("oom", 5.0), ("timeout", 7.0))),
        Values(errors_total=(("oom", 0.0),)),
        Values(errors_total=(("oom", 0.0), ("timeout", 7.0))),
    )

    gained = [{kind: n for kind, n in increase.errors if n} for increase in increases]
    assert [{}, {}, {"timeout": 7.0}] == gained
    assert {"oom": 5.0, "timeout": 14.0} == {k: c.total for k, c in memory.errors or ()}


def test_error_types_without_end_are_counted_together() -> None:
    polls = [
        Values(errors_total=tuple(sorted((f"type {n} {i}", 1.0) for i in range(20))))
        for n in range(20)
    ]

    memory, _ = after(*polls)

    assert len(memory.errors or ()) <= MAX_ERROR_TYPES + 1
    assert "other" in dict(memory.errors or ())


def test_speed_is_what_was_generated_by_the_time_it_took() -> None:
    memory, _ = after(
        Values(generated_tokens_total=100, generating_seconds_total=1.0),
        Values(generated_tokens_total=142, generating_seconds_total=2.0),
    )

    assert 42.0 == speed_now(memory, now_s=10.0)


def test_speed_is_kept_while_idle_and_dropped_after_an_hour() -> None:
    idle = Values(generated_tokens_total=142, generating_seconds_total=2.0)
    memory, _ = after(Values(generated_tokens_total=100, generating_seconds_total=1.0), idle, idle)

    assert 42.0 == speed_now(memory, now_s=10.0 + SPEED_KEPT_S)
    assert speed_now(memory, now_s=10.1 + SPEED_KEPT_S) is None


def test_a_reported_speed_is_taken_as_it_is() -> None:
    memory, _ = after(Values(tokens_per_second=31.0))

    assert 31.0 == speed_now(memory, now_s=0.0)


def test_speed_is_unknown_until_both_counters_moved() -> None:
    memory, _ = after(*[Values(generated_tokens_total=1, generating_seconds_total=1)] * 3)

    assert speed_now(memory, now_s=0.0) is None


def test_speed_survives_a_restart() -> None:
    memory, _ = after(
        Values(generated_tokens_total=1000, generating_seconds_total=100),
        Values(generated_tokens_total=84, generating_seconds_total=2),
    )

    assert 42.0 == speed_now(memory, now_s=10.0)


@pytest.mark.parametrize(
    ("listed", "told", "expected"),
    [
        ("listed", [("other",)], "listed"),
        ("", [("a",), ()], "a"),
        ("", [("a", "b"), ("b",)], "b"),
        ("", [("b",), ("a", "b")], "b"),
        ("", [()], ""),
    ],
    ids=["inventory first", "unloaded", "swapped", "one more loaded", "never told"],
)
def test_the_model(listed: str, told: list[tuple[str, ...]], expected: str) -> None:
    target = Target("a", "127.0.0.1", 1, model=listed)

    memory, _ = after(*[Values(models=models) for models in told], target=target)

    assert expected == memory.model


def test_the_version_and_start_time_last_told_are_kept() -> None:
    memory, _ = after(Values(version="1", start_time_s=5.0), Values())

    assert ("1", 5.0) == (memory.version, memory.start_time_s)


def durations(*cumulative: float) -> Values:
    return Values(request_duration=Histogram(cumulative, sum(cumulative)))


def test_durations_increase_by_what_came_since() -> None:
    _, increases = after(durations(1, 2), durations(1, 2), durations(3, 5))

    none_yet = Histogram((0, 0), 0)
    assert [none_yet, None, Histogram((2, 3), 5)] == [i.durations for i in increases]


def test_durations_after_a_restart_count_in_full() -> None:
    _, increases = after(durations(10, 20), durations(3, 30))

    assert Histogram((3, 30), 33) == increases[1].durations
