"""Counters of one instance across its restarts, and of the fleet."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import counters as ledger_
from exporter.counters import (
    MAX_ERROR_TYPES,
    NO_DELTA,
    OTHER,
    SPEED_KEPT_S,
    CounterState,
    Delta,
    FleetCounters,
    rebase,
    speed_now,
    update,
)
from exporter.engines import fleet
from exporter.engines.base import MAX_AMOUNT
from exporter.model import (
    Answer,
    CanaryOutcome,
    CanaryState,
    Generation,
    Histogram,
    LoadedModel,
    Target,
    Values,
)

TARGET = Target("a", "127.0.0.1", 1)


def after(*polls: Values, target: Target = TARGET) -> tuple[CounterState, list[Delta]]:
    """Return the memory after some polls ten seconds apart, and the increase at each."""
    state, increases = CounterState(), []
    for n, values in enumerate(polls):
        state, delta = update(state, values, target, now_s=10.0 * n)
        increases.append(delta)
    return state, increases


def types(n_types: int, count: float = 1.0) -> tuple[tuple[str, float], ...]:
    return tuple((f"type {n:05}", count) for n in range(n_types))


def generated(*counts: float) -> list[Values]:
    return [Values(generated_tokens_total=count) for count in counts]


def test_the_first_sight_counts_nothing() -> None:
    """The exporter may have been restarted: what was before it is not its own."""
    _, increases = after(*generated(1_000_000), Values(generated_tokens_total=1_000_000))

    assert [Delta(0.0), NO_DELTA] == increases


def test_a_counter_that_goes_back_goes_on_from_where_it_was() -> None:
    state, increases = after(*generated(1000, 1010, 4, 6))

    assert [0, 10, 4, 2] == [delta.generated_tokens for delta in increases]
    assert state.generated is not None
    assert 1016 == state.generated.total


@given(st.lists(st.floats(0, MAX_AMOUNT), min_size=1, max_size=50))
def test_whatever_an_instance_says_ours_never_goes_back(counts: list[float]) -> None:
    totals = []
    state = CounterState()
    for values in generated(*counts):
        state, delta = update(state, values, TARGET, now_s=0.0)
        assert (delta.generated_tokens or 0.0) >= 0
        assert state.generated is not None
        totals.append(state.generated.total)

    assert sorted(totals) == totals
    assert totals[-1] <= MAX_AMOUNT * len(counts)


def test_a_count_that_is_missing_once_is_taken_up_where_it_was() -> None:
    _, increases = after(
        Values(generated_tokens_total=10), Values(), Values(generated_tokens_total=15)
    )

    assert [0, None, 5] == [delta.generated_tokens for delta in increases]


def test_errors_after_a_restart_count_from_zero_also_for_types_not_told_at_first() -> None:
    state, increases = after(
        Values(errors_total=(("oom", 5.0), ("timeout", 7.0))),
        Values(errors_total=(("oom", 0.0),)),
        Values(errors_total=(("oom", 0.0), ("timeout", 7.0))),
    )

    gained = [{kind: n for kind, n in delta.errors if n} for delta in increases]
    assert [{}, {}, {"timeout": 7.0}] == gained
    assert {"oom": 5.0, "timeout": 14.0} == {k: c.total for k, c in state.errors or ()}


@pytest.mark.parametrize("n_polls", [1, 2, 3])
def test_error_types_without_end_at_first_sight_are_not_kept(n_polls: int) -> None:
    state, _ = after(*[Values(errors_total=types(60_000))] * n_polls)

    totals = {kind: counter.total for kind, counter in state.errors or ()}
    assert MAX_ERROR_TYPES + 1 == len(totals)
    assert 60_000 - MAX_ERROR_TYPES == totals[OTHER]
    assert len(state.last_errors) <= MAX_ERROR_TYPES


KINDS = st.dictionaries(
    st.integers(0, 3 * MAX_ERROR_TYPES).map("type {:04}".format), st.floats(0, MAX_AMOUNT)
)


@given(st.lists(KINDS, max_size=6))
def test_whatever_errors_an_instance_tells_ours_are_few_and_never_go_back(
    polls: list[dict[str, float]],
) -> None:
    state = CounterState()
    for counts in polls:
        before = dict(state.errors or ())
        values = Values(errors_total=tuple(sorted(counts.items())))
        state, delta = update(state, values, TARGET, now_s=0.0)
        now = dict(state.errors or ())
        assert len(now) <= MAX_ERROR_TYPES + 1
        assert all(now[kind].total >= counter.total for kind, counter in before.items())
        assert all(count >= 0 for _, count in delta.errors)


def test_errors_after_a_restart_that_tells_none_count_from_zero() -> None:
    polls = [b'{"error_count":7,"errors":{"oom":7}}', b'{"latency_p99":1,"errors":{}}']
    polls.append(b'{"error_count":3,"errors":{"oom":3}}')
    polls.append(b'{"error_count":9,"errors":{"oom":9}}')
    restart_between = [polls[0], polls[1], polls[3]]

    assert [0, 0, 3] == ooms(polls[:3])
    assert [0, 0, 9] == ooms(restart_between)


def ooms(bodies: list[bytes]) -> list[float]:
    read = fleet.engine().read
    answers = [{"/health": Answer(200, b""), fleet.METRICS: Answer(200, body)} for body in bodies]
    _, increases = after(*[read(answer).values for answer in answers])
    return [dict(delta.errors).get("oom", 0.0) for delta in increases]


def test_speed_is_what_was_generated_by_the_time_it_took() -> None:
    state, _ = after(
        Values(generated_tokens_total=100, generating_seconds_total=1.0),
        Values(generated_tokens_total=142, generating_seconds_total=2.0),
    )

    assert 42.0 == speed_now(state, now_s=10.0)


def test_speed_is_kept_while_idle_and_dropped_after_an_hour() -> None:
    idle = Values(generated_tokens_total=142, generating_seconds_total=2.0)
    state, _ = after(Values(generated_tokens_total=100, generating_seconds_total=1.0), idle, idle)

    assert 42.0 == speed_now(state, now_s=10.0 + SPEED_KEPT_S)
    assert speed_now(state, now_s=10.1 + SPEED_KEPT_S) is None


def test_a_speed_of_zero_is_no_news_of_an_idle_server() -> None:
    idle = Values(tokens_per_second=0.0, requests_running=1.0)

    assert speed_now(after(idle)[0], now_s=1.0) is None
    assert 42.0 == speed_now(after(Values(tokens_per_second=42.0), idle)[0], now_s=2.0)


def test_a_speed_without_new_tokens_is_no_news() -> None:
    """A server that is idle for an hour reports its last speed all the time."""
    first = Values(tokens_per_second=42.0, generated_tokens_total=100.0)
    idle = msgspec.structs.replace(first, tokens_per_second=40.0)
    busy = Values(tokens_per_second=41.0, generated_tokens_total=101.0)
    without_counter = Values(tokens_per_second=39.0)

    assert 42.0 == speed_now(after(first, idle)[0], now_s=SPEED_KEPT_S)
    assert speed_now(after(first, idle)[0], now_s=0.1 + SPEED_KEPT_S) is None
    assert 41.0 == speed_now(after(first, busy)[0], now_s=10.0)
    assert 39.0 == speed_now(after(without_counter, without_counter)[0], now_s=10 + SPEED_KEPT_S)


def test_an_instance_serves_as_long_as_it_generates_or_nothing_waits() -> None:
    waiting = Values(requests_queued=1.0, generated_tokens_total=100.0)
    more = partial(msgspec.structs.replace, waiting)
    served_s = {
        "first seen": after(waiting)[0].served_at_s,
        "no token": after(waiting, waiting, waiting)[0].served_at_s,
        "a token": after(waiting, more(generated_tokens_total=101.0))[0].served_at_s,
        "restarted": after(waiting, more(generated_tokens_total=0.0))[0].served_at_s,
        "no queue": after(waiting, more(requests_queued=0.0))[0].served_at_s,
        "no counter": after(*[Values(requests_queued=1.0)] * 2)[0].served_at_s,
    }

    assert {
        "first seen": 0.0,
        "no token": 0.0,
        "a token": 10.0,
        "restarted": 10.0,
        "no queue": 10.0,
        "no counter": 10.0,
    } == served_s


@pytest.mark.parametrize(
    ("values", "now_s", "expected"),
    [
        (Values(), 1.0, 30.0),
        (Values(tokens_per_second=42.0), 1.0, 42.0),
        (Values(tokens_per_second=42.0), SPEED_KEPT_S + 10.0, 30.0),
        (Values(), SPEED_KEPT_S + 30.0, None),
    ],
)
def test_a_canarys_speed_counts_while_the_server_says_nothing_better(
    values: Values, now_s: float, expected: float | None
) -> None:
    canary = CanaryState(CanaryOutcome.OK, "", 20.0, 0, 20.0, Generation(8.0, 30.0))

    assert expected == speed_now(after(values)[0], canary, now_s=now_s)


def test_speed_is_unknown_until_both_counters_moved() -> None:
    state, _ = after(*[Values(generated_tokens_total=1, generating_seconds_total=1)] * 3)

    assert speed_now(state, now_s=0.0) is None


def test_speed_survives_a_restart() -> None:
    state, _ = after(
        Values(generated_tokens_total=1000, generating_seconds_total=100),
        Values(generated_tokens_total=84, generating_seconds_total=2),
    )

    assert 42.0 == speed_now(state, now_s=10.0)


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

    state, _ = after(*[Values(models=models) for models in told], target=target)

    assert expected == state.model


def durations(*cumulative: float) -> Values:
    return Values(request_duration=Histogram(cumulative, sum(cumulative)))


def test_durations_increase_by_what_came_since() -> None:
    _, increases = after(durations(1, 2), durations(1, 2), durations(3, 5))

    none_yet = Histogram((0, 0), 0)
    assert [none_yet, None, Histogram((2, 3), 5)] == [i.durations for i in increases]


def test_a_restart_is_seen_when_every_bucket_has_grown() -> None:
    """Five quick requests after one slow one: the slow one's bucket cannot have lost it."""
    _, increases = after(durations(0, 0, 1), durations(5, 5, 5))

    assert Histogram((5, 5, 5), 15) == increases[1].durations


