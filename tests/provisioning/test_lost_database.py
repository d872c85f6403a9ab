"""Somebody removes the SQLite file under a whole provisioner."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.provisioning.test_app import (
    client,
    has_running,
    leads,
    put_spec,
    settings,
)
from tests.waiting import eventually


async def replaced(session: aiohttp.ClientSession) -> int:
    async with session.post("/instances/web-00001/replace") as response:
        return response.status


async def leads_no_more(session: aiohttp.ClientSession) -> bool:
    return not await leads(session)


async def test_nothing_is_accepted_any_more_and_another_provisioner_leads_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = f"sqlite:{tmp_path / 'fleet.db'}"
    async with client(settings(tmp_path, store_url=store)) as first:
        await eventually(lambda: leads(first))
        await put_spec(first)
        await eventually(lambda: has_running(first, 3))
        for path in tmp_path.glob("fleet.db*"):
            path.unlink()

        assert await replaced(first) in {500, 503}
        await eventually(lambda: leads_no_more(first))
        assert 503 == await replaced(first)
        assert await has_running(first, 3)
        await eventually(lambda: "store refused, cannot lead" in caplog.text)
        assert not (tmp_path / "fleet.db").exists()

        async with client(settings(tmp_path, store_url=store)) as second:
            await eventually(lambda: leads(second))
            assert not await leads(first)
