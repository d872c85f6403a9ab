"""What a reconcile counts, and what the log says of it."""

from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace

from provisioning.actions import Action, AssignDeveloper, CreateInstance, Drain, Reschedule, Stop
from provisioning.errors import PermanentError
from provisioning.lifecycle import Kind, Operation, Outcome, Result
from provisioning.model import ContainerSpec, Instance, InventoryEntry, Limits, Phase, Reason
from provisioning.report import (
    BURST,
    MAX_FAULT,
    ReconcileLog,
    Report,
    count_waiting,
    events_of,
    reasons_of,
)
from provisioning.store.base import StoredInstance
from tests.provisioning.making import NOW_S, fleet, instance, node, observed, pool
from tests.provisioning.scene import provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.provisioning.world import SimulatedRuntime

ID = "chat-00001"
START = Operation(Kind.START, "n1", f"{ID}.1", ID, 1)
QUIET = Report(number=7, n_wanted=3, n_ready=3, events={})
TWO_NODES = (node("n1"), node("n2"))


def said(caplog: pytest.LogCaptureFixture, *names: str) -> list[str]:
    """Return the warnings and errors of these loggers."""
    return [
        one.getMessage()
        for one in caplog.records
        if one.levelno >= logging.WARNING and one.name.removeprefix("provisioning.") in names
    ]


# Counts


def test_the_line_of_a_reconcile_has_its_counts() -> None:
    events = events_of(
        ((START, Outcome(Result.DONE)), (START, Outcome(Result.DONE))),
        [CreateInstance(instance(1)), Drain(ID, Reason.ROTATED)],
    )
    report = Report(
        number=12, n_wanted=10_000, n_ready=9_998, events=events, n_actions=2, n_running=3,
        n_waiting=4, n_refused=1, duration_s=0.0421,
    )  # fmt: skip

    assert (
        "reconcile n=12 ready=9998 wanted=10000 actions=2 running=3 waiting=4 refused=1 "
        "start_done=2 create_instance=1 drain_rotated=1 duration_s=0.042"
    ) == str(report)
    assert (False, True) == (report.is_quiet, QUIET.is_quiet)


def waiting(*instances: Instance, count: int, working: tuple[str, ...] = ()) -> int:
    stored = {one.id: StoredInstance(one, 1) for one in instances}
    return count_waiting(fleet(pool(count)), stored, working, now_s=NOW_S)


def test_an_instance_waits_while_it_has_work_and_nothing_works_on_it() -> None:
    for one, expected in (
        (instance(), 0),
        (instance(phase=Phase.STARTING), 1),
        (instance(phase=Phase.STOPPING, reason=Reason.EXITED), 1),
        (instance(phase=Phase.DRAINING, reason=Reason.ROTATED), 0),
        (instance(phase=Phase.FAILED, retry_at_s=NOW_S), 1),
        (instance(phase=Phase.FAILED, retry_at_s=NOW_S + 1), 0),
        (instance(phase=Phase.FAILED), 0),
    ):
        assert expected == waiting(one, count=1), one
        assert 0 == waiting(one, count=1, working=(ID,))


def test_instances_without_a_record_wait_in_their_own_pool() -> None:
    leaving = instance(2, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN)

    assert 3 == waiting(instance(1), leaving, count=4)
    assert 2 == waiting(instance(1), instance(9, pool="gone"), count=3)