def test_a_restart_is_seen_by_a_sum_that_went_back() -> None:
    before, now = Histogram((1, 2), 9.0), Histogram((1, 3), 0.5)

    _, increases = after(Values(request_duration=before), Values(request_duration=now))

    assert now == increases[1].durations


HISTOGRAMS = st.builds(
    lambda gains, sum_s: Histogram(tuple(float(n) for n in accumulate(gains)), sum_s),
    st.lists(st.integers(0, 5) | st.integers(0, 2**40), min_size=4, max_size=4),
    st.floats(0, MAX_AMOUNT),
)


@given(st.lists(HISTOGRAMS, max_size=8))
def test_whatever_durations_an_instance_tells_what_is_gained_is_a_histogram(
    told: list[Histogram],
) -> None:
    _, increases = after(*[Values(request_duration=histogram) for histogram in told])

    for gained in [delta.durations for delta in increases if delta.durations]:
        assert all(lower <= upper for lower, upper in pairwise((0.0, *gained.cumulative)))
        assert gained.sum_s >= 0


def counted(n_requests: float | None, **errors: float) -> Values:
    """Return what an instance tells: errors by type, and durations unless they are None."""
    histogram = None if n_requests is None else Histogram((0.0, n_requests), n_requests)
    return Values(errors_total=tuple(errors.items()), request_duration=histogram)


