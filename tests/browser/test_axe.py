"""axe finds nothing wrong with any page, at any size and in both schemes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped]
from playwright.async_api import Browser, Page

from tests.browser.chromium import opened
from tests.browser.screenshots import HEIGHTS, PAGES, SCENES, SCHEMES, Scheme, Staged, staged

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOOKS: tuple[tuple[bool, int, Scheme], ...] = (
    (True, 390, "light"), (True, 1280, "dark"), (True, 3840, "light"),
    (False, 390, "dark"), (False, 1280, "light"), (False, 3840, "dark"),
)  # fmt: skip
"""Whether as cards, width and scheme."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Staged]:
    run_dir: Path = tmp_path_factory.mktemp("axe")
    async with staged(SCENES[1], run_dir) as stage:
        yield stage


@pytest.mark.parametrize(("cards", "width", "scheme"), LOOKS)
async def test_the_fleet(
    stage: Staged, browser: Browser, cards: bool, width: int, scheme: Scheme
) -> None:
    size = {"width": width, "height": HEIGHTS[width]}
    async with opened(browser, f"{stage.url}/fleet", scheme=scheme, cards=cards, **size) as page:
        await page.find("#worst-rows tr").first.wait_for()
        found = await faults(page.page)
        await page.find("#worst-rows tr").last.get_by_role("button").click()
        await page.find("#details-list dd").first.wait_for()
        found += await faults(page.page)

    assert [] == found, "\n".join(found)


@pytest.mark.parametrize("path", [*PAGES.values(), "/runbooks/"])
async def test_the_other_pages(stage: Staged, browser: Browser, path: str) -> None:
    found = []
    for scheme, width in zip(SCHEMES, HEIGHTS, strict=False):
        page = await browser.new_page(
            color_scheme=scheme, viewport={"width": width, "height": HEIGHTS[width]}
        )
        await page.goto(stage.url + path)
        found += await faults(page)
        assert not await page.evaluate("() => document.body.scrollWidth > window.innerWidth")
        await page.close()

    assert [] == found, "\n".join(found)


async def faults(page: Page) -> list[str]:
    """Return what axe finds: rule and element."""
    told: dict[str, Any] = (await Axe().run(page)).response
    return [
        f"{violation['id']}: {node['html']}"
        for violation in told["violations"]
        for node in violation["nodes"]
    ]
