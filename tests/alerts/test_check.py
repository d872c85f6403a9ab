"""`alerts check` against servers that do not answer as a healthy Prometheus does.

A Prometheus that refuses what promtool accepts is not to be had on demand, so a small server of our
own stands in; what a real one answers is in tests/e2e/test_alerts_check.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from alerts import check, report
from alerts.check import State
from alerts.errors import CheckError
from alerts.settings import Settings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def refuse_rates(request: web.Request) -> web.Response:
    """Refuse what holds `rate(`, and have one series of everything else."""
    if "rate(" in request.query.get("query", ""):
        body = {"status": "error", "errorType": "execution", "error": "many-to-many matching"}
        return web.json_response(body, status=422)
    timings = {"timings": {"evalTotalTime": 0.25}}
    data = {"result": [{"metric": {}, "value": [0, "1"]}], "stats": timings, "groups": []}
    return web.json_response({"status": "success", "data": data})


async def test_what_prometheus_refuses_is_told_with_its_reason() -> None:
    async with answering(refuse_rates) as url:
        result = await check.run(Settings(), url)

    refused = [rule for rule in result.rules if rule.state is State.REFUSED]
    assert {"many-to-many matching"} == {rule.error for rule in refused}
    assert "fleet:ollama_generated_tokens:rate" in {rule.name for rule in refused}
    assert len(refused) == result.n_refused
    assert "many-to-many matching" in report.checked(result)


async def test_the_time_of_all_rules_is_the_sum_of_what_prometheus_tells() -> None:
    async with answering(refuse_rates) as url:
        result = await check.run(Settings(), url)

    assert pytest.approx(0.25 * (len(result.rules) - result.n_refused)) == result.evaluation_s


async def test_rules_that_prometheus_has_not_loaded_are_named() -> None:
    async with answering(refuse_rates) as url:
        result = await check.run(Settings(), url)

    assert "OllamaFleetHealthyInstancesLow" in result.not_loaded


async def page_not_found(_: web.Request) -> web.Response:
    return web.Response(text="<html>not here</html>", status=404)


async def something_else(_: web.Request) -> web.Response:
    return web.json_response(["hello"])


@pytest.mark.parametrize("handler", [page_not_found, something_else])
async def test_a_server_that_is_no_prometheus_is_told(handler: Handler) -> None:
    async with answering(handler) as url:
        with pytest.raises(CheckError, match="is --prometheus the address of a Prometheus"):
            await check.run(Settings(), url)