def failed(*polls: Values) -> list[float]:
    return [delta.failed_requests for delta in after(*polls)[1]]


def test_failed_requests_are_the_errors_of_all_types_since_the_last_poll() -> None:
    polls = [counted(100, oom=7, timeout=1), counted(110, oom=8, timeout=3), counted(110, oom=9)]

    assert [0, 3, 1] == failed(*polls)


def test_errors_from_before_the_first_durations_are_not_among_the_failed_requests() -> None:
    """A server that was upgraded: its requests are counted from now on, and so their failures."""
    polls = [counted(None, oom=1), counted(20, oom=5), counted(30, oom=6)]

    assert [0, 0, 1] == failed(*polls)


def test_an_error_without_a_new_request_is_counted() -> None:
    """Such as an out-of-memory kill: the request did not live to be counted."""
    _, increases = after(counted(100, oom=0), counted(100, oom=1))

    assert (None, 1.0) == (increases[1].durations, increases[1].failed_requests)


def ledger_after(increases: list[Delta]) -> tuple[float, float, float, float]:
    """Return what the fleet's counters are: tokens, errors, requests, failed requests."""
    fleet_counters = FleetCounters()
    for delta in increases:
        fleet_counters.record("node", "m", delta)
    return (
        sum(fleet_counters.generated_tokens.values()),
        sum(fleet_counters.errors.values()),
        sum(fleet_counters.requests.values()),
        sum(fleet_counters.request_errors.values()),
    )


