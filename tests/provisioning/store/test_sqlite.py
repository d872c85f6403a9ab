from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ollama_fleet.clock import SystemClock
from provisioning.store.sqlite.leadership import SqliteLeadership
from provisioning.store.sqlite.store import SqliteStore
from tests.provisioning.store.contract import StoreContract
from tests.provisioning.store.examples import Open, Opened


@pytest.fixture
async def open_one(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        def open_one(holder: str) -> Opened:
            clock = SystemClock()
            store = SqliteStore(tmp_path / "fleet.db", "test", clock=clock)
            stack.push_async_callback(store.close)
            return store, SqliteLeadership(store.writer, holder=holder, clock=clock)

        yield open_one


class TestSqlite(StoreContract):
    """See `contract`."""
