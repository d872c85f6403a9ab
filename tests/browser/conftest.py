"""A Chromium for all tests of the page, and pages in it that fail their test when they complain.

Without a Chromium these tests fail in continuous integration (`CI=true`); elsewhere they are
skipped with one line that says what to install.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.chromium import WITHIN_MS, ChromiumMissingError, chromium, opened
from tests.browser.page import FleetPage, Watch
from tests.browser.programs import exporter

# Only a test that fails waits so long.
expect.set_options(timeout=WITHIN_MS)

Open = Callable[..., Awaitable[FleetPage]]
"""`await open_page(url, scheme="dark", width=1280, height=800)`"""
StartExporter = Callable[..., Awaitable[str]]
"""`await start_exporter(inventory, *options, interval_s=1)`: the address of its page."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    try:
        async with chromium() as browser:
            yield browser
    except ChromiumMissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest_asyncio.fixture(loop_scope="session")
async def start_exporter(tmp_path: Path) -> AsyncIterator[StartExporter]:
    async with AsyncExitStack() as stack:

        async def start_exporter(inventory: Path | str, *options: str, **how: Any) -> str:
            url = await stack.enter_async_context(exporter(tmp_path, inventory, *options, **how))
            return f"{url}/fleet"

        yield start_exporter


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser, start_exporter: StartExporter) -> AsyncIterator[Open]:
    """Pages close before the exporter that they ask stops, so that they do not miss it."""
    watches: list[Watch] = []
    async with AsyncExitStack() as stack:

        async def open_page(url: str, **how: Any) -> FleetPage:
            page = await stack.enter_async_context(opened(browser, url, **how))
            watches.append(page.watch)
            return page

        yield open_page
    assert [] == [complaint for watch in watches for complaint in watch.complaints()]