LEAPS = {
    "tokens": Values(generated_tokens_total=2.0**44),
    "prompt tokens": Values(prompt_tokens_total=2.0**51),
    "errors": Values(errors_total=(("oom", 2.0**53),)),
    "errors of new types": Values(errors_total=(("oom", 7.0), *types(1000, 1e4))),
    "requests": Values(request_duration=Histogram((0.0, 2.0**53), 150.0)),
    "seconds": Values(request_duration=Histogram((100.0, 101.0), 2.0**53)),
    "speed": Values(generated_tokens_total=2000.0, generating_seconds_total=100.001),
}


@pytest.mark.parametrize("leap", LEAPS)
def test_a_count_that_leaps_is_not_taken(leap: str) -> None:
    before = Values(
        generated_tokens_total=1000.0,
        prompt_tokens_total=1000.0,
        generating_seconds_total=100.0,
        errors_total=(("oom", 7.0),),
        request_duration=Histogram((100.0, 100.0), 150.0),
    )

    state, increases = after(before, LEAPS[leap], LEAPS[leap])

    assert [0, 1, 0] == [len(delta.implausible) for delta in increases]
    assert (1000.0 if leap == "speed" else 0.0, 0.0, 0.0, 0.0) == ledger_after(increases)
    assert state.prompt is not None
    assert (1000.0, None) == (state.prompt.total, speed_now(state, now_s=20.0))


def test_a_count_goes_on_after_a_leap() -> None:
    _, increases = after(*generated(5, 2.0**44, 2.0**44 + 7))

    assert [0, 0, 7] == [delta.generated_tokens for delta in increases]


def test_a_server_that_was_away_for_long_or_counts_at_the_end_is_believed() -> None:
    """Also where the clock was set back meanwhile."""
    state, _ = after(*generated(0))
    for now_s, tokens in ((1.0, 6e5), (-1e9, 12e5), (1e6, 1e10)):
        state, delta = update(state, generated(tokens)[0], TARGET, now_s=now_s)
        assert () == delta.implausible


def moved(before: Values, *polls: Values) -> tuple[CounterState, list[Delta]]:
    """Return what is remembered, and the increases, when the address changes after `before`."""
    state, _ = after(before)
    state, increases = rebase(state), []
    for values in polls:
        state, delta = update(state, values, TARGET, now_s=10.0)
        increases.append(delta)
    return state, increases


