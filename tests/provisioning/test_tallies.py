"""What waits to be begun, and why instances are given up."""

from __future__ import annotations

import pytest

from provisioning.actions import Action, Assign, Drain, Renew, Stop
from provisioning.model import Instance, Listing, Phase, Reason
from provisioning.report import count_waiting, reasons_of
from provisioning.store.base import Stored
from tests.provisioning.making import NOW_S, fleet, instance, observed, pool

ID = "chat-00001"


def waiting(*instances: Instance, count: int, working: tuple[str, ...] = ()) -> int:
    stored = {one.id: Stored(one, 1) for one in instances}
    return count_waiting(fleet(pool(count)), stored, working, now_s=NOW_S)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (instance(), 0),
        (instance(phase=Phase.STARTING), 1),
        (instance(phase=Phase.STOPPING, reason=Reason.EXITED), 1),
        (instance(phase=Phase.DRAINING, reason=Reason.ROTATED), 0),
        (instance(phase=Phase.FAILED, retry_at_s=NOW_S), 1),
        (instance(phase=Phase.FAILED, retry_at_s=NOW_S + 1), 0),
        (instance(phase=Phase.FAILED), 0),
    ],
    ids=["running", "starting", "stopping", "draining", "due", "not due", "for good"],
)
def test_an_instance_waits_while_it_has_work_and_nothing_works_on_it(
    one: Instance, expected: int
) -> None:
    assert expected == waiting(one, count=1)
    assert 0 == waiting(one, count=1, working=(ID,))


def test_instances_without_a_record_wait_and_those_on_their_way_out_are_none() -> None:
    leaving = instance(2, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN)

    assert 3 == waiting(instance(1), leaving, count=4)
    assert 0 == waiting(instance(1), instance(2), count=1)


def test_what_waits_in_one_pool_is_not_made_up_for_by_another() -> None:
    other = instance(9, pool="gone")

    assert 2 == waiting(instance(1), other, count=3)


def reasons(action: Action, known: Instance) -> dict[str, Reason]:
    return reasons_of([action], observed([known]))


def test_an_instance_is_given_up_for_the_reason_of_its_action() -> None:
    renew = Renew(ID, "n2", 20_001, 2, "w", 1.0, 1, Listing(), Reason.NODE_LOST)

    assert {ID: "rotated"} == reasons(Drain(ID, Reason.ROTATED), instance())
    assert {ID: "unhealthy"} == reasons(Stop(ID, Reason.UNHEALTHY), instance())
    assert {ID: "node_lost"} == reasons(renew, instance())


def test_what_goes_on_is_given_up_once() -> None:
    """A drain is followed by a stop, and a stop that failed by another."""
    drained = instance(phase=Phase.DRAINING, reason=Reason.ROTATED)
    stopped = instance(phase=Phase.STOPPING, reason=Reason.EXITED)

    assert {} == reasons(Stop(ID, Reason.ROTATED), drained)
    assert {} == reasons(Stop(ID, Reason.EXITED), stopped)
    assert {ID: "drained"} == reasons(Stop(ID, Reason.DRAINED), drained)


def test_a_second_lost_node_counts_again() -> None:
    moved = instance(phase=Phase.STARTING, reason=Reason.NODE_LOST)
    renew = Renew(ID, "n2", 20_001, 2, "w", 1.0, 1, Listing(), Reason.NODE_LOST)

    assert {ID: "node_lost"} == reasons(renew, moved)


def test_another_try_and_what_is_no_end_have_no_reason() -> None:
    renew = Renew(ID, "n2", 20_001, 2, "w", 1.0, 1, Listing())

    assert {} == reasons(renew, instance(phase=Phase.FAILED, reason=Reason.EXITED))
    assert {} == reasons(Assign(ID, "ada"), instance())
