"""A start of no more use is called off: nobody waits until it has failed."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from provisioning.actions import Action, Stop
from provisioning.lifecycle import Kind, Operation, Operations, Outcome, Result
from provisioning.model import Instance, Limits, NodeReport, Phase, Reason, Rotation
from provisioning.reconcile import decide
from tests.provisioning.making import (
    CHAT,
    NOW_S,
    fleet,
    instance,
    node,
    observed,
    pool,
    report,
    silent,
)
from tests.provisioning.scene import provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.provisioning.world import Behaviour

STARTING = instance(1, phase=Phase.STARTING)
STOPPING = instance(1, phase=Phase.STOPPING, reason=Reason.CHANGED)
NEW = replace(CHAT, model="new")
BAD = replace(CHAT, image="bad")
HANGS = Behaviour(start_s=1.0, hang_ratio=1.0)
"""It runs, and never gets healthy."""
PULLS = Behaviour(start_s=1e6)
FAILS = Behaviour(failure_ratio=1.0)
PATIENT = Limits(
    start_timeout_s=3600.0,
    operations=3,
    unavailable_ratio=0.25,
    backoff_base_s=1e6,
    backoff_cap_s=1e6,
)
"""A start that cannot succeed takes hours to fail, and two of them leave no operation to others
that never served."""


class TestDeciding:
    """What is called off, and what is not."""

    def test_a_start_that_is_wanted_goes_on(self) -> None:
        assert () == decided(STARTING)

    def test_a_start_that_is_too_much_is_called_off(self) -> None:
        assert (Stop(STARTING.id, Reason.SCALED_DOWN),) == decided(STARTING, count=0)

    def test_a_start_of_another_workload_is_called_off(self) -> None:
        assert (Stop(STARTING.id, Reason.CHANGED),) == decided(STARTING, workload=NEW)

    @pytest.mark.parametrize("one", [STARTING, STOPPING], ids=["ended", "stopped"])
    def test_an_operation_that_is_no_start_any_more_is_not_called_off(self, one: Instance) -> None:
        assert () == decided(one, starting=(), working=[one.id], workload=NEW)
        assert () == decided(one, starting=(), working=[one.id], count=0)

    def test_a_start_whose_stop_was_written_without_being_begun_is_called_off(self) -> None:
        assert (Stop(STOPPING.id, Reason.CHANGED),) == decided(STOPPING)
        assert (Stop(STOPPING.id, Reason.SCALED_DOWN),) == decided(STOPPING, count=0)

    @pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.DRAINING, Phase.FAILED])
    def test_a_record_that_tells_of_no_start_waits_for_its_end(self, phase: Phase) -> None:
        one = instance(1, phase=phase, since_s=1.0)

        assert () == decided(one, workload=NEW)
        assert () == decided(one, count=0)

    @pytest.mark.parametrize("for_s", [60.0, 1e6])
    def test_where_its_node_is_silent_or_lost_a_start_is_left_to_its_time_out(
        self, for_s: float
    ) -> None:
        reports = [silent("n1", for_s=for_s)]

        assert () == decided(STARTING, reports=reports, workload=NEW)
        assert () == decided(STARTING, reports=reports, count=0)

    def test_one_that_has_to_leave_its_node_goes_on_for_there_may_be_no_room_elsewhere(
        self,
    ) -> None:
        desired = fleet(pool(1), nodes=[node(is_cordoned=True)])

        assert () == decide(desired, observed([STARTING], starting=[STARTING.id]), NOW_S)

    def test_the_stop_needs_no_operation_beside_that_of_the_start(self) -> None:
        limits = Limits(operations=2)
        starting = [replace(STARTING, id=f"chat-{n:05}", port=20_000 + n) for n in (1, 2)]
        desired = fleet(pool(2, workload=NEW), limits=limits)

        actions = decide(desired, observed(starting, starting=[one.id for one in starting]), NOW_S)

        assert [Stop(one.id, Reason.CHANGED) for one in starting] == list(actions)


def decided(
    one: Instance,
    *,
    count: int = 1,
    workload: object = CHAT,
    starting: tuple[str, ...] = (STARTING.id,),
    reports: list[NodeReport] | None = None,
    working: list[str] | None = None,
) -> tuple[Action, ...]:
    """Return what is decided of an instance that is being started."""
    seen = observed([one], reports or [report("n1")], starting=starting, working=working or ())
    return decide(fleet(pool(count, workload=workload)), seen, NOW_S)


class TestProvisioning:
    """A whole provisioner, whose starts take hours to fail."""

    @pytest.mark.parametrize("bad", [HANGS, PULLS, FAILS], ids=["hangs", "pulls", "fails"])
    @pytest.mark.parametrize("n_answers", [0, 1])
    def test_a_rollback_waits_for_no_start(self, bad: Behaviour, n_answers: int) -> None:
        async def scene() -> None:
            chat = pool(8, rotation=Rotation(every_s=0.0, drain_s=0.0))
            async with provisioner(fleet(chat, limits=PATIENT)) as stage:
                await stage.until(stage.is_whole)
                stage.world.behave(bad, image="bad")
                await stage.put_spec(fleet(replace(chat, workload=BAD), limits=PATIENT))
                await VirtualClock().sleep(300.0)
                assert 2 == stage.controller.n_running

                await stage.put_spec(fleet(chat, limits=PATIENT))
                stage.store.forgets_answers = n_answers
                await stage.until(stage.is_whole, within_s=40.0)
                assert 6 == sum(one.generation == 1 for one in stage.instances)

        virtual_run(scene())

    @pytest.mark.parametrize("bad", [HANGS, PULLS, FAILS], ids=["hangs", "pulls", "fails"])
    def test_a_scale_down_waits_for_no_start(self, bad: Behaviour) -> None:
        async def scene() -> None:
            async with provisioner(fleet(pool(2), limits=PATIENT), behaviour=bad) as stage:
                await VirtualClock().sleep(300.0)
                assert 2 == stage.controller.n_running

                await stage.put_spec(fleet(pool(0), limits=PATIENT))
                await stage.until(stage.is_whole, within_s=20.0)

                assert [] == stage.instances
                assert 0 == stage.controller.n_running

        virtual_run(scene())


class TestOperations:
    """How a start ends that is called off."""

    def test_it_has_ended_when_the_stop_begins_and_leaves_no_outcome(self) -> None:
        async def scene() -> None:
            seen: list[str] = []
            operations = Operations(on_end=lambda: None)
            operations.begin(operation(Kind.START, "a"), slow_to_end(seen))
            operations.begin(operation(Kind.START, "b"), done_after(5.0))
            await VirtualClock().sleep(1.0)

            await operations.cancel_start("a")

            assert ["ended"] == seen
            assert frozenset({"b"}) == operations.starting()
            await VirtualClock().sleep(9.0)
            assert [operation(Kind.START, "b")] == [one for one, _ in operations.ended]

        virtual_run(scene())

    def test_it_is_called_off_once_and_a_stop_never(self) -> None:
        async def scene() -> None:
            operations = Operations(on_end=lambda: None)
            operations.begin(operation(Kind.START, "a"), done_after(5.0))
            assert frozenset({"a"}) == operations.starting()

            operations.begin(operation(Kind.STOP, "a"), done_after(1.0))
            assert frozenset() == operations.starting()
            assert frozenset({"a"}) == operations.working()
            await operations.cancel_start("a")
            await operations.cancel_start("a")
            await VirtualClock().sleep(9.0)

            assert [operation(Kind.STOP, "a")] == [one for one, _ in operations.ended]

        virtual_run(scene())


def operation(kind: Kind, id_: str) -> Operation:
    return Operation(kind, "n1", f"{id_}.1", id_, 1)


async def slow_to_end(seen: list[str]) -> Outcome:
    try:
        await VirtualClock().sleep(1e6)
    finally:
        await asyncio.shield(VirtualClock().sleep(3.0))
        seen.append("ended")
    return Outcome(Result.DONE)


async def done_after(duration_s: float) -> Outcome:
    await VirtualClock().sleep(duration_s)
    return Outcome(Result.DONE)
