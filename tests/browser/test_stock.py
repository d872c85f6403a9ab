"""What the page shows of stock Ollama servers: conditions, models in memory, canaries."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from provisioning.simulator.app import running_fleet
from provisioning.simulator.spec import FleetSpec, Mode
from tests.browser.conftest import Open, StartExporter
from tests.exporter.servers import answering, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

HEALTHY, MARK, MARK_LEFT_OUT = "#7f97a5", "#4d3d00", "#e3e0d6"
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
OFF = "not measured: set --canary.period 5m"


def ollama(*loaded: dict[str, Any]) -> dict[str, bytes]:
    """Return what a stock server answers that has these models in memory."""
    names = [{"name": model["name"]} for model in loaded]
    return {
        "/": b"Ollama is running",
        "/api/version": b'{"version":"0.23.0"}',
        "/api/ps": json.dumps({"models": loaded}).encode(),
        "/api/tags": json.dumps({"models": names}).encode(),
    }


GOOD = ollama({"name": "phi3:latest", "size": 4_000_000_000, "size_vram": 4_000_000_000})
PARTLY = ollama(
    {"name": HOSTILE, "size": 8_000_000_000, "size_vram": 6_000_000_000, "context_length": 4096}
)


@asynccontextmanager
async def stock(path: Path) -> AsyncIterator[Path]:
    """Serve a good instance and one that has another model than listed, partly on the CPU."""
    async with serving(answering(GOOD)) as good, serving(answering(PARTLY)) as partly:
        listed = [
            {"id": "good", "url": f"http://127.0.0.1:{good}", "node": "n1", "model": "phi3"},
            {"id": "partly", "url": f"http://127.0.0.1:{partly}", "node": "n1", "model": "phi3"},
        ]
        path.write_text(json.dumps([{**each, "engine": "ollama"} for each in listed]))
        yield path


async def test_a_condition_is_marked_counted_filtered_and_explained(
    tmp_path: Path, start_exporter: StartExporter, open_page: Open
) -> None:
    async with stock(tmp_path / "fleet.json") as inventory:
        page = await open_page(await start_exporter(inventory))
        await page.eventually_paints(MARK, "partly")
        await page.eventually_paints(HEALTHY, "good")
        buttons = page.find("#conditions button")
        await expect(buttons).to_have_text(
            ["model not loaded 1", "model not installed 1", "on CPU 1"]
        )
        why = page.find("#worst-rows td:nth-child(4)")
        await expect(why).to_have_text("healthy: model not loaded, model not installed, on CPU")

        await buttons.last.click()

        assert {"condition": "on_cpu"} == page.query
        await expect(page.find("#matching")).to_have_text("1 of 2 match")
        await expect(buttons.last).to_have_attribute("aria-pressed", "true")
        await page.click("partly")
        details = page.page.get_by_role("dialog", name="partly")
        await expect(details).to_contain_text(
            f"{HOSTILE}: 8 GB, 2 GB of it off the GPU, context 4,096"
        )
        await page.find("#clear").click()
        assert {"id": "partly"} == page.query
    assert "Fleet – ollama-fleet" == await page.page.title()
    assert 0 == await page.find("img").count()


async def test_a_stock_fleet_says_which_setting_gives_what_it_lacks(
    tmp_path: Path, start_exporter: StartExporter, open_page: Open
) -> None:
    async with stock(tmp_path / "fleet.json") as inventory:
        page = await open_page(f"{await start_exporter(inventory)}?value=speed")

        await expect(page.find("#indicators .verdict")).to_have_text(["✓ met", OFF, OFF])
        await expect(page.find("#serving dd")).to_have_text(
            [
                "none counted in 5 min",
                "off: set --canary.period 5m",
                f"phi3 on 1 · {HOSTILE} on 1 · 12 GB, 2 GB of it off the GPU",
                "ollama 2",
            ]
        )
        await expect(page.find("#legend-note")).to_contain_text("--canary.period measures it")
        await page.field("Colour by").select_option("canary")
        await expect(page.find("#legend-note")).to_contain_text("--canary.period sends them")
        for value in ("p99", "errors", "age"):
            await page.field("Colour by").select_option(value)
            await expect(page.find("#legend-note")).to_contain_text("These servers report no")


async def test_canaries_show_their_times_beside_those_of_requests(
    tmp_path: Path, start_exporter: StartExporter, open_page: Open
) -> None:
    inventory = tmp_path / "fleet.json"
    async with running_fleet(FleetSpec(n_instances=4, mode=Mode.OLLAMA)) as fleet:
        inventory.write_text(json.dumps(fleet.inventory))
        url = await start_exporter(inventory, "--canary.period=2s", "--canary.timeout=1900ms")
        page = await open_page(f"{url}?id=llm-00001&value=canary")

        await expect(page.find("#indicators dt").nth(1)).to_have_text(
            "Request latency p99 of canaries", timeout=100_000
        )
        await expect(page.find("#canaries-times")).to_have_text(
            re.compile("^whole [0-9.]+ m?s · first token [0-9.]+ m?s · waiting [0-9.]+ m?s$")
        )
        await expect(page.find("#indicators .verdict").last).to_have_text(
            re.compile("met"), timeout=100_000
        )
        await expect(page.find("#legend-steps li").last).to_have_text("not known 0")
        await expect(page.find("#details-list")).to_contain_text(
            re.compile("Last canaryok.*Canary took.*Canary's tokens per second[0-9]")
        )
