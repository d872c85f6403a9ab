"""Make pictures of the web pages for people to look at: each size of fleet and screen, each scheme.

`python -m tests.browser.screenshots FOLDER [--instances 60] [--width 390]`
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
from playwright.async_api import Browser

from tests.browser.chromium import chromium, opened
from tests.browser.programs import Simulation, exporter, simulation
from tests.exporter.servers import serving
from tests.exporter.ui.prometheuses import Asked, firing, rule

Fault = dict[str, object]
Scheme = Literal["light", "dark"]

SCHEMES: tuple[Scheme, ...] = ("light", "dark")
HEIGHTS = {390: 844, 1280: 800, 3840: 2160}
SETTLED_S = 8.0
"""Two poll intervals and a refresh: what befell the fleet is shown."""
NARROW = 900
PAGES = {"home": "/", "runbook": "/runbooks/OllamaNodeSlowerThanFleet"}


@dataclass(frozen=True, slots=True)
class Scene:
    """A fleet, and what befalls it."""

    n: int
    fleet: tuple[str, ...]
    """Options of the simulator."""
    exporter: tuple[str, ...]
    faults: tuple[Fault, ...]
    alerts: tuple[str, ...]


STOCK = ("--mode=ollama", "--inventory-engine=auto")
SCENES = (
    Scene(6, (*STOCK, "--nodes=6"), (), ({"kind": "kill", "ids": ["llm-00003"]},), ()),
    Scene(
        60,
        (*STOCK, "--nodes=12", "--hardware=gpu=1"),
        ("--canary.period=20s", "--canary.timeout=15s"),
        (
            {"kind": "node_gone", "node": "node-004"},
            {"kind": "partly_cpu", "count": 3},
            {"kind": "slow", "node": "node-007", "factor": 0.6},
        ),
        ("OllamaNodeInstancesDown",),
    ),
    Scene(1_000, (), (), ({"kind": "kill", "count": 4}, {"kind": "hang", "count": 3}), ()),
    Scene(
        10_000,
        (),
        (),
        (
            {"kind": "slow", "node": "node-018", "factor": 0.7},
            {"kind": "node_gone", "node": "node-063"},
            {"kind": "kill", "count": 20},
        ),
        (
            "OllamaFleetAvailabilityBudgetBurn",
            "OllamaNodeInstancesDown",
            "OllamaNodeSlowerThanFleet",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Staged:
    """A scene that runs."""

    url: str
    fleet: Simulation


@asynccontextmanager
async def staged(scene: Scene, run_dir: Path) -> AsyncIterator[Staged]:
    """Run a fleet, the exporter over it and a Prometheus whose alerts fire."""
    prometheus = Asked()
    prometheus.results = firing(*scene.alerts, since=time.time() - 100)
    prometheus.rules = [
        rule(name, 600.0, dashboard_url="http://grafana/d/x") for name in scene.alerts
    ]
    async with (
        serving(prometheus.handle) as port,
        simulation(run_dir, scene.n, *scene.fleet) as fleet,
        exporter(
            run_dir,
            fleet.inventory,
            f"--ui.prometheus-url=http://127.0.0.1:{port}",
            *scene.exporter,
            interval_s=3,
        ) as url,
    ):
        for fault in scene.faults:
            await fleet.inject(**fault)  # type: ignore[arg-type]
        await asyncio.sleep(SETTLED_S)
        yield Staged(url, fleet)


async def shoot(scene: Scene, folder: Path, widths: Sequence[int]) -> None:
    """Write the pictures of a scene."""
    with tempfile.TemporaryDirectory() as run_dir:
        async with staged(scene, Path(run_dir)) as stage, chromium() as browser:
            for width in widths:
                for scheme in SCHEMES:
                    name = f"{scene.n}-{width}-{scheme}"
                    await _shoot_fleet(browser, stage.url, folder / f"{name}.png", width, scheme)
                    if scene.n == SCENES[1].n:
                        await _shoot_pages(browser, stage.url, folder, width, scheme)


async def _shoot_fleet(
    browser: Browser, url: str, target: Path, width: int, scheme: Scheme
) -> None:
    size = {"width": width, "height": HEIGHTS[width]}
    async with opened(browser, f"{url}/fleet", scheme=scheme, cards=None, **size) as page:
        await asyncio.sleep(1.5)
        await page.page.screenshot(path=target, full_page=width < NARROW)


async def _shoot_pages(
    browser: Browser, url: str, folder: Path, width: int, scheme: Scheme
) -> None:
    size = {"width": width, "height": HEIGHTS[width]}
    page = await browser.new_page(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
    for name, path in PAGES.items():
        await page.goto(url + path)
        await page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
    await page.close()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--instances", type=int, multiple=True, help="Of these fleets alone.")
@click.option("--width", "widths", type=int, multiple=True, default=tuple(HEIGHTS))
def main(folder: Path, instances: tuple[int, ...], widths: tuple[int, ...]) -> None:
    """Write the pictures to FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in SCENES:
        if not instances or scene.n in instances:
            asyncio.run(shoot(scene, folder, widths))


if __name__ == "__main__":
    main()
