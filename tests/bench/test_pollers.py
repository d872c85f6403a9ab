from __future__ import annotations

import asyncio
import json
import time
from itertools import chain, repeat
from types import ModuleType

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from provisioning.simulator.app import running_fleet
from provisioning.simulator.spec import FleetSpec
from tests.bench import aiohttp_poller, article_poller
from tests.bench.page import new_connection
from tests.bench.probe import probe
from tests.bench.ticking import Tick, tick
from tests.waiting import eventually

N = 5
SPEC = FleetSpec(n_instances=N, n_nodes=1, article_metrics=True)


@pytest.mark.parametrize("peer", [aiohttp_poller, article_poller])
async def test_a_peer_tells_each_cycle_and_who_was_healthy(
    peer: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_fleet(SPEC) as fleet:
        await peer.run(fleet.inventory, interval_s=0.3, n_cycles=2)
        fleet.inject("kill", count=2)
        await peer.run(fleet.inventory, interval_s=0.3, n_cycles=1)
        fleet.heal()
        fleet.inject("loading", count=1)
        await peer.run(fleet.inventory, interval_s=0.3, n_cycles=1)

    cycles = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [N, N, N - 2, N - 1] == [cycle["healthy"] for cycle in cycles]
    assert all(cycle["samples"] >= 2 * (N - 2) for cycle in cycles)
    assert all(cycle["render_s"] > 0 for cycle in cycles)


async def test_the_peer_on_aiohttp_publishes_six_series_per_instance(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with running_fleet(SPEC) as fleet:
        await aiohttp_poller.run(fleet.inventory, interval_s=0.3, n_cycles=1)

    (cycle,) = capsys.readouterr().out.splitlines()
    assert 6 * N + 4 <= json.loads(cycle)["samples"] <= 6 * N + 20


async def test_a_ticker_sees_how_long_the_loop_was_blocked() -> None:
    asyncio.get_running_loop().call_later(0.05, time.sleep, 0.1)

    ticks = await tick(0.3)

    assert 0.08 <= max(tick_.blocked_s for tick_ in ticks) <= max(tick_.late_s for tick_ in ticks)
    assert len(ticks) < 0.2 / 0.005 + 5


def test_waiting_for_a_processor_is_not_blocking() -> None:
    assert 0.25 == Tick(late_s=0.75, waited_s=0.5).blocked_s
    assert 0.0 == Tick(late_s=0.5, waited_s=0.75).blocked_s


async def test_a_probe_sees_how_long_the_loop_was_blocked() -> None:
    # Whoever was held up until the end has asked only once: then it is tried again.
    await eventually(_is_block_seen_among_others)


async def _is_block_seen_among_others() -> bool:
    """Say whether a probe asks more than once; fail where it misses that the loop was blocked."""
    async with TestServer(_application(blocked_s=0.5)) as server:
        with new_connection(server.port or 0) as connection:
            answers_s, lateness_s = await asyncio.to_thread(probe, connection, 2.0)

    assert max(answers_s) >= 0.49
    assert len(answers_s) == len(lateness_s) < 1.5 / 0.005 + 5
    return len(answers_s) > 1


def _application(*, blocked_s: float) -> web.Application:
    """Return one whose loop is blocked by the first request."""
    blocks_s = chain([blocked_s], repeat(0.0))

    async def healthy(_request: web.Request) -> web.Response:
        time.sleep(next(blocks_s))  # noqa: ASYNC251 # as what blocks a loop does
        return web.Response(text="ok")

    app = web.Application()
    app.add_routes([web.get("/-/healthy", healthy)])
    return app
