from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from provisioning.stack import app
from provisioning.stack.commands import Plan
from provisioning.stack.errors import NothingSeenError


async def test_a_run_with_a_duration_ends_by_itself(plan: Plan) -> None:
    async with aiohttp.ClientSession() as session:
        await asyncio.wait_for(app.keep_saying(session, plan, duration_s=0.05), 5)


async def test_a_run_without_a_duration_goes_on(plan: Plan) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(app.keep_saying(session, plan, duration_s=None), 0.2)


@asynccontextmanager
async def _prometheus(plan: Plan, *, n_failing: int) -> AsyncIterator[Plan]:
    """Run a server whose first answers are an error and whose others are 7; give its plan."""
    n_asked = 0

    async def query(_request: web.Request) -> web.Response:
        nonlocal n_asked
        n_asked += 1
        if n_asked <= n_failing:
            return web.json_response({"status": "error", "error": "query timed out"}, status=503)
        result = [{"metric": {"status": "healthy"}, "value": [1_800_000_000, "7"]}]
        return web.json_response({"status": "success", "data": {"result": result}})

    application = web.Application()
    application.add_routes([web.get("/api/v1/query", query)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield replace(plan, prometheus_port=runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_a_query_that_fails_is_asked_again(plan: Plan) -> None:
    async with (
        _prometheus(plan, n_failing=2) as plan,
        aiohttp.ClientSession() as session,
    ):
        seen = await app.until_seen(session, plan)

    assert 7 == seen.n_healthy


async def test_a_prometheus_that_sees_nothing_is_told_with_what_it_said_at_last(
    plan: Plan,
) -> None:
    async with (
        _prometheus(plan, n_failing=1_000) as plan,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(NothingSeenError) as caught:
            await app.until_seen(session, plan, within_s=0.3)

    assert "query timed out" in str(caught.value)
    assert f"{plan.prometheus_url}/api/v1/targets" in str(caught.value)
