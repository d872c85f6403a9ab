"""The line in the log."""

from __future__ import annotations

from provisioning.actions import (
    Action,
    Assign,
    Drain,
    Forget,
    Place,
    Renew,
    Start,
    Stop,
    Sweep,
)
from provisioning.lifecycle import Kind, Operation, Outcome, Result
from provisioning.model import Listing, Reason
from provisioning.report import Report, events_of
from tests.provisioning.making import instance

DONE = Outcome(Result.DONE)


def test_the_line_says_what_was_found_and_done() -> None:
    report = Report(
        number=1812,
        n_wanted=10_000,
        n_as_wanted=9_998,
        events={"started": 1, "drained (rotated)": 1},
        n_running=3,
        n_refused=2,
        duration_s=0.0421,
    )

    assert (
        "pass 1,812: 9,998 of 10,000 as wanted, 1 started, 1 drained (rotated), 3 under way, "
        "2 refused by the store, 0.04 s"
    ) == str(report)


def test_a_quiet_pass_has_a_short_line() -> None:
    report = Report(number=7, n_wanted=3, n_as_wanted=3, events={})

    assert "pass 7: 3 as wanted, 0.00 s" == str(report)
    assert report.is_quiet


def test_events_are_counted_by_what_they_are() -> None:
    start = Operation(Kind.START, "n1", "a.1", "a", 1)
    ended = [
        (start, DONE),
        (start, Outcome(Result.FAILED)),
        (start, Outcome(Result.LASTING)),
        (start, Outcome(Result.NO_ROOM)),
        (Operation(Kind.STOP, "n1", "b.1", "b", 1), DONE),
        (Operation(Kind.SWEEP, "n1", "c.1"), Outcome(Result.UNREACHABLE)),
    ]
    begun: list[Action] = [
        Place(instance(1)),
        Place(instance(2)),
        Start("a", Listing()),
        Renew("a", "n1", 1, 2, "w", 1.0, 1, Listing()),
        Renew("a", "n1", 1, 2, "w", 1.0, 1, Listing(), Reason.NODE_LOST),
        Drain("a", Reason.ROTATED),
        Stop("a", Reason.EXITED),
        Forget("a"),
        Assign("a", "ada"),
        Assign("a", ""),
        Sweep("n1", "c.1"),
    ]

    assert {
        "started": 1,
        "start failed": 1,
        "start failed for good": 1,
        "start found no room": 1,
        "stopped": 1,
        "sweep not reached": 1,
        "placed": 2,
        "being started": 1,
        "placed anew (retried)": 1,
        "placed anew (node_lost)": 1,
        "drained (rotated)": 1,
        "being stopped (exited)": 1,
        "forgotten": 1,
        "assigned": 1,
        "given back": 1,
        "being swept": 1,
    } == events_of(ended, begun)
