from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from exporter.counters import FleetCounters
from exporter.model import Outcome
from exporter.ui.cells import STATUS, Value
from exporter.ui.layout import Layout
from exporter.ui.protocol import Changes
from exporter.ui.recent import RecentHistory
from exporter.ui.revisions import KEPT, FleetView, Revision, Revisions, ViewBuilder
from tests.exporter.ui.building import FakePoller, HeldClock, cell
from tests.waiting import eventually

REFRESH_S = 2.0
POLL_INTERVAL_S = 10.0


class Fleet:
    """A fleet of four whose looks are counted, and can be held back."""

    def __init__(self) -> None:
        self.clock = HeldClock()
        self.poller = FakePoller()
        self.show()
        recent = RecentHistory(self.poller, FleetCounters(), self.clock)  # type: ignore[arg-type]
        self._surveyor = ViewBuilder(
            self.poller,  # type: ignore[arg-type]
            recent,
            self.clock,
            poll_interval_s=POLL_INTERVAL_S,
        )
        self.gate = asyncio.Event()
        self.gate.set()
        self.wanted: list[frozenset[Value]] = []
        self.fault: Exception | None = None
        self.revisions = Revisions(self._build, self.clock, refresh_s=REFRESH_S)

    def show(self, a: Outcome = Outcome.OK, p99_s: float = 0.1, model: str = "m") -> None:
        rest = [cell(id_, p99_s=0.1) for id_ in "bcd"]
        self.poller.show(cell("a", outcome=a, p99_s=p99_s, model=model), *rest)

    async def _build(self, before: Layout | None, wanted: frozenset[Value]) -> FleetView:
        self.wanted.append(wanted)
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return await self._surveyor.build(before, wanted)

    async def next(self, value: Value | None = None) -> Revision:
        self.clock.move(REFRESH_S)
        return await self.revisions.latest(value)

    async def until_looked(self, times: int) -> None:
        await eventually(lambda: len(self.wanted) >= times)


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    yield fleet
    await fleet.revisions.close()


async def test_a_revision_serves_until_it_is_old(fleet: Fleet) -> None:
    first = await fleet.revisions.latest()
    fleet.clock.move(REFRESH_S - 0.001)
    again = await fleet.revisions.latest()
    fleet.clock.move(0.001)
    second = await fleet.revisions.latest()

    assert again is first
    assert (1, 2) == (first.number, second.number)


async def test_who_asks_at_the_same_time_shares_one_look(fleet: Fleet) -> None:
    fleet.gate.clear()
    asking = [asyncio.create_task(fleet.revisions.latest()) for _ in range(5)]
    await fleet.until_looked(1)
    fleet.gate.set()

    revisions = await asyncio.gather(*asking)

    assert 1 == len(fleet.wanted) == len({revision.number for revision in revisions})


async def test_one_who_leaves_does_not_end_the_look_of_the_others(fleet: Fleet) -> None:
    fleet.gate.clear()
    leaving, staying = [asyncio.create_task(fleet.revisions.latest()) for _ in range(2)]
    await fleet.until_looked(1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    fleet.gate.set()

    assert 1 == (await staying).number
    assert 1 == len(fleet.wanted)


async def test_a_look_under_way_that_lacks_the_value_is_followed_by_another(fleet: Fleet) -> None:
    fleet.gate.clear()
    status = asyncio.create_task(fleet.revisions.latest())
    await fleet.until_looked(1)
    value = asyncio.create_task(fleet.revisions.latest(Value.AGE))
    await asyncio.sleep(0)
    fleet.gate.set()

    assert (1, 2) == ((await status).number, (await value).number)
    assert [frozenset(), {Value.AGE}] == fleet.wanted


async def test_a_value_that_nobody_asks_for_any_more_is_computed_no_more(fleet: Fleet) -> None:
    await fleet.next(Value.P99)
    for _ in range(KEPT + 1):
        await fleet.next(Value.AGE)

    assert {Value.P99, Value.AGE} == fleet.wanted[KEPT]
    assert {Value.AGE} == fleet.wanted[KEPT + 1]


async def test_changes_are_those_since_the_revision(fleet: Fleet) -> None:
    first = await fleet.next(Value.P99)
    fleet.show(a=Outcome.REFUSED, p99_s=0.2)
    second = await fleet.next(Value.P99)
    fleet.show(a=Outcome.REFUSED, p99_s=0.3)
    third = await fleet.next(Value.P99)

    told = [
        [fleet.revisions.changes(since.number, name, third) for name in (STATUS, Value.P99)]
        for since in (first, second, third)
    ]

    nothing, refused, latency = Changes([], []), Changes([0], [2]), Changes([0], [300])
    assert [[refused, latency], [nothing, latency], [nothing, nothing]] == told


async def test_revisions_of_another_layout_are_not_compared_with(fleet: Fleet) -> None:
    first = await fleet.next()
    fleet.show(model="other")
    second = await fleet.next()
    fleet.show()
    third = await fleet.next()

    assert 3 == len({revision.fleet_view.layout.name for revision in (first, second, third)})
    for since in (first, second):
        told = fleet.revisions.changes(since.number, STATUS, third)
        assert Changes(None, [0, 0, 0, 0]) == told
    # Somebody who still holds the second one when the third has been made.
    assert Changes(None, [0, 0, 0, 0]) == fleet.revisions.changes(third.number, STATUS, second)
    assert "<Revisions: 1 kept, the last is 3>" == repr(fleet.revisions)


async def test_instances_that_get_another_model_make_one_layout_per_poll_cycle(
    fleet: Fleet,
) -> None:
    fleet.poller.has_seen_all.set()
    names = []
    for n in range(12):  # each 2 s
        fleet.show(model=f"m{n}")
        names.append((await fleet.next()).fleet_view.layout.name)

    assert [5, 5, 2] == [names.count(name) for name in dict.fromkeys(names)]


async def test_instances_that_come_or_go_are_shown_at_once(fleet: Fleet) -> None:
    fleet.poller.has_seen_all.set()
    before = await fleet.next()
    fleet.poller.show(cell("a"))
    after = await fleet.next()

    assert ("a", "b", "c", "d") == before.fleet_view.layout.ids
    assert ("a",) == after.fleet_view.layout.ids


async def test_closing_ends_a_look_under_way(fleet: Fleet) -> None:
    fleet.gate.clear()
    asking = asyncio.create_task(fleet.revisions.latest())
    await fleet.until_looked(1)

    await fleet.revisions.close()

    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_layouts_of_two_processes_never_have_the_same_name() -> None:
    first = Fleet()
    second = Fleet()
    second.clock.move(0.001)
    recent = RecentHistory(second.poller, FleetCounters(), second.clock)  # type: ignore[arg-type]
    restarted = ViewBuilder(
        second.poller,  # type: ignore[arg-type]
        recent,
        second.clock,
        poll_interval_s=POLL_INTERVAL_S,
    )

    name = (await first.revisions.latest()).fleet_view.layout.name

    assert name != (await restarted.build(None, frozenset())).layout.name
