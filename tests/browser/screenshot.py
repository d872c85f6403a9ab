"""Make the picture that the README shows: `python -m tests.browser.screenshot docs/fleet.png`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import click
from playwright.async_api import expect

from tests.browser.chromium import chromium, opened
from tests.browser.programs import exporter, simulation
from tests.waiting import eventually

N = 10_000
SLOW_NODE, LOST_NODE = "node-018", "node-063"
N_KILLED = 20
INTERVAL_S = 5


async def shoot(run_dir: Path, target: Path) -> None:
    """Write the picture, once the page shows what has befallen the fleet."""
    async with (
        chromium() as browser,
        simulation(run_dir, N) as simulated,
        exporter(run_dir, simulated.inventory, interval_s=INTERVAL_S) as url,
        opened(browser, f"{url}/fleet?value=speed", scheme="dark") as page,
    ):
        slowed = await simulated.inject("slow", node=SLOW_NODE, factor=0.7)
        await simulated.inject("node_gone", node=LOST_NODE)
        await simulated.inject("kill", count=N_KILLED)
        await expect(page.find("#legend-steps li").last).to_contain_text("120", timeout=30_000)
        await expect(page.find("#legend-steps li").nth(1)).to_contain_text(
            str(len(slowed)), timeout=30_000
        )

        async def is_found() -> bool:
            return {SLOW_NODE} == set(await page.texts("#worst-rows td:nth-child(2)"))

        await eventually(is_found)
        await page.page.screenshot(path=target)


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
def main(target: Path) -> None:
    """Write the picture to TARGET."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(shoot(Path(folder), target))


if __name__ == "__main__":
    main()
