"""What actions and outcomes make of a record."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from provisioning.actions import Drain, Reschedule, Start, Stop
from provisioning.lifecycle import (
    MAX_DETAIL,
    MAX_EVENTS,
    Kind,
    Operation,
    Outcome,
    Result,
    begin,
    changes_after,
    finish_start,
    finish_stop,
)
from provisioning.model import Event, Instance, InventoryEntry, Limits, Phase, Reason
from provisioning.store.base import Change, StoredInstance
from tests.provisioning.making import NOW_S, instance

LIMITS = Limits(retry_failed_s=600.0, backoff_base_s=1.0)
DONE = Outcome(Result.DONE, duration_s=2.0)


def starting(**fields: object) -> Instance:
    made = instance(1, phase=Phase.STARTING, started_s=0.0, generation=3)
    return replace(made, **fields)


def stopping(reason: Reason, **fields: object) -> Instance:
    return replace(instance(1, phase=Phase.STOPPING, reason=reason, generation=3), **fields)


def crashes(*ages_s: float) -> tuple[Event, ...]:
    return tuple(Event(NOW_S - age_s, "exited") for age_s in ages_s)


def started(one: Instance, outcome: Outcome) -> Instance:
    return finish_start(one, outcome, limits=LIMITS, now_s=NOW_S)


def stopped(one: Instance, outcome: Outcome = DONE) -> Instance | None:
    return finish_stop(one, outcome, limits=LIMITS, now_s=NOW_S)


def test_a_start_that_goes_on_is_listed_as_its_container_is_made() -> None:
    """After a stop, and where the record is of a release that did not write it."""
    entry = InventoryEntry("llama3", "fleet", "10.0.0.9")

    one = begin(Start("chat-00001", entry), starting(inventory_entry=InventoryEntry()), now_s=NOW_S)

    assert starting(inventory_entry=entry) == one


def test_an_action_on_what_is_gone_makes_nothing() -> None:
    assert None is begin(Drain("chat-00001", Reason.ROTATED), None, now_s=NOW_S)


def test_reschedule_begins_a_generation_in_its_new_place() -> None:
    failed = instance(
        1,
        phase=Phase.FAILED,
        retry_at_s=5.0,
        is_replace_asked=True,
        n_failures=2,
        fault="bad luck",
        n_stop_tries=4,
    )
    entry = InventoryEntry("llama4", "fleet", "10.0.0.2")
    action = Reschedule(failed.id, "n2", 99, 7, "new", 3.0, 5, entry, Reason.CHANGED)

    one = begin(action, failed, now_s=NOW_S)

    assert one
    assert ("n2", 99, 7, Phase.STARTING, NOW_S) == (
        one.node,
        one.port,
        one.generation,
        one.phase,
        one.phase_since_s,
    )
    assert ("new", 3.0, 5, 0.0) == (one.workload, one.cpus, one.memory_bytes, one.started_s)
    assert (entry, 0) == (one.inventory_entry, one.n_stop_tries)
    assert (0.0, False, 2, "bad luck") == (
        one.retry_at_s,
        one.is_replace_asked,
        one.n_failures,
        one.fault,
    )
    assert Event(NOW_S, "changed", "n1 → n2", 7) == one.history[-1]


@pytest.mark.parametrize("workload", ["same", "new"])
def test_what_was_healthy_counts_as_that_until_it_is_to_run_another_workload(workload: str) -> None:
    fresh = starting(workload="same")
    served = started(fresh, DONE)
    action = Reschedule(
        served.id, "n2", 99, 7, workload, 3.0, 5, InventoryEntry(), Reason.NODE_LOST
    )

    moved = begin(action, served, now_s=NOW_S)

    assert moved
    stopped_ = stopped(replace(served, phase=Phase.STOPPING, reason=Reason.EXITED))
    assert stopped_
    assert [False, True, True] == [one.has_served for one in (fresh, served, stopped_)]
    assert (workload == "same") is moved.has_served


def test_drained_for_good_gives_its_developer_back() -> None:
    owned = instance(1, developer="ada")

    gone = begin(Drain(owned.id, Reason.SCALED_DOWN), owned, now_s=NOW_S)
    kept = begin(Drain(owned.id, Reason.ROTATED), owned, now_s=NOW_S)

    assert gone
    assert kept
    assert ("", "ada") == (gone.developer, kept.developer)
    assert (Phase.DRAINING, NOW_S, Reason.ROTATED) == (kept.phase, kept.phase_since_s, kept.reason)


def test_drained_for_another_reason_does_not_drain_longer() -> None:
    draining = instance(1, phase=Phase.DRAINING, reason=Reason.ROTATED, phase_since_s=NOW_S - 9.0)

    one = begin(Drain(draining.id, Reason.SCALED_DOWN), draining, now_s=NOW_S)

    assert one
    assert (NOW_S - 9.0, Reason.SCALED_DOWN) == (one.phase_since_s, one.reason)


def test_stopped_tells_why_once() -> None:
    running = instance(1)
    draining = begin(Drain(running.id, Reason.ROTATED), running, now_s=NOW_S)

    drained = begin(Stop(running.id, Reason.ROTATED), draining, now_s=NOW_S)
    exited = begin(Stop(running.id, Reason.EXITED, "status 1"), running, now_s=NOW_S)

    assert drained
    assert exited
    assert ["rotated"] == [event.what for event in drained.history]
    assert [("exited", "status 1")] == [(event.what, event.detail) for event in exited.history]
    assert ("status 1", Phase.STOPPING) == (exited.fault, exited.phase)


def test_what_crashed_while_it_drained_says_so() -> None:
    draining = instance(1, phase=Phase.DRAINING, reason=Reason.ROTATED)

    one = begin(Stop(draining.id, Reason.ROTATED, "status 1"), draining, now_s=NOW_S)

    assert one
    assert [("rotated", "status 1")] == [(event.what, event.detail) for event in one.history]
    assert ("status 1", Phase.STOPPING) == (one.fault, one.phase)


def test_a_stop_that_goes_on_changes_nothing() -> None:
    one = stopping(Reason.ROTATED)

    assert one is begin(Stop(one.id, Reason.ROTATED), one, now_s=NOW_S)


def test_a_stop_that_is_for_good_after_all_knows_it() -> None:
    one = begin(Stop("chat-00001", Reason.SCALED_DOWN), stopping(Reason.ROTATED), now_s=NOW_S)

    assert one
    assert (Phase.STOPPING, Reason.SCALED_DOWN) == (one.phase, one.reason)


def test_stopped_for_good_gives_its_developer_back() -> None:
    one = begin(Stop("chat-00001", Reason.SCALED_DOWN), instance(1, developer="ada"), now_s=NOW_S)

    assert one
    assert "" == one.developer


def test_started_runs_and_has_nothing_against_it_any_more() -> None:
    one = started(
        starting(reason=Reason.EXITED, n_failures=2, fault="bad luck", retry_at_s=5.0), DONE
    )

    assert (Phase.RUNNING, NOW_S, NOW_S) == (one.phase, one.phase_since_s, one.started_s)
    assert (None, 0, "", 0.0) == (one.reason, one.n_failures, one.fault, one.retry_at_s)
    assert Event(NOW_S, "started", "in 2.0 s", 3) == one.history[-1]


@pytest.mark.parametrize(
    ("result", "n_failures", "delay_s"),
    [
        (Result.FAILED, 0, 600.0),
        (Result.PERMANENT, 0, 600.0),
        (Result.UNREACHABLE, 0, 1.0),
        (Result.RESOURCE_EXHAUSTED, 0, 1.0),
        (Result.RESOURCE_EXHAUSTED, 3, 8.0),
        (Result.RESOURCE_EXHAUSTED, 5000, 600.0),
    ],
)
def test_what_failed_is_tried_again_after_a_while(
    result: Result, n_failures: int, delay_s: float
) -> None:
    one = started(starting(n_failures=n_failures), Outcome(result, "bad luck", n_tries=3))

    assert (Phase.FAILED, NOW_S + delay_s) == (one.phase, one.retry_at_s)
    assert (n_failures + 1, "bad luck", NOW_S) == (one.n_failures, one.fault, one.phase_since_s)
    given_up = f"given up on n1 after 3 tries, again in {delay_s:.1f} s: bad luck"
    assert Event(NOW_S, "failed", given_up, 3) == one.history[-1]


def test_the_nodes_of_failed_starts_are_remembered_the_latest_last() -> None:
    one = starting(failed_on=("n1", "n2"))
    for node in ("n1", "n3", "n4", "n5", "n6"):
        one = started(replace(one, node=node), Outcome(Result.FAILED, "bad luck"))

    assert ("n1", "n3", "n4", "n5", "n6") == one.failed_on


@pytest.mark.parametrize(("reason", "expected"), [(None, ("n1",)), (Reason.CHANGED, ())])
def test_the_nodes_of_failed_starts_are_forgotten_with_what_was_started(
    reason: Reason | None, expected: tuple[str, ...]
) -> None:
    failed = instance(1, phase=Phase.FAILED, failed_on=("n1",))

    action = Reschedule(failed.id, "n2", 99, 7, "new", 3.0, 5, InventoryEntry(), reason)
    moved = begin(action, failed, now_s=NOW_S)
    stopped_ = stopped(stopping(Reason.ROTATED, failed_on=("n1",)))

    assert moved
    assert stopped_
    assert (expected, ()) == (moved.failed_on, stopped_.failed_on)
    assert () == started(starting(failed_on=("n1",)), DONE).failed_on


def test_what_was_stopped_starts_again_in_its_place() -> None:
    one = stopped(stopping(Reason.ROTATED, is_replace_asked=True, n_stop_tries=4))

    assert one
    assert (Phase.STARTING, 4, NOW_S, 0.0) == (
        one.phase,
        one.generation,
        one.phase_since_s,
        one.started_s,
    )
    assert ("n1", 20_001, False) == (one.node, one.port, one.is_replace_asked)
    assert (instance(1).inventory_entry, 0) == (one.inventory_entry, one.n_stop_tries)


def test_what_was_scaled_down_is_gone() -> None:
    assert None is stopped(stopping(Reason.SCALED_DOWN))


@pytest.mark.parametrize("reason", [Reason.SCALED_DOWN, Reason.ROTATED])
def test_what_could_not_be_stopped_is_stopped_again(reason: Reason) -> None:
    one = stopping(reason)

    again = stopped(one, Outcome(Result.FAILED, "busy", n_tries=3))

    told = Event(NOW_S, "stop_failed", "after 3 tries: busy", 3)
    assert replace(one, fault="busy", n_stop_tries=3, history=(told,)) == again


def test_all_failures_of_a_stop_share_a_line_of_the_history() -> None:
    """They go on for as long as the container cannot be removed, and what led to it stays."""
    one = stopping(Reason.EXITED, history=crashes(9.0))
    for number in range(MAX_EVENTS + 5):
        again = stopped(one, Outcome(Result.FAILED, f"busy {number}", n_tries=3))
        assert again
        one = again

    told = Event(NOW_S, "stop_failed", f"after 75 tries: busy {MAX_EVENTS + 4}", 3)
    assert (*crashes(9.0), told) == one.history


@pytest.mark.parametrize(
    ("ages_s", "delay_s"),
    [
        ((0.0,), 0.0),
        ((0.0, 10.0), 1.0),
        ((0.0, 10.0, 20.0), 4.0),
        ((0.0, 10.0, 20.0, 30.0), 16.0),
        (tuple(range(10)), 600.0),
        ((0.0, 3600.0), 0.0),
        ((0.0, 3599.0), 1.0),
    ],
)
@pytest.mark.parametrize("reason", [Reason.EXITED, Reason.OUT_OF_MEMORY, Reason.UNHEALTHY])
def test_what_crashes_again_and_again_waits_ever_longer(
    reason: Reason, ages_s: tuple[float, ...], delay_s: float
) -> None:
    one = stopped(stopping(reason, history=crashes(*ages_s)))

    assert one
    expected = (Phase.FAILED, NOW_S + delay_s) if delay_s else (Phase.STARTING, 0.0)
    assert expected == (one.phase, one.retry_at_s)
    assert len(ages_s) == len(one.history)


def test_what_is_held_back_says_how_often_it_crashed_and_for_how_long() -> None:
    """In the line of the crash: those that are kept tell how long to wait the next time."""
    earlier = crashes(4000.0, 20.0)
    crashed = Event(NOW_S, "exited", "status 1 " + "x" * MAX_DETAIL, 3)
    stop_failed = Event(NOW_S, "stop_failed", "after 3 tries: busy", 3)
    history = (*earlier, crashed, stop_failed)

    one = stopped(stopping(Reason.EXITED, history=history, fault="status 1", n_stop_tries=3))

    assert one
    *before, told, last = one.history
    assert ([*earlier], stop_failed) == (before, last)
    assert told.detail.startswith("crash 2 within an hour, again in 1.0 s: status 1 x")
    assert MAX_DETAIL == len(told.detail)
    assert (NOW_S, "status 1", 0) == (one.phase_since_s, one.fault, one.n_stop_tries)


def test_crashes_do_not_delay_a_rotation() -> None:
    one = stopped(stopping(Reason.ROTATED, history=crashes(0.0, 1.0, 2.0)))

    assert one
    assert Phase.STARTING is one.phase


def test_a_history_keeps_the_latest_events_and_details_are_short() -> None:
    one = starting()
    for number in range(MAX_EVENTS + 5):
        one = started(one, Outcome(Result.FAILED, f"{number} " + "x" * 10_000))

    assert MAX_EVENTS == len(one.history)
    assert f": {MAX_EVENTS + 4} xx" in one.history[-1].detail
    assert MAX_DETAIL == len(one.history[-1].detail)


def test_the_outcome_of_an_earlier_generation_or_phase_changes_nothing() -> None:
    one = starting()

    def written(operation: Operation) -> list[Change]:
        stored = {one.id: StoredInstance(one, 1)}
        return changes_after([(operation, DONE)], stored, limits=LIMITS, now_s=NOW_S)

    assert 1 == len(written(Operation(Kind.START, "n1", one.container, one.id, one.generation)))
    assert [] == written(Operation(Kind.START, "n1", one.container, one.id, one.generation - 1))
    assert [] == written(Operation(Kind.STOP, "n1", one.container, one.id, one.generation))
