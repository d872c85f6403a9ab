"""Leading, waiting to lead, and what becomes of a term."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from provisioning.errors import FencedError, StoreError, StoreUnavailableError
from provisioning.model import Phase
from provisioning.store.base import LeaderSession, Put
from provisioning.store.memory import MemoryBackend, MemoryLeadership
from tests.provisioning.making import fleet, node, pool
from tests.provisioning.scene import QUICK, provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.provisioning.world import SimulatedRuntime

TWO_NODES = (node("n1", address="127.0.0.1"), node("n2", address="127.0.0.2"))


def test_a_successor_adopts_what_runs_and_goes_on_with_what_was_begun() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(8), nodes=TWO_NODES)) as first:
            await first.until(lambda: len(first.running_containers) >= 3)
            await VirtualClock().sleep(0.3)
            await first.stop()
            running = {one.id for one in first.instances if one.phase is Phase.RUNNING}
            before = {one.id: one for one in first.instances}

            async with provisioner(
                None, world=first.world, backend=first.backend, name="two"
            ) as second:
                await second.until(second.is_whole)

                assert {1} == {one.generation for one in second.instances}
                assert all(before[one.id] == one for one in second.instances if one.id in running)

    virtual_run(scene())


def test_nothing_changes_once_the_term_is_lost_and_instances_go_on() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(8), nodes=TWO_NODES)) as stage:
            await stage.until(lambda: len(stage.running_containers) >= 2)
            assert stage.backend.session
            usurper = stage.backend.session

            usurper.end()
            stage.backend.session = None
            stage.backend.begin_term("another")
            await VirtualClock().sleep(0.1)
            before, containers = stage.instances, stage.running_containers
            await VirtualClock().sleep(300.0)

            assert before == stage.instances
            assert containers == stage.running_containers
            assert 0 == stage.controller.loop.n_running
            assert None is stage.controller.term

    virtual_run(scene())


def test_a_store_that_refuses_is_asked_ever_less_often_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        async with provisioner(fleet(pool(4))) as stage:
            await stage.until(stage.is_whole)
            stage.store.refusal = StoreError("cannot write: permission denied")
            stage.world.kill(stage.instances[0].container)
            await VirtualClock().sleep(600.0)
            assert 10 < stage.store.n_refused < 20
            assert 1 == stage.counters.n_outages

            stage.store.refusal = None
            await stage.until(stage.is_whole, within_s=90.0)
            assert [2, 1, 1, 1] == [one.generation for one in stage.instances]
            assert said(caplog, "reconciler")[-1].startswith("store takes writes after_s=6")

    virtual_run(scene())

    told = [line for line in said(caplog, "reconciler") if "leadership lost" in line]
    words = "store refused, leadership lost failed=1 of=1 for_s=0: cannot write: permission denied"
    assert words == told[0]
    assert 3 < len(told) < 8  # at growing intervals


def test_no_task_is_left_and_no_operation_half_written_wherever_it_is_stopped() -> None:
    """Stopped after each tenth of a second of its work, the next one always completes it."""

    async def scene(after_s: float) -> None:
        async with provisioner(fleet(pool(4)), behaviour=QUICK) as first:
            await VirtualClock().sleep(after_s)
            await first.stop()
            assert {asyncio.current_task()} == asyncio.all_tasks()
            async with provisioner(
                None, world=first.world, backend=first.backend, name="two"
            ) as second:
                await second.until(second.is_whole)

    for tenths in range(60):
        virtual_run(scene(tenths / 10))


def test_who_does_not_lead_any_more_collects_nothing() -> None:
    """Even before it has heard that its term is over, and with nothing to write."""

    async def scene() -> None:
        async with provisioner(fleet(pool(1))) as stage:
            await stage.until(stage.is_whole)
            (container,) = stage.world.containers("n1")
            stage.store.refusal = FencedError("its term is over")
            orphan = replace(container, name="chat-00009.1", instance_id="chat-00009", port=20_999)
            await SimulatedRuntime(stage.world, "n1", "test").start(orphan)
            await VirtualClock().sleep(60.0)
            assert "chat-00009.1" in stage.running_containers
            assert stage.store.n_refused > 3

            stage.store.refusal = None
            await stage.until(stage.is_whole, within_s=30.0)

    virtual_run(scene())


def test_a_standby_says_once_who_leads_and_a_leader_when_it_stands_by_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        async with provisioner(fleet(pool(1)), name="one") as first:
            await first.until(first.is_whole)
            async with provisioner(
                None, world=first.world, backend=first.backend, name="two"
            ) as second:
                await VirtualClock().sleep(600.0)
                assert ["standby leader=one"] == said(caplog, "standby")

                await first.stop()
                await second.until(lambda: second.controller.term)
                await VirtualClock().sleep(60.0)
                async with provisioner(
                    None, world=first.world, backend=first.backend, name="one"
                ) as third:
                    await VirtualClock().sleep(60.0)
                    assert third.backend.session
                    third.backend.session.end()
                    third.backend.end_term(third.backend.session)
                    await third.until(lambda: third.controller.term)
                    await VirtualClock().sleep(60.0)

    virtual_run(scene())

    told = ["standby leader=one", "standby leader=two", "standby leader=one"]
    assert told == said(caplog, "standby")


class Distant(MemoryLeadership):
    """A leadership that cannot be asked for at first."""

    n_failures = 0

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[LeaderSession]:
        if Distant.n_failures:
            Distant.n_failures -= 1
            raise StoreUnavailableError("no member answers")
        async with super().lead() as session:
            yield session

    async def leader(self) -> str | None:
        return None if Distant.n_failures else await super().leader()


@pytest.mark.parametrize("is_led", [False, True], ids=["leads", "stands by"])
def test_a_provisioner_that_cannot_lead_says_so_once_a_minute_until_the_store_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_led: bool
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("tests.provisioning.scene.MemoryLeadership", Distant)
    monkeypatch.setattr(Distant, "n_failures", 90)

    async def scene() -> None:
        backend = MemoryBackend()
        session = backend.begin_term("another")
        if not is_led:
            backend.end_term(session)
        async with provisioner(None, backend=backend) as stage:
            await VirtualClock().sleep(120.0)
            assert 1 == stage.counters.n_outages
            assert is_led == (stage.controller.term is None)

    virtual_run(scene())

    words = "store unavailable, cannot lead"
    assert [
        f"{words} failed=1 of=1 for_s=0: no member answers",
        f"{words} failed=60 of=60 for_s=60: no member answers",
        "store available after_s=90",
    ] == [one for one in said(caplog, "reconciler") if not one.startswith("leading epoch=")]


STANDBY = "standby leader="


def said(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    """Return what the controller has logged: as a standby, or as one that leads or cannot."""
    lines = [one.getMessage() for one in caplog.records if one.name == "provisioning.controller"]
    return [line for line in lines if line.startswith(STANDBY) == (part == "standby")]


def test_each_term_begins_with_what_the_store_holds_then() -> None:
    """Even where nobody follows the store."""

    async def scene() -> None:
        async with provisioner(fleet(pool(2))) as stage:
            await stage.until(stage.is_whole)
            (following, _) = stage.tasks
            following.cancel()
            assert stage.controller.term
            ours, theirs = stage.instances
            renewed = replace(theirs, generation=7)
            backend = stage.backend

            session = backend.session
            assert session
            session.end()
            backend.end_term(session)
            other = backend.begin_term("another")
            backend.commit([Put(renewed, backend.stored[renewed.id].version)], other.term)
            await VirtualClock().sleep(30.0)
            backend.end_term(other)
            await stage.until(stage.is_whole, within_s=30.0)

            assert [ours.generation, 8] == [one.generation for one in stage.instances]

    virtual_run(scene())


def test_who_waited_long_to_lead_gives_silent_nodes_their_whole_grace() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(4), nodes=TWO_NODES)) as first:
            await first.until(first.is_whole)
            async with provisioner(
                None, world=first.world, backend=first.backend, name="two"
            ) as second:
                await VirtualClock().sleep(3600.0)
                first.world.silence("n2")
                await first.stop()
                await second.until(lambda: second.controller.term)

                await VirtualClock().sleep(110.0)
                assert {1} == {one.generation for one in second.instances}
                await second.until(
                    lambda: {"n1"} == {one.node for one in second.instances}, within_s=30.0
                )

    virtual_run(scene())
