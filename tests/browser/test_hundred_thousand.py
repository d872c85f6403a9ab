"""The page over 100,000 instances that the real exporter lists and polls."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
import click
import pytest
from playwright.async_api import expect

from tests.browser.conftest import Open, StartExporter
from tests.browser.page import FleetPage
from tests.browser.timings import timings_of
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600),
    pytest.mark.nightly,
]

N = 100_000
NODES = 1_000
N_POLLED = 1_000
"""Those of the first ten nodes are asked, and refuse; the others are still to come."""
SAMPLED = 101
"""Of so many cells, one is looked at."""
PROVISIONING, LEFT_OUT, UNREACHABLE = "#2a3c8f", "#dde0ed", "#a00020"
WITHIN_S = 60.0


def write_inventory(path: Path, n: int = N) -> list[str]:
    """Write an inventory; return its ids."""
    port = free_port()
    listed = [
        {
            "id": f"llm-{number:06}",
            "url": f"http://127.0.0.1:{port}/{number}",
            "node": f"node-{number // (N // NODES):04}",
            "model": "llama3.1:8b",
            "engine": "fleet",
            "state": "running" if number < N_POLLED else "provisioning",
        }
        for number in range(n)
    ]
    new = path.with_suffix(".new")
    new.write_text(json.dumps(listed))
    new.replace(path)
    return [str(entry["id"]) for entry in listed]


async def test_a_hundred_thousand_instances_can_be_used(
    tmp_path: Path,
    start_exporter: StartExporter,
    open_page: Open,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = write_inventory(tmp_path / "fleet.json")
    # It is ready only once a poll cycle is over, which the page need not wait for.
    url = await start_exporter(tmp_path / "fleet.json", interval_s=5, ready_path="/-/healthy")
    await eventually(lambda: _lists_all(url))
    page = await open_page(url)
    assert {PROVISIONING} == set(await page.colours(*ids[N_POLLED::SAMPLED]))

    # Polled one after the other, they change one after the other.
    await expect(page.total("unreachable")).to_have_text(
        f"unreachable {N_POLLED:,}", timeout=1000 * WITHIN_S
    )
    assert {UNREACHABLE} == set(await page.colours(*ids[:N_POLLED]))

    await page.field("Node").fill("node-0500")
    await page.press("Enter")
    await expect(page.find("#matching")).to_have_text("100 of 100,000 match")
    assert [PROVISIONING, LEFT_OUT] == await page.colours("llm-050000", "llm-050100")

    await page.point("llm-050000")
    await expect(page.find("#tip")).to_contain_text("node: node-0500")
    await page.click("llm-050000")
    await expect(page.page.get_by_role("dialog", name="llm-050000")).to_be_visible()

    await page.find("#map").focus()
    await page.press("End")
    await expect(page.find("#reader")).to_contain_text("llm-099999, node: node-0999")

    timings = await timings_of(page)
    n_maps = await _n_maps(page)
    write_inventory(tmp_path / "fleet.json", N - 1)
    await expect(page.find("#facts")).to_contain_text("99,999 instances", timeout=1000 * WITHIN_S)
    assert [None, PROVISIONING] == await page.colours("llm-099999", "llm-050000")
    assert n_maps + 1 == await _n_maps(page)

    with capsys.disabled():
        click.echo(f"\n  {N:,} cells: {timings}", nl=False)


async def _n_maps(page: FleetPage) -> int:
    return [path for path, _ in await page.loaded()].count("/fleet/map")


async def _lists_all(url: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/map") as answer:
        return N == len((await answer.json())["status"])
