"""Who is asked what: by the spec_index in force, and by nobody once it is closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from provisioning.model import ContainerState, Fleet, Instance, Node, NodeReport, Phase, Probe
from provisioning.nodes import NodeMonitor
from provisioning.spec_index import SpecIndex
from provisioning.store.base import Stored
from provisioning.workload import container_spec, listing_of
from tests.provisioning.making import CHAT, fleet, instance, node, pool
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.provisioning.world import SimulatedProber, SimulatedRuntime, World

N1, N2 = node("n1", address="127.0.0.1"), node("n2", address="127.0.0.2")
ONE = instance(1, node="n1", listing=listing_of(CHAT, N1))
TWO = instance(2, node="n2", listing=listing_of(CHAT, N2))
FLEET = fleet(pool(2), nodes=(N1, N2))


@dataclass
class Scene:
    """A lookout over a simulated world, and what it has told."""

    world: World
    monitor: NodeMonitor
    reports: list[NodeReport]
    n_news: int = 0

    async def follow(self, wanted: Fleet, *instances: Instance) -> SpecIndex:
        spec_index = SpecIndex(wanted)
        await self.monitor.follow(spec_index, {one.id: Stored(one, 1) for one in instances})
        return spec_index


@asynccontextmanager
async def looking() -> AsyncIterator[Scene]:
    """Run a lookout whose world has a container for each of the two instances."""
    world = World(VirtualClock(), seed=0)

    def open_runtime(one: Node) -> SimulatedRuntime:
        return SimulatedRuntime(world, one.name, "test")

    reports: list[NodeReport] = []

    def take_news() -> None:
        made.n_news += 1

    monitor = NodeMonitor(
        open_runtime,
        lambda _: SimulatedProber(world),
        VirtualClock(),
        on_report=reports.append,
        on_news=take_news,
    )
    made = Scene(world, monitor, reports)
    for where, one in ((N1, ONE), (N2, TWO)):
        await open_runtime(where).start(container_spec("test", pool(), where, one))
    asking = asyncio.create_task(monitor.health.run())
    try:
        yield made
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await monitor.close()


def test_nodes_are_asked_and_those_that_run_for_their_health() -> None:
    async def scene() -> None:
        async with looking() as made:
            await made.follow(FLEET, ONE, TWO)
            made.world.sicken(TWO.container)
            await VirtualClock().sleep(60.0)

            assert {TWO.id} == set(made.monitor.health.unhealthy)
            assert {"n1", "n2"} == {one.node for one in made.reports}

    virtual_run(scene())


def test_news_are_told_and_reports_without_any_are_not_news() -> None:
    async def scene() -> None:
        async with looking() as made:
            await made.follow(FLEET, ONE, TWO)
            await VirtualClock().sleep(60.0)
            n_before = made.n_news
            assert 2 == n_before < len(made.reports)

            made.world.kill(ONE.container)
            await VirtualClock().sleep(1.0)

            assert n_before + 1 == made.n_news
            assert ContainerState.EXITED in {
                container.state for container in made.reports[-1].containers
            }

    virtual_run(scene())


def test_a_new_roster_holds_for_what_runs_already() -> None:
    async def scene() -> None:
        async with looking() as made:
            await made.follow(FLEET, ONE)
            patient = replace(CHAT, probe=Probe(interval_s=100.0))
            await made.follow(fleet(pool(2, workload=patient), nodes=(N1,)), ONE)
            made.world.sicken(ONE.container)

            await VirtualClock().sleep(190.0)
            assert {} == made.monitor.health.unhealthy
            await VirtualClock().sleep(190.0)
            assert {ONE.id} == set(made.monitor.health.unhealthy)

    virtual_run(scene())


def test_a_roster_that_stays_disturbs_nobody() -> None:
    async def scene() -> None:
        async with looking() as made:
            spec_index = await made.follow(FLEET, ONE)
            made.monitor.take_record(ONE.id, None)
            made.world.sicken(ONE.container)

            await made.monitor.follow(spec_index, {ONE.id: Stored(ONE, 1)})
            await VirtualClock().sleep(60.0)

            assert {} == made.monitor.health.unhealthy

    virtual_run(scene())


def test_what_runs_is_asked_where_it_listens_whatever_its_nodes_address_becomes() -> None:
    async def scene() -> None:
        async with looking() as made:
            await made.follow(FLEET, ONE)
            moved = replace(N1, address="127.0.0.9")
            await made.follow(fleet(pool(2), nodes=(moved, N2)), ONE)
            await VirtualClock().sleep(60.0)
            assert {} == made.monitor.health.unhealthy

            made.world.sicken(ONE.container)
            await VirtualClock().sleep(60.0)
            assert {ONE.id} == set(made.monitor.health.unhealthy)

    virtual_run(scene())


def test_who_is_gone_is_asked_no_more() -> None:
    async def scene() -> None:
        async with looking() as made:
            await made.follow(FLEET, ONE, TWO)
            made.world.sicken(ONE.container)
            made.world.sicken(TWO.container)

            made.monitor.take_record(ONE.id, None)
            await VirtualClock().sleep(60.0)

            assert {TWO.id} == set(made.monitor.health.unhealthy)

    virtual_run(scene())


def test_a_node_that_was_silent_has_its_instances_forgiven_once() -> None:
    async def scene() -> None:
        async with looking() as made:
            await made.follow(FLEET, ONE, TWO)
            made.world.silence("n2")
            await VirtualClock().sleep(60.0)
            assert {TWO.id} == set(made.monitor.health.unhealthy)

            made.world.sicken(TWO.container)
            made.world.restore("n2")
            await VirtualClock().sleep(6.0)
            assert {} == made.monitor.health.unhealthy
            await VirtualClock().sleep(60.0)
            assert {TWO.id} == set(made.monitor.health.unhealthy)

    virtual_run(scene())


def test_a_silent_node_that_left_and_comes_back_well_was_never_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        async with looking() as made:
            await made.follow(FLEET, ONE)
            made.world.silence("n2")
            await VirtualClock().sleep(60.0)
            await made.follow(fleet(pool(1), nodes=(N1,)), ONE)
            assert {"n1"} == set(made.monitor.nodes.reports)

            made.world.restore("n2")
            await made.follow(FLEET, ONE)
            await VirtualClock().sleep(60.0)

    virtual_run(scene())

    assert 1 == len([one for one in caplog.records if one.name == "provisioning.nodes"])


def test_a_node_that_is_used_is_asked_though_it_is_not_listed_any_more() -> None:
    async def scene() -> None:
        async with looking() as made:
            await made.follow(FLEET, ONE, TWO)
            await made.follow(fleet(pool(1), nodes=(N1,)), ONE, TWO)
            assert {"n1", "n2"} == set(made.monitor.nodes.reports)

    virtual_run(scene())


def test_who_has_failed_has_no_container_and_does_not_use_its_node() -> None:
    async def scene() -> None:
        async with looking() as made:
            await made.follow(FLEET, ONE, TWO)
            await made.monitor.nodes.runtime("n2").remove(TWO.container, grace_s=0.0)
            await VirtualClock().sleep(6.0)
            await made.follow(fleet(pool(1), nodes=(N1,)), ONE, replace(TWO, phase=Phase.FAILED))
            assert {"n1"} == set(made.monitor.nodes.reports)

    virtual_run(scene())


def test_who_was_ill_before_its_node_fell_silent_still_is() -> None:
    async def scene() -> None:
        async with looking() as made:
            await made.follow(FLEET, ONE, TWO)
            made.world.sicken(TWO.container)
            await VirtualClock().sleep(60.0)
            made.world.silence("n2")
            await VirtualClock().sleep(20.0)
            made.world.restore("n2")
            await VirtualClock().sleep(6.0)

            assert made.monitor.nodes.reports["n2"].is_reachable
            assert {TWO.id} == set(made.monitor.health.unhealthy)

    virtual_run(scene())


def test_once_it_is_closed_nobody_is_asked_and_nothing_is_known() -> None:
    async def scene() -> None:
        async with looking() as made:
            spec_index = await made.follow(FLEET, ONE, TWO)
            made.world.silence("n2")
            await VirtualClock().sleep(60.0)

            await made.monitor.close()
            assert {} == made.monitor.nodes.reports
            assert {} == made.monitor.health.unhealthy
            made.monitor.take_record(TWO.id, Stored(TWO, 1))
            n_before = len(made.reports)
            await VirtualClock().sleep(60.0)
            assert n_before == len(made.reports)
            assert {} == made.monitor.health.unhealthy

            await made.monitor.follow(spec_index, {TWO.id: Stored(TWO, 1)})
            await VirtualClock().sleep(60.0)
            assert {TWO.id} == set(made.monitor.health.unhealthy)

    virtual_run(scene())
