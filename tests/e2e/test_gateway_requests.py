"""Stock Ollama, a real gateway and the exporter: each reads what the other says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from exporter import app, catalogue
from tests.exporter.fetching import fetch
from tests.exporter.test_app import Pages, config, running
from tests.ports import free_port
from tests.provisioning.gateway.nginx import Gateway, running_gateway

MODEL = {"models": [{"name": "phi3:latest", "expires_at": "2318-01-01T00:00:00Z"}]}
ANSWER = {"done": True, "eval_count": 7, "eval_duration": 10**8, "prompt_eval_count": 3}


async def generate(request: web.Request) -> web.Response:
    asked = await request.json()
    if asked["prompt"] == "fail":
        return web.json_response({"error": "llama runner process has terminated"}, status=500)
    return web.json_response(ANSWER)


BODIES = {
    "/": "Ollama is running",
    "/api/version": '{"version":"0.23.0"}',
    "/api/ps": json.dumps(MODEL),
    "/api/tags": json.dumps(MODEL),
}


async def describe(request: web.Request) -> web.Response:
    if request.path not in BODIES:
        raise web.HTTPNotFound
    return web.Response(text=BODIES[request.path])


@asynccontextmanager
async def ollama() -> AsyncIterator[int]:
    """Serve what stock Ollama serves: nothing counts its requests."""
    application = web.Application()
    application.add_routes([web.post("/api/generate", generate), web.get("/{path:.*}", describe)])
    async with TestServer(application) as server:
        assert server.port is not None
        yield server.port


async def ask(gateway: Gateway, prompt: str) -> int:
    body = {"model": "phi3", "prompt": prompt, "stream": False}
    status, _, _ = await asyncio.to_thread(partial(gateway.ask, "/api/generate", body))
    return status


@asynccontextmanager
async def stack(folder: Path) -> AsyncIterator[tuple[Gateway, Pages]]:
    """Run two servers, a gateway that reads the exporter's list, and an exporter that reads it."""
    address = f"127.0.0.1:{free_port()}"
    sources = {"sources": [f"http://{address}/upstreams"], "refresh": "100ms"}
    inventory = folder / "fleet.json"
    async with ollama() as one, ollama() as other:
        entries = [
            {"id": f"i{n}", "url": f"http://127.0.0.1:{port}", "node": f"n{n}", "engine": "ollama"}
            for n, port in enumerate((one, other))
        ]
        inventory.write_text(json.dumps(entries))
        with running_gateway(folder, (), is_ready=False, upstreams=sources) as gateway:
            settings = {"web__listen_address": address, "gateway__url": gateway.ops_url}
            async with running(config(inventory, **settings)) as pages:
                await asyncio.to_thread(gateway.wait_ready)
                await pages.until_values(catalogue.EXPORTER_GATEWAY_UP, [1.0])
                yield gateway, pages


async def test_a_fleet_of_stock_ollama_has_durations_errors_and_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "raise_limit", lambda: 4096)
    async with stack(tmp_path) as (gateway, pages):
        statuses = [await ask(gateway, prompt) for prompt in ("a", "b", "c", "fail")]
        await pages.until_values(catalogue.FLEET_REQUESTS, [4.0])
        await pages.until_values(catalogue.FLEET_GENERATED_TOKENS, [21.0])
        await pages.until_values(catalogue.FLEET_REQUEST_ERRORS, [1.0])
        errors = await pages.values(catalogue.NODE_ERRORS)
        port = int(str(gateway.settings["upstreams"]["sources"][0]).split(":")[2].split("/")[0])
        text = (await fetch(port, "/metrics")).text

    duration = catalogue.FLEET_REQUEST_DURATION.name
    assert [200, 200, 200, 500] == statuses
    assert [0.0, 1.0] == sorted(errors)
    assert f'{duration}_bucket{{shard="0",model="phi3",le="0.15"}}' in text
    assert f'{duration}_count{{shard="0",model="phi3"}} 4.0' in text
    assert 'ollama_fleet_errors_total{shard="0",model="phi3",error_type="5xx"} 1.0' in text