@pytest.mark.parametrize("first", [7.0, 1000.0, 5000.0])
def test_a_replacement_elsewhere_goes_on_from_the_total_and_its_first_values_count_nothing(
    first: float,
) -> None:
    polls = generated(first, first + 3)

    state, increases = moved(*generated(1000), *polls)

    assert [0, 3] == [delta.generated_tokens for delta in increases]
    assert state.generated is not None
    assert 1003 == state.generated.total


def test_a_replacements_errors_count_nothing_at_first_also_of_new_types() -> None:
    state, increases = moved(
        Values(errors_total=(("oom", 5.0), ("timeout", 1.0))),
        Values(errors_total=(("crash", 4.0), ("oom", 50.0))),
        Values(errors_total=(("crash", 5.0), ("oom", 52.0), ("timeout", 3.0))),
    )

    none, some = [{kind: n for kind, n in delta.errors if n} for delta in increases]
    assert {} == none
    assert {"crash": 1.0, "oom": 2.0, "timeout": 3.0} == some
    totals = {kind: counter.total for kind, counter in state.errors or ()}
    assert {"crash": 1.0, "oom": 7.0, "timeout": 4.0} == totals


def test_a_replacements_first_durations_count_nothing() -> None:
    _, increases = moved(durations(1, 2), durations(7, 9), durations(7, 10))

    assert [Histogram((0, 0), 0), Histogram((0, 1), 1)] == [i.durations for i in increases]


def test_a_move_keeps_totals_model_version_and_speed_and_forgets_the_start() -> None:
    values = Values(("m",), "1", 31.0, start_time_s=5.0, generated_tokens_total=9)
    values = msgspec.structs.replace(values, prompt_tokens_total=8, generating_seconds_total=7)

    state, _ = moved(values, Values())

    assert ("m", "1", 31.0) == (state.model, state.version, speed_now(state, now_s=10.0))
    counters = (state.generated, state.prompt, state.generating_seconds)
    assert [9, 8, 7] == [counter.total for counter in counters if counter]
    assert state.start_time_s is None


def test_increases_add_up_by_model_type_and_node() -> None:
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m1", Delta(10.0, (("oom", 1.0),)))
    fleet_counters.record("n2", "m2", Delta(5.0, (("oom", 2.0), ("timeout", 3.0))))

    assert {"m1": 10.0, "m2": 5.0} == fleet_counters.generated_tokens
    assert {("m1", "oom"): 1.0, ("m2", "oom"): 2.0, ("m2", "timeout"): 3.0} == fleet_counters.errors
    assert {
        ("n1", "oom"): 1.0,
        ("n2", "oom"): 2.0,
        ("n2", "timeout"): 3.0,
    } == fleet_counters.node_errors


def test_durations_of_a_model_are_merged() -> None:
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m", Delta(durations=Histogram((1.0, 2.0), 0.5)))
    fleet_counters.record("n2", "m", Delta(durations=Histogram((2.0, 2.0), 0.25)))

    assert {"m": Histogram((3.0, 4.0), 0.75)} == fleet_counters.durations.by_model


def test_requests_are_those_of_all_durations_and_begin_with_them() -> None:
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m1", Delta(1.0, (("oom", 2.0),)))
    assert {} == fleet_counters.requests

    fleet_counters.record("n1", "m1", Delta(durations=Histogram((0.0, 0.0), 0.0)))
    assert {"m1": 0.0} == fleet_counters.requests == fleet_counters.request_errors

    fleet_counters.record("n1", "m1", Delta(durations=Histogram((2.0, 5.0), 0.5)))
    one = Delta(durations=Histogram((2.0, 2.0), 0.25), failed_requests=1.0)
    fleet_counters.record("n2", "m2", one)
    assert {"m1": 5.0, "m2": 2.0} == fleet_counters.requests
    assert {"m1": 0.0, "m2": 1.0} == fleet_counters.request_errors


