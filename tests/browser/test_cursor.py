"""What the keyboard is at on a map that changes: the same instance, wherever its cell is now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Open, StartExporter
from tests.browser.page import FleetPage
from tests.browser.programs import write_inventory

pytestmark = pytest.mark.asyncio(loop_scope="session")

"""A finger's click: no pointer has moved there before."""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Five instances, i1 to i5, of one node."""
    return write_inventory(tmp_path / "fleet.json", 5)


async def leave(page: FleetPage, inventory: Path, *ids: str) -> None:
    """Take instances out of the inventory; return once the page shows those that stay."""
    staying = [entry for entry in json.loads(inventory.read_text()) if entry["id"] not in ids]
    inventory.write_text(json.dumps(staying))
    await expect(page.find("#facts")).to_contain_text(f"{len(staying)} instances")


async def test_enter_opens_the_instance_that_was_read_last_though_its_cell_moved(
    inventory: Path, start_exporter: StartExporter, open_page: Open
) -> None:
    """The pointer left the map: that takes the frame away and leaves the keyboard its place."""
    page = await open_page(await start_exporter(inventory))
    await page.find("#map").focus()
    await page.press("ArrowRight", "ArrowRight")
    await expect(page.find("#reader")).to_contain_text("i3")
    await page.point("i3")
    await page.page.mouse.move(1, 1)
    await expect(page.find("#tip")).to_be_hidden()

    await leave(page, inventory, "i1")
    await expect(page.find("#tip")).to_be_hidden()
    await page.press("Enter")

    await expect(page.page.get_by_role("dialog", name="i3")).to_be_visible()
    assert {"id": "i3"} == page.query


async def test_the_keyboard_begins_anew_where_its_instance_left_while_nothing_was_framed(
    inventory: Path, start_exporter: StartExporter, open_page: Open
) -> None:
    page = await open_page(await start_exporter(inventory))
    await page.find("#map").focus()
    await page.press("End", "Escape")
    await leave(page, inventory, "i3", "i4", "i5")

    await page.press("Enter")
    await expect(page.find("#details")).to_be_hidden()

    await page.press("ArrowRight")
    await expect(page.find("#reader")).to_contain_text("i1, node: node-1")
    await page.press("Enter")
    await expect(page.page.get_by_role("dialog", name="i1")).to_be_visible()
