"""The page over 100,000 instances, which the real exporter lists and never gets round to asking."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
import click
import pytest
from playwright.async_api import expect

from tests.browser.conftest import Open, StartExporter
from tests.browser.timings import timings_of
from tests.ports import free_ports
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

N = 100_000
NODES = 1_000
SAMPLED = 101
"""Of so many cells, one is looked at."""
PROVISIONING, LEFT_OUT = "#2a3c8f", "#dde0ed"


def write_inventory(path: Path) -> list[str]:
    """Write an inventory of instances that are still to come; return their ids."""
    (port,) = free_ports(1)
    listed = [
        {
            "id": f"llm-{number:06}",
            "url": f"http://127.0.0.1:{port}/{number}",
            "node": f"node-{number % NODES:04}",
            "model": "llama3.1:8b",
            "engine": "fleet",
            "state": "provisioning",
        }
        for number in range(N)
    ]
    path.write_text(json.dumps(listed))
    return [str(entry["id"]) for entry in listed]


async def test_a_hundred_thousand_instances_can_be_used(
    tmp_path: Path,
    start_exporter: StartExporter,
    open_page: Open,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = write_inventory(tmp_path / "fleet.json")
    # It is ready only once a pass is over, which the page need not wait for.
    url = await start_exporter(tmp_path / "fleet.json", interval="5s", ready_path="/-/healthy")
    await eventually(lambda: _lists_all(url))
    page = await open_page(url)
    assert {PROVISIONING} == set(await page.colours(*ids[::SAMPLED]))

    await page.field("Node").fill("node-0500")
    await page.press("Enter")
    await expect(page.find("#matching")).to_have_text("100 of 100,000 match")
    assert [PROVISIONING, LEFT_OUT] == await page.colours("llm-000500", "llm-000501")

    await page.point("llm-000500")
    await expect(page.find("#tip")).to_contain_text("node: node-0500")
    await page.click("llm-000500")
    await expect(page.page.get_by_role("dialog", name="llm-000500")).to_be_visible()

    await page.find("#map").focus()
    await page.press("End")
    await expect(page.find("#reader")).to_contain_text("llm-099999, node: node-0999")

    timings = await timings_of(page)
    with capsys.disabled():
        click.echo(f"\n  {N:,} cells: {timings}", nl=False)


async def _lists_all(url: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/map") as answer:
        return N == len((await answer.json())["status"])