def test_an_instance_is_given_up_once_for_the_reason_of_its_action() -> None:
    moved = Reschedule(ID, "n2", 20_001, 2, "w", 1.0, 1, InventoryEntry(), Reason.NODE_LOST)
    drained = instance(phase=Phase.DRAINING, reason=Reason.ROTATED)
    cases: list[tuple[Action, Instance, dict[str, str]]] = [
        (Drain(ID, Reason.ROTATED), instance(), {ID: "rotated"}),
        (Stop(ID, Reason.UNHEALTHY), instance(), {ID: "unhealthy"}),
        (Stop(ID, Reason.ROTATED), drained, {}),  # it goes on
        (Stop(ID, Reason.EXITED), drained, {ID: "exited"}),
        (moved, instance(phase=Phase.STARTING, reason=Reason.NODE_LOST), {ID: "node_lost"}),
        (replace(moved, reason=None), instance(phase=Phase.FAILED, reason=Reason.EXITED), {}),
        (AssignDeveloper(ID, "ada"), instance(), {}),
    ]
    for action, known, expected in cases:
        assert expected == reasons_of([action], observed([known])), action


# The log


def test_failed_operations_and_exits_are_logged_with_their_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stored = observed([instance(1), instance(2, node="n2")]).stored
    begun = [
        Stop("chat-00002", Reason.EXITED, "status -9 (SIGKILL)"),
        Stop(ID, Reason.EXITED),  # it goes on
        Stop(ID, Reason.UNHEALTHY, "failed 3 health checks"),
    ]
    ended = [(START, Outcome(result, "x" * 1000)) for result in Result]

    async def scene() -> None:
        ReconcileLog(VirtualClock()).note_done(QUIET, tuple(ended), begun, stored)

    virtual_run(scene())

    *failures, ending = said(caplog, "report")
    assert [
        f"start {result} instance={ID} node=n1: {'x' * MAX_FAULT}"
        for result in Result
        if result is not Result.DONE
    ] == failures
    assert "exited instance=chat-00002 node=n2: status -9 (SIGKILL)" == ending


def test_a_pool_that_cannot_be_started_floods_no_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: SimulatedRuntime, container: ContainerSpec) -> None:
        raise PermanentError("the image is missing")

    monkeypatch.setattr(SimulatedRuntime, "start", refuse)

    async def scene() -> None:
        limits = Limits(operations_per_node=50, retry_failed_s=600.0)
        roomy = node().replace(cpus=100.0, memory_bytes=2**50)
        async with provisioner(fleet(pool(40), nodes=(roomy,), limits=limits)):
            await VirtualClock().sleep(300.0)

    virtual_run(scene())

    told = said(caplog, "report")
    assert f"start {Result.PERMANENT} instance={ID} node=n1: the image is missing" == told[0]
    assert BURST == len(told)


def test_a_crash_and_a_failed_health_check_are_one_line_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(3))) as stage:
            await stage.until(stage.is_whole)
            stage.world.kill(stage.instances[0].container, is_out_of_memory=True)
            stage.world.sicken(stage.instances[1].container)
            await stage.until(lambda: stage.instances[1].generation == 2)
            await stage.until(stage.is_whole)

    virtual_run(scene())

    crash, unhealthy = said(caplog, "report", "health")
    assert crash.startswith(
        f"out_of_memory instance={ID} node=n1: its container has exited, status -9 (SIG"
    )
    assert unhealthy.startswith("instance unhealthy instance=chat-00002 node=n1: failed 3 health")


def test_a_node_that_fails_and_returns_is_logged_with_what_becomes_of_its_instances(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        limits = Limits(node_grace_s=60.0)
        async with provisioner(fleet(pool(4), nodes=TWO_NODES, limits=limits)) as stage:
            await stage.until(stage.is_whole)
            stage.world.silence("n2")
            await VirtualClock().sleep(220.0)
            assert {"n1"} == {one.node for one in stage.instances}
            stage.world.restore("n2")
            await stage.until(stage.is_whole, within_s=60.0)

    virtual_run(scene())

    (lost,) = [one for one in said(caplog, "report") if one.startswith("node lost")]
    assert lost.startswith("node lost node=n2 instances=2: ")
    first, *_, back = [
        one.getMessage() for one in caplog.records if one.name == "provisioning.nodes"
    ]
    assert first.startswith("node does not answer node=n2 failed=1 of=")
    assert back.startswith("node answers again node=n2 after_s=2")
