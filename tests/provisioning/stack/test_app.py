from __future__ import annotations

import asyncio

import aiohttp
import pytest

from provisioning.stack import app
from provisioning.stack.commands import Plan


async def test_a_run_with_a_duration_ends_by_itself(plan: Plan) -> None:
    async with aiohttp.ClientSession() as session:
        await asyncio.wait_for(app.keep_saying(session, plan, duration_s=0.05), 5)


async def test_a_run_without_a_duration_goes_on(plan: Plan) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(app.keep_saying(session, plan, duration_s=None), 0.2)
