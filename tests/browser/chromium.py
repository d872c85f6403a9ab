"""A real Chromium, and pages in it that note whatever a browser complains about."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlsplit

from playwright.async_api import Browser, async_playwright

from tests.browser.page import FleetPage, Watch

NAMES = ("chromium", "chromium-browser", "google-chrome")
WITHIN_MS = 100_000
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`violates ${event.effectiveDirective}: ${event.blockedURI} ${event.sample}`));
"""


class ChromiumMissingError(Exception):
    """There is no Chromium on this system."""


def locate() -> str:
    """Return the path of the system's Chromium.

    Raises:
        ChromiumMissingError: There is none.
    """
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    raise ChromiumMissingError(
        f"none of {', '.join(NAMES)} is on PATH, and the page /fleet is tested in one of them; "
        "on Debian or Ubuntu: apt-get install chromium"
    )


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run a Chromium until the block ends.

    Raises:
        ChromiumMissingError: There is none.
    """
    path = locate()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*OPTIONS])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser,
    url: str,
    *,
    scheme: Literal["light", "dark"] = "light",
    width: int = 1280,
    height: int = 800,
    cards: bool | None = False,
) -> AsyncIterator[FleetPage]:
    """Open a page, as somebody does who never was there; give it once it shows the fleet.

    Args:
        cards: Whether as cards or as a map; None as the page chooses.
    """
    context = await browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": height}
    )
    try:
        context.set_default_timeout(WITHIN_MS)
        await context.add_init_script(TELL_VIOLATIONS)
        place = urlsplit(url)
        page = FleetPage(await context.new_page(), Watch(f"{place.scheme}://{place.netloc}"))
        page.watch.follow(page.page)
        await page.page.goto(url if cards is None else _with_shape(url, cards=cards))
        await page.shown()
        yield page
    finally:
        await context.close()


def _with_shape(url: str, *, cards: bool) -> str:
    mark = "&" if "?" in url else "?"
    return f"{url}{mark}shape={'cards' if cards else 'map'}"
