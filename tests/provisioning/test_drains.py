"""A drain ends when nothing is under way, where the engine says so; else when its time is over."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from provisioning.health import LOOK_S, NOTICE_S, DrainMonitor
from provisioning.model import Phase, RequestsPage, Rotation
from provisioning.spec.defaults import ENGINES
from provisioning.store.base import Stored
from tests.provisioning.making import CHAT, fleet, instance, pool
from tests.provisioning.scene import provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.provisioning.world import SimulatedProber, World

DRAIN_S = 300.0


@pytest.mark.parametrize(
    ("engine", "busy_s", "least_s", "most_s"),
    [
        ("fleet", 0.0, NOTICE_S, NOTICE_S + LOOK_S + 1.0),
        ("llamacpp", 100.0, 100.0, 100.0 + LOOK_S + 1.0),
        ("fleet", 1e6, DRAIN_S, DRAIN_S + 1.0),
        ("ollama", 0.0, DRAIN_S, DRAIN_S + 1.0),
    ],
)
def test_a_drain_ends_once_nothing_is_under_way(
    monkeypatch: pytest.MonkeyPatch, engine: str, busy_s: float, least_s: float, most_s: float
) -> None:
    """At the earliest when clients know of it; at the latest when its time is over."""
    idle_from_s = [0.0]

    async def is_idle(_: SimulatedProber, __: str, ___: int, page: RequestsPage) -> bool:
        assert ENGINES[engine].requests == page
        return VirtualClock().unix_s() >= idle_from_s[-1]

    async def scene() -> None:
        chat = pool(1, workload=CHAT.replace(engine=engine))
        chat = chat.replace(rotation=Rotation(every_s=0.0, drain_s=DRAIN_S))
        async with provisioner(fleet(chat)) as stage:
            await stage.until(stage.is_whole)
            await stage.put_spec(fleet(chat.replace(workload=CHAT.replace(model="new"))))
            await stage.until(lambda: stage.instances[0].phase is Phase.DRAINING)
            begun_s = stage.instances[0].since_s
            idle_from_s.append(begun_s + busy_s)
            await stage.until(lambda: stage.instances[0].phase is Phase.STOPPING)

            assert least_s <= stage.instances[0].since_s - begun_s <= most_s

    monkeypatch.setattr(SimulatedProber, "is_idle", is_idle)
    virtual_run(scene())


def test_what_drains_no_more_is_asked_no_more_and_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    async def is_idle(_: SimulatedProber, __: str, port: int, ___: RequestsPage) -> bool:
        asked.append(port)
        return len(asked) > 1

    async def scene() -> None:
        clock = VirtualClock()
        prober = SimulatedProber(World(clock))
        monitor = DrainMonitor(lambda _: prober, clock, on_idle=lambda: None)
        listing = replace(instance().listing, engine="fleet")
        draining = instance(phase=Phase.DRAINING, since_s=clock.unix_s() - 60.0, listing=listing)
        monitor.follow({draining.id: Stored(draining, 1)})
        running = asyncio.create_task(monitor.run())
        await clock.sleep(5 * LOOK_S)
        assert frozenset({draining.container}) == monitor.idle
        assert 2 == len(asked)

        monitor.follow({})

        assert not monitor.idle
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    monkeypatch.setattr(SimulatedProber, "is_idle", is_idle)
    virtual_run(scene())
