"""What is heard of nodes, and when they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from provisioning.errors import NodeUnreachableError, PermanentError
from provisioning.model import (
    ContainerSpec,
    ContainerState,
    Fleet,
    Instance,
    Node,
    NodeReport,
    ObservedContainer,
    Probe,
)
from provisioning.nodes import NodeMonitor, Nodes
from provisioning.spec_index import SpecIndex
from provisioning.store.base import StoredInstance
from provisioning.workload import container_spec, inventory_entry_of
from tests.provisioning.making import CHAT, fleet, found, instance, node, pool
from tests.provisioning.virtual import EPOCH_S, VirtualClock, virtual_run
from tests.provisioning.world import SimulatedProber, SimulatedRuntime, World

CONTAINERS = (found(instance(1)),)


class Telling:
    """A runtime that tells what it is told to."""

    def __init__(self) -> None:
        self.containers_found: tuple[ObservedContainer, ...] = CONTAINERS
        self.error: Exception | None = None
        self.takes_s = 0.0
        self.asked_s: list[float] = []
        self.hints: asyncio.Queue[str] = asyncio.Queue()
        self.changes_error: Exception | None = None
        self.is_closed = False

    async def containers(self) -> tuple[ObservedContainer, ...]:
        self.asked_s.append(VirtualClock().monotonic_s())
        await VirtualClock().sleep(self.takes_s)
        if self.error:
            raise self.error
        return self.containers_found

    def log_of(self, instance_id: str) -> str:
        raise NotImplementedError

    async def changes(self) -> AsyncIterator[str]:
        while True:
            if self.changes_error:
                raise self.changes_error
            yield await self.hints.get()

    async def start(self, container: ContainerSpec) -> None:
        raise NotImplementedError

    async def remove(self, name: str, *, grace_s: float) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        self.is_closed = True


class Scene:
    """Nodes whose runtimes are at hand."""

    def __init__(self) -> None:
        self.runtimes: dict[str, Telling] = {}
        self.opening_errors: dict[str, Exception] = {}
        self.news: list[tuple[NodeReport, bool]] = []
        self.nodes = Nodes(self.open, VirtualClock(), on_report=self.take)

    def open(self, node: Node) -> Telling:
        if error := self.opening_errors.get(node.name):
            raise error
        self.runtimes[node.name] = Telling()
        return self.runtimes[node.name]

    def take(self, report: NodeReport, is_news: bool) -> None:
        self.news.append((report, is_news))

    async def begin(self, *names: str) -> None:
        await self.nodes.update([node(name) for name in names], used=())


def test_each_node_is_asked_every_few_seconds_and_only_what_is_new_is_news() -> None:
    async def scene() -> Scene:
        made = Scene()
        await made.begin("n1")
        await VirtualClock().sleep(21.0)
        await made.nodes.close()
        return made

    made = virtual_run(scene())

    assert [0.0, 5.2, 10.4, 15.6, 20.8] == pytest.approx(made.runtimes["n1"].asked_s)
    assert [True, False, False, False, False] == [is_news for _, is_news in made.news]
    assert made.runtimes["n1"].is_closed


def test_a_report_is_as_of_the_question() -> None:
    async def scene() -> NodeReport:
        made = Scene()
        await made.begin("n1")
        made.runtimes["n1"].takes_s = 3.0
        await VirtualClock().sleep(4.0)
        report = made.nodes.reports["n1"]
        await made.nodes.close()
        return report

    assert NodeReport("n1", EPOCH_S, CONTAINERS) == virtual_run(scene())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NodeUnreachableError("connection refused"), "connection refused"),
        (ZeroDivisionError("oops"), "oops"),
    ],
)
def test_a_node_that_fails_keeps_its_last_report_with_the_fault(
    error: Exception, words: str
) -> None:
    async def scene() -> Scene:
        made = Scene()
        await made.begin("n1", "n2")
        await VirtualClock().sleep(1.0)
        made.runtimes["n1"].error = error
        await VirtualClock().sleep(6.0)
        report = made.nodes.reports["n1"]
        assert (EPOCH_S, CONTAINERS, False) == (report.at_s, report.containers, report.is_reachable)
        assert words in report.fault
        assert made.nodes.reports["n2"].is_reachable
        assert "<Nodes: 2, 1 of them silent>" == repr(made.nodes)

        made.runtimes["n1"].error = None
        await VirtualClock().sleep(6.0)
        assert made.nodes.reports["n1"].is_reachable
        await made.nodes.close()
        return made

    made = virtual_run(scene())

    assert [True, True, True] == [is_news for report, is_news in made.news if report.node == "n1"]


def test_a_node_that_hangs_is_given_up_after_its_deadline_and_delays_nobody() -> None:
    async def scene() -> None:
        made = Scene()
        await made.begin("n1", "n2")
        made.runtimes["n1"].takes_s = 1e6
        await VirtualClock().sleep(11.0)
        report = made.nodes.reports["n1"]
        assert not report.is_reachable
        assert "n1" in report.fault
        assert "10 s" in report.fault
        assert 3 == len(made.runtimes["n2"].asked_s)
        await made.nodes.close()

    virtual_run(scene())


def test_a_change_is_looked_at_at_once_and_a_storm_of_them_only_so_often() -> None:
    async def scene() -> list[float]:
        made = Scene()
        await made.begin("n1")
        await VirtualClock().sleep(1.0)
        for _ in range(1000):
            made.runtimes["n1"].hints.put_nowait("x")
            await VirtualClock().sleep(0.001)
        await made.nodes.close()
        return made.runtimes["n1"].asked_s

    asked_s = virtual_run(scene())

    assert 1.0 == pytest.approx(asked_s[1], abs=0.01)
    assert 6 <= len(asked_s) <= 7


@pytest.mark.parametrize("error", [PermanentError("no such binary"), ValueError("bad endpoint")])
def test_a_node_that_cannot_be_opened_says_why_and_is_opened_once_it_can_be(
    error: Exception,
) -> None:
    async def scene() -> None:
        made = Scene()
        made.opening_errors["n1"] = error
        await made.begin("n1", "n2")
        await VirtualClock().sleep(1.0)
        assert str(error) in made.nodes.reports["n1"].fault
        assert made.nodes.reports["n2"].is_reachable
        with pytest.raises(NodeUnreachableError, match=f"n1 cannot be opened: .*{error}"):
            made.nodes.runtime("n1")

        made.opening_errors.clear()
        await VirtualClock().sleep(6.0)
        assert made.nodes.reports["n1"].is_reachable
        await made.nodes.close()
        assert made.runtimes["n1"].is_closed

    virtual_run(scene())


@pytest.mark.parametrize("error", [NodeUnreachableError("lost"), ValueError("bad message")])
def test_changes_that_break_off_are_listened_to_again(error: Exception) -> None:
    async def scene() -> None:
        made = Scene()
        await made.begin("n1")
        runtime = made.runtimes["n1"]
        await VirtualClock().sleep(0.1)
        runtime.changes_error = error
        runtime.hints.put_nowait("x")
        await VirtualClock().sleep(4.0)
        runtime.changes_error = None
        await VirtualClock().sleep(6.5)
        n_asked = len(runtime.asked_s)
        runtime.hints.put_nowait("y")
        await VirtualClock().sleep(0.25)
        assert n_asked + 1 == len(runtime.asked_s)
        await made.nodes.close()

    virtual_run(scene())


def test_a_node_that_is_listed_no_more_is_asked_until_it_is_empty_and_unused() -> None:
    async def scene() -> None:
        made = Scene()
        await made.begin("n1")
        await VirtualClock().sleep(1.0)
        await made.begin()
        assert ["n1"] == list(made.nodes.reports)

        made.runtimes["n1"].containers_found = ()
        await VirtualClock().sleep(6.0)
        await made.nodes.update([], used=["n1"])
        assert ["n1"] == list(made.nodes.reports)

        await made.begin()
        assert [] == list(made.nodes.reports)
        assert made.runtimes["n1"].is_closed

    virtual_run(scene())


def test_a_silent_node_that_is_listed_no_more_is_asked_only_while_it_is_used() -> None:
    async def scene() -> None:
        made = Scene()
        await made.begin("n1")
        await VirtualClock().sleep(1.0)
        made.runtimes["n1"].error = NodeUnreachableError("no route")
        await VirtualClock().sleep(6.0)

        await made.nodes.update([], used=("n1",))
        assert ["n1"] == list(made.nodes.reports)
        await made.nodes.update([], used=())
        assert [] == list(made.nodes.reports)
        assert made.runtimes["n1"].is_closed

    virtual_run(scene())


def test_a_node_that_is_reached_otherwise_is_opened_again() -> None:
    async def scene() -> None:
        made = Scene()
        await made.begin("n1")
        first = made.runtimes["n1"]
        await made.nodes.update([node("n1", cpus=99.0, address="10.0.0.9")], used=())
        assert first is made.nodes.runtime("n1")

        await made.nodes.update([node("n1").replace(endpoint="http://n1:2")], used=())

        assert first.is_closed
        assert first is not made.nodes.runtime("n1")
        await made.nodes.close()

    virtual_run(scene())


def test_an_answer_to_a_question_from_before_a_removal_does_not_bring_the_container_back() -> None:
    """The next one tells of it again, should it be there."""

    async def scene() -> None:
        made = Scene()
        await made.begin("n1")
        await VirtualClock().sleep(1.0)
        other = found(instance(2))
        made.runtimes["n1"].containers_found = (*CONTAINERS, other)
        made.runtimes["n1"].takes_s = 3.0
        await VirtualClock().sleep(5.0)
        made.nodes.forget_container("n1", CONTAINERS[0].name)
        await VirtualClock().sleep(3.0)
        report = made.nodes.reports["n1"]
        assert EPOCH_S + 5.2 == pytest.approx(report.at_s)
        assert (other,) == report.containers

        await VirtualClock().sleep(8.0)
        assert (*CONTAINERS, other) == made.nodes.reports["n1"].containers
        await made.nodes.close()

    virtual_run(scene())


N1, N2 = node("n1", address="127.0.0.1"), node("n2", address="127.0.0.2")
ONE = instance(1, node="n1", inventory_entry=inventory_entry_of(CHAT, N1))
TWO = instance(2, node="n2", inventory_entry=inventory_entry_of(CHAT, N2))
FLEET = fleet(pool(2), nodes=(N1, N2))


@dataclass
class Monitored:
    """A node monitor over a simulated world, and what it reported."""

    world: World
    monitor: NodeMonitor
    reports: list[NodeReport]
    n_news: int = 0

    async def follow(self, wanted: Fleet, *instances: Instance) -> SpecIndex:
        spec_index = SpecIndex(wanted)
        await self.monitor.follow(spec_index, {one.id: StoredInstance(one, 1) for one in instances})
        return spec_index


@asynccontextmanager
async def monitored() -> AsyncIterator[Monitored]:
    """Run a node monitor whose world has a container for each of the two instances."""
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
    made = Monitored(world, monitor, reports)
    for where, one in ((N1, ONE), (N2, TWO)):
        await open_runtime(where).start(container_spec("test", pool(), where, one))
    asking = asyncio.create_task(monitor.health.run())
    try:
        yield made
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await monitor.close()


def test_only_reports_that_differ_are_news() -> None:
    async def scene() -> None:
        async with monitored() as made:
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


def test_a_new_specification_holds_for_what_runs_already() -> None:
    async def scene() -> None:
        async with monitored() as made:
            await made.follow(FLEET, ONE)
            patient = CHAT.replace(probe=Probe(interval_s=100.0))
            await made.follow(fleet(pool(2, workload=patient), nodes=(N1,)), ONE)
            made.world.sicken(ONE.container)

            await VirtualClock().sleep(190.0)
            assert {} == made.monitor.health.unhealthy
            await VirtualClock().sleep(190.0)
            assert {ONE.id} == set(made.monitor.health.unhealthy)

    virtual_run(scene())


def test_what_runs_is_asked_where_it_listens_whatever_its_nodes_address_becomes() -> None:
    async def scene() -> None:
        async with monitored() as made:
            await made.follow(FLEET, ONE)
            moved = N1.replace(address="127.0.0.9")
            await made.follow(fleet(pool(2), nodes=(moved, N2)), ONE)
            await VirtualClock().sleep(60.0)
            assert {} == made.monitor.health.unhealthy

            made.world.sicken(ONE.container)
            await VirtualClock().sleep(60.0)
            assert {ONE.id} == set(made.monitor.health.unhealthy)

    virtual_run(scene())


def test_a_node_that_was_silent_has_its_instances_failures_reset_once() -> None:
    async def scene() -> None:
        async with monitored() as made:
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


def test_once_it_is_closed_nobody_is_asked_and_nothing_is_known() -> None:
    async def scene() -> None:
        async with monitored() as made:
            spec_index = await made.follow(FLEET, ONE, TWO)
            made.world.silence("n2")
            await VirtualClock().sleep(60.0)

            await made.monitor.close()
            assert {} == made.monitor.nodes.reports
            assert {} == made.monitor.health.unhealthy
            made.monitor.take_record(TWO.id, StoredInstance(TWO, 1))
            n_before = len(made.reports)
            await VirtualClock().sleep(60.0)
            assert n_before == len(made.reports)
            assert {} == made.monitor.health.unhealthy

            await made.monitor.follow(spec_index, {TWO.id: StoredInstance(TWO, 1)})
            await VirtualClock().sleep(60.0)
            assert {TWO.id} == set(made.monitor.health.unhealthy)

    virtual_run(scene())