def test_error_types_without_end_are_counted_together() -> None:
    fleet_counters = FleetCounters()
    for n in range(ledger_.MAX_FLEET_ERROR_TYPES + 10):
        fleet_counters.record("n", "m", Delta(errors=((f"e{n}", 1.0),)))

    assert (
        ledger_.MAX_FLEET_ERROR_TYPES + 1
        == len(fleet_counters.errors)
        == len(fleet_counters.node_errors)
    )


def test_errors_of_models_without_end_count_together() -> None:
    fleet_counters = FleetCounters()
    for n in range(ledger_.MAX_ERROR_PAIRS + 10):
        fleet_counters.record("n", f"m{n // 10}", Delta(errors=((f"e{n % 10}", 1.0),)))

    assert ledger_.MAX_ERROR_PAIRS + 10 == len(fleet_counters.errors)
    assert 1.0 == fleet_counters.errors[ledger_.OTHER, "e9"]


def test_a_node_that_is_gone_is_forgotten_and_the_fleets_count_stays() -> None:
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m", Delta(errors=(("oom", 1.0),)))
    fleet_counters.record("n2", "m", Delta(errors=(("oom", 1.0),)))

    fleet_counters.keep_nodes({"n2"})

    assert {("n2", "oom"): 1.0} == fleet_counters.node_errors
    assert {("m", "oom"): 2.0} == fleet_counters.errors


def loaded(*models: str, **rest: object) -> Values:
    return msgspec.structs.replace(Values(loaded=tuple(map(LoadedModel, models))), **rest)


def test_models_that_come_into_memory_and_go_are_counted_from_the_second_poll_on() -> None:
    """What was loaded at first sight is named with 0, so that its first change is an increase."""
    _, increases = after(loaded("a"), loaded("a", "b"), Values(), loaded("b"), loaded("b"))

    assert [(("a", 0),), (("b", 1),), (), (("a", -1),), ()] == [i.model_changes for i in increases]


def test_another_server_behind_a_new_address_has_unloaded_nothing() -> None:
    state, _ = update(CounterState(), loaded("a"), TARGET, now_s=0.0)

    _, delta = update(rebase(state), loaded("b"), TARGET, now_s=10.0)

    assert (("b", 0),) == delta.model_changes


def test_loads_and_unloads_add_up_by_model() -> None:
    fleet_counters = FleetCounters()
    for change in (0, 1, 1, -1):
        fleet_counters.record("n", "m", Delta(model_changes=(("a", change),)))
    for n in range(ledger_.MAX_MODELS + 10):
        fleet_counters.record("n", "m", Delta(model_changes=((f"m{n}", -1),)))

    assert (2, 1) == (fleet_counters.model_loads["a"], fleet_counters.model_unloads["a"])
    assert 11 == fleet_counters.model_unloads[OTHER]
    assert ledger_.MAX_MODELS + 1 == len(fleet_counters.model_loads)


LISTED_AGAIN = replace(TARGET, started_s=1_100.0)


@pytest.mark.parametrize(
    ("before", "now", "listed_now", "expected"),
    [
        (Values(start_time_s=1_000.0), Values(start_time_s=1_100.0), TARGET, 1),
        (Values(start_time_s=1_000.0), Values(start_time_s=1_000.9), TARGET, 0),
        (Values(start_time_s=1_000.0), Values(start_time_s=900.0), TARGET, 0),
        (Values(start_time_s=1_000.0), Values(version="2"), TARGET, 0),
        (Values(version="1"), Values(version="2"), TARGET, 1),
        (Values(), Values(version="2"), TARGET, 0),
        (Values(), Values(), LISTED_AGAIN, 1),
        (Values(generated_tokens_total=9.0), Values(generated_tokens_total=8.0), TARGET, 1),
        (Values(prompt_tokens_total=9.0), Values(prompt_tokens_total=8.0), TARGET, 1),
        (Values(generated_tokens_total=9.0), Values(generated_tokens_total=10.0), TARGET, 0),
        (
            Values(generated_tokens_total=9.0, version="1"),
            Values(generated_tokens_total=8.0, version="2"),
            LISTED_AGAIN,
            1,
        ),
    ],
)
def test_a_restart_is_counted_once_where_it_shows(
    before: Values, now: Values, listed_now: Target, expected: int
) -> None:
    listed = replace(TARGET, started_s=1_000.0)
    state, first = update(CounterState(), before, listed, now_s=1_050.0)
    fleet_counters = FleetCounters()

    listed_now = replace(listed_now, started_s=listed_now.started_s or listed.started_s)
    _, delta = update(state, now, listed_now, now_s=1_150.0)
    for one in (first, delta):
        fleet_counters.record("n", "m", one)

    assert expected == fleet_counters.restarts


