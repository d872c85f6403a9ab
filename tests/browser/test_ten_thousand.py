"""The page over 10,000 simulated instances on 100 nodes, polled by the real exporter."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import click
import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.browser.conftest import Open
from tests.browser.page import FleetPage
from tests.browser.programs import Simulation, exporter, simulation
from tests.browser.timings import timings_of
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.nightly]

N = 10_000
INTERVAL_S = 5
SLOW_NODE = "node-018"
OF_SLOW_NODE, OF_NEXT_NODE = "llm-01750", "llm-01850"
HEALTHY, UNREACHABLE = "#7f97a5", "#a00020"
AS_FAST_AS_PEERS, SLOWER = "#88959f", "#d14600"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def simulated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Simulation]:
    async with simulation(tmp_path_factory.mktemp("fleet"), N) as simulated:
        yield simulated


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(
    simulated: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The page's address, once every instance was polled."""
    run_dir = tmp_path_factory.mktemp("exporter")
    async with exporter(run_dir, simulated.inventory, interval_s=INTERVAL_S) as base:
        yield f"{base}/fleet"


def told(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Print a measured value; it is not asserted, since other work on the machine shows in it."""
    with capsys.disabled():
        click.echo(f"\n  {text}", nl=False)


async def test_ten_thousand_instances_are_ten_thousand_cells(
    simulated: Simulation, url: str, open_page: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    page = await open_page(url)

    await page.eventually_paints(HEALTHY, *simulated.ids())

    assert N == len(simulated.ids())
    told(capsys, f"{N:,} cells by status: {await timings_of(page)}")


async def test_a_node_slowed_by_30_percent_is_seen_and_found(
    simulated: Simulation, url: str, open_page: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    page = await open_page(f"{url}?value=speed")
    await page.eventually_paints(AS_FAST_AS_PEERS, OF_SLOW_NODE, OF_NEXT_NODE)

    slowed = await simulated.inject("slow", node=SLOW_NODE, factor=0.7)

    await page.eventually_paints(SLOWER, *slowed)
    others = set(simulated.ids()) - set(slowed)
    assert SLOWER not in await page.colours(*others)
    await expect(page.find("#worst-caption")).to_have_text(
        f"Slowest against their peers: the first 50 of {N:,} instances"
    )
    await eventually(lambda: _worst_are_all_on(page, SLOW_NODE))
    told(capsys, f"{N:,} cells by speed: {await timings_of(page)}")
    await simulated.heal()


async def _worst_are_all_on(page: FleetPage, node: str) -> bool:
    return [node] * 50 == await page.texts("#worst-rows td:nth-child(2)")


async def test_a_killed_instance_turns_red_and_is_told_of(
    simulated: Simulation, url: str, open_page: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    page = await open_page(url)
    await page.eventually_paints(HEALTHY, "llm-04000")

    killed_at_s = time.monotonic()
    (killed,) = await simulated.inject("kill", ids=["llm-04000"])

    await page.eventually_paints(UNREACHABLE, killed)
    told(capsys, f"red {time.monotonic() - killed_at_s:.1f} s after the kill (interval: 5)")
    await expect(page.total("unreachable")).to_have_text("unreachable 1")
    await expect(page.find("#announcements")).to_have_text(
        "1 instance became unreachable; 1 is now."
    )
    await expect(page.find("#worst-rows tr")).to_contain_text([killed])
    await simulated.heal()
