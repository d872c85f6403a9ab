"""Fixtures of the inventory's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.exporter.inventory.serving import InventoryServer


@pytest.fixture
async def server() -> AsyncIterator[InventoryServer]:
    """An inventory server that runs; it answers with an empty list until told otherwise."""
    running = InventoryServer()
    await running.start()
    yield running
    await running.stop()