OLD, NEW = Values(version="1"), Values(version="2")
LOW, LOWER = Values(generated_tokens_total=9.0), Values(generated_tokens_total=8.0)
LISTED, SILENT = replace(TARGET, started_s=1_000.0), Values()


@pytest.mark.parametrize(
    ("polls", "expected"),
    [
        ([(OLD, LISTED), (NEW, LISTED), (SILENT, LISTED_AGAIN)], 1),
        ([(OLD, LISTED), (SILENT, LISTED_AGAIN), (NEW, LISTED_AGAIN)], 1),
        ([(LOW, LISTED), (LOWER, LISTED), (LOWER, LISTED_AGAIN)], 1),
        ([(OLD, LISTED), (NEW, LISTED), (SILENT, replace(TARGET, started_s=1_250.0))], 2),
        ([(OLD, LISTED), (OLD, LISTED_AGAIN), (NEW, LISTED_AGAIN)], 2),
        ([(SILENT, LISTED), (SILENT, LISTED_AGAIN), (SILENT, LISTED_AGAIN)], 1),
        (
            [
                (SILENT, LISTED),
                (SILENT, LISTED_AGAIN),
                (SILENT, replace(TARGET, started_s=1_140.0)),
            ],
            2,
        ),
    ],
)
def test_a_restart_that_shows_at_two_polls_is_counted_once(
    polls: list[tuple[Values, Target]], expected: int
) -> None:
    state, n_restarts = CounterState(), 0
    for n, (values, listed) in enumerate(polls):
        state, delta = update(state, values, listed, now_s=1_050.0 + 100 * n)
        n_restarts += delta.n_restarts

    assert expected == n_restarts


@pytest.mark.parametrize(
    ("before", "polls", "expected"),
    [
        (SILENT, [(SILENT, TARGET)], 1),
        (SILENT, [(SILENT, TARGET), (SILENT, TARGET)], 1),
        (OLD, [(NEW, TARGET)], 1),
        (OLD, [(SILENT, TARGET), (NEW, TARGET)], 1),
        (LOW, [(LOWER, TARGET)], 1),
        (Values(start_time_s=1_000.0), [(Values(start_time_s=1_000.0), TARGET)], 0),
        (SILENT, [(SILENT, LISTED_AGAIN)], 1),
        (SILENT, [(SILENT, LISTED), (SILENT, LISTED_AGAIN)], 1),
    ],
)
def test_a_port_that_refused_is_one_restart_unless_the_server_says_that_it_ran_on(
    before: Values, polls: list[tuple[Values, Target]], expected: int
) -> None:
    state, _ = update(CounterState(), before, LISTED, now_s=1_050.0)
    n_restarts = 0
    for n, (values, listed) in enumerate(polls):
        state, delta = update(state, values, listed, now_s=1_150.0 + 10 * n, was_refused=n == 0)
        n_restarts += delta.n_restarts

    assert expected == n_restarts


def test_what_is_on_disk_is_remembered_until_it_is_asked_for_again() -> None:
    installed = [Values(installed=("a",)), Values(), Values(installed=())]
    states = [after(*installed[:n])[0] for n in (1, 2, 3)]

    assert [("a",), ("a",), ()] == [state.installed for state in states]
