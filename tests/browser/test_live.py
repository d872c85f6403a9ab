"""What a person holds on to while updates come: focus, place, marks, and what was heard already."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.spec import FleetSpec
from tests.browser.conftest import Open
from tests.browser.page import UPDATE, FleetPage, Held
from tests.browser.programs import exporter
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

N = 200
N_NODES = 4
SLOW_NODE, OF_SLOW_NODE = "node-002", "llm-00060"
HEALTHY, HEALTHY_BUT_LEFT_OUT = "#7f97a5", "#ebeef1"
AS_FAST_AS_PEERS, MUCH_SLOWER = "#88959f", "#8c0d00"
DEAD = "llm-00042"
COUNT_CHANGES = """(id) => {
  window.nChanges = 0;
  new MutationObserver((records) => { window.nChanges += records.length; })
    .observe(document.getElementById(id), { subtree: true, childList: true, characterData: true });
}"""
# Neither is an answer told to be late, after 3 s, nor is it given up.
AWAIT_EACH_ANSWER = """() => {
  const setTimer = window.setTimeout;
  window.setTimeout = (then, ms) => (ms === 3_000 ? 0 : setTimer(then, ms));
  AbortSignal.timeout = () => new AbortController().signal;
}"""
IS_ON_TOP = """() => {
  const { left, top, width, height } = document.activeElement.getBoundingClientRect();
  const found = document.elementFromPoint(left + width / 2, top + Math.min(height, 40) / 2);
  return document.activeElement.contains(found);
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running() -> AsyncIterator[RunningFleet]:
    """200 instances on four nodes."""
    async with running_fleet(FleetSpec(n_instances=N, n_nodes=N_NODES)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(
    running: RunningFleet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The page's address, once every instance was polled; one of them refuses, always alike."""
    run_dir: Path = tmp_path_factory.mktemp("live")
    inventory = run_dir / "fleet.json"
    port = free_port()
    dead = {"url": f"http://127.0.0.1:{port}"}
    listed = [entry | (dead if entry["id"] == DEAD else {}) for entry in running.inventory]
    inventory.write_text(json.dumps(listed))
    # The servers live in this process, which the tests keep busy: each has seconds to answer.
    async with exporter(run_dir, inventory, interval_s=5) as base:
        yield f"{base}/fleet"


async def updates(page: FleetPage, n: int = 3) -> None:
    """Return when so many more updates have come."""
    n_before = len(await page.durations_ms(UPDATE))

    async def have_come() -> bool:
        return len(await page.durations_ms(UPDATE)) >= n_before + n

    await eventually(have_come)


async def until_read_whole(page: FleetPage) -> None:
    """Return when the cell at the keyboard's cursor, which fails, was read with its error."""
    await expect(page.find("#reader")).to_contain_text("refused")


async def to_dead(page: FleetPage) -> None:
    """Go to the dead instance by keyboard."""
    await page.click(DEAD)
    await expect(page.find("#details")).to_be_visible()
    await page.press("Escape")
    await page.page.mouse.move(1, 1)
    await page.press("ArrowRight", "ArrowLeft")
    await expect(page.find("#reader")).to_contain_text(DEAD)


async def test_another_colour_comes_as_it_is_now_and_not_as_it_was(
    running: RunningFleet, url: str, open_page: Open
) -> None:
    """While the map showed statuses, speeds changed of which the page was not told."""
    page = await open_page(url)
    colour_by = page.field("Colour by")
    await colour_by.select_option("speed")
    await page.eventually_paints(AS_FAST_AS_PEERS, OF_SLOW_NODE)
    await colour_by.select_option("status")
    await page.eventually_paints(HEALTHY, OF_SLOW_NODE)

    running.inject("slow", node=SLOW_NODE, factor=0.5)
    watching = await open_page(f"{url}?value=speed")
    await watching.eventually_paints(MUCH_SLOWER, OF_SLOW_NODE)

    await colour_by.select_option("speed")
    await page.eventually_paints(MUCH_SLOWER, OF_SLOW_NODE)
    await colour_by.select_option("p99")
    await expect(page.find("#legend-unit")).to_have_text("p99 latency")


async def test_a_filter_counts_at_once_also_while_another_colour_is_awaited(
    url: str, open_page: Open
) -> None:
    page = await open_page(url)
    # However late the answer: a banner would take the map some room, and so draw it anew.
    await page.run(AWAIT_EACH_ANSWER)
    held = Held()
    await page.page.route("**/fleet/changes?*value=p99*", held.handle)
    await page.field("Colour by").select_option("p99")
    await eventually(lambda: held.n)

    await page.field("Node").fill("node-003")
    await page.press("Enter")

    await expect(page.find("#matching")).to_have_text("50 of 200 match")
    await page.eventually_paints(HEALTHY_BUT_LEFT_OUT, "llm-00001")
    assert "" == await page.text("#failure")
    assert "p99 latency" != await page.text("#legend-unit")
    held.release()
    await expect(page.find("#legend-unit")).to_have_text("p99 latency")


async def test_a_cell_is_read_once_and_not_at_each_update(url: str, open_page: Open) -> None:
    page = await open_page(url)
    await to_dead(page)
    await until_read_whole(page)

    for element_id in ("reader", "tip"):

        async def stays(element_id: str = element_id) -> bool:
            await page.run(COUNT_CHANGES, element_id)
            await updates(page)
            n_changes: int = await page.run("() => window.nChanges")
            return n_changes == 0

        # On a busy machine an update may be late, and what it brings come with the next.
        await eventually(stays)


@pytest.mark.parametrize("width", [1280, 420])
async def test_while_details_are_open_the_focus_never_goes_under_them(
    width: int, url: str, open_page: Open
) -> None:
    page = await open_page(f"{url}?id={DEAD}&value=age", width=width)
    await expect(page.find("#details-list")).to_contain_text("refused")
    await page.find("#details-close").focus()
    seen = set()

    for _ in range(30):
        await page.press("Shift+Tab")
        focused = await page.focused()
        if await page.run("() => document.activeElement !== document.body"):
            assert await page.run(IS_ON_TOP), focused
            seen.add(focused)

    assert ({"map", "value"} <= seen) == (width == 1280)
    assert await page.find("#alerts-title").is_visible() == (width == 1280)
