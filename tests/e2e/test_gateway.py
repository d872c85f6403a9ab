"""Requests through real gateways are the requests of the fleet in the exporter's series."""

from __future__ import annotations

import asyncio
import http.client
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.running import Running, running
from tests.e2e.test_simulated_fleet import write_inventory
from tests.ports import free_ports
from tests.provisioning.gateway.answers import END, Instance, Script, lines
from tests.provisioning.gateway.nginx import (
    Gateway,
    Listed,
    Source,
    running_gateway,
    running_nginx,
    upstreams,
)
from tests.waiting import eventually

NO_LIMIT = {"default": {"rate": 10_000, "burst": 10_000, "concurrency": 200}}
LAST = '{"response":"","done":true,"eval_count":3,"eval_duration":1000000}'
ANSWER: Script = (lines(LAST), END)
PARTS: Script = (lines('{"response":"a"}'), 100.0, END)
NODE = "rack1-n1"


def listed(instances: dict[str, Instance]) -> list[Listed]:
    return [Listed(one.port, loaded=(name,), node=NODE) for name, one in instances.items()]


async def send(gateway: Gateway, n: int, model: str) -> set[int]:
    """Return the status codes of some requests."""
    body = {"model": model, "prompt": "hi"}
    answers = [await asyncio.to_thread(gateway.ask, "/api/generate", body) for _ in range(n)]
    return {status for status, _, _ in answers}


def leave(gateway: Gateway, model: str) -> None:
    """Send a request, and leave when its answer has begun."""
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=100)
    connection.request("POST", "/api/generate", f'{{"model":"{model}","prompt":"hi"}}')
    connection.getresponse().read(1)
    connection.close()


async def reads(stack: Running, gateway: Gateway, expected: float) -> bool:
    labels = {"gateway": gateway.ops_url}
    return await stack.value("ollama_exporter_gateway_up", **labels) == expected


async def counts(stack: Running, model: str) -> tuple[float | None, ...]:
    """Return requests, tokens and failed requests of a model."""
    labels = {"shard": "0", "model": model}
    names = ("requests_total", "generated_tokens_total", "request_errors_total")
    return tuple([await stack.value(f"ollama_fleet_{name}", **labels) for name in names])


async def test_requests_through_real_gateways_are_those_of_the_fleet(tmp_path: Path) -> None:
    """Errors are 5xx alone; a gateway that dies and comes back takes nothing away."""
    instances = {
        "good": Instance(ANSWER),
        "failing": Instance(ANSWER, status=500),
        "busy": Instance(ANSWER, status=429),
        "slow": Instance(PARTS),
    }
    inventory = write_inventory(
        tmp_path / "fleet.json", [{"url": "http://127.0.0.1:9", "node": NODE}]
    )
    traffic, ops = (f"127.0.0.1:{port}" for port in free_ports(2))
    listen = {"address": traffic, "ops_address": ops}
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as closing:
        for instance in instances.values():
            closing.callback(instance.close)
        source = closing.enter_context(Source(upstreams(listed(instances))))
        one = closing.enter_context(running_gateway(folders[0], listed(instances), limits=NO_LIMIT))
        urls = (f"--gateway.url={one.ops_url}", f"--gateway.url=http://{ops}")
        async with running(tmp_path, inventory, None, *urls) as stack:
            with running_nginx(folders[1], source, limits=NO_LIMIT, listen=listen) as two:
                await asyncio.to_thread(two.wait_ready)
                # What a gateway had counted when it was first read is no part of the series.
                await eventually(lambda: reads(stack, one, 1))
                await eventually(lambda: reads(stack, two, 1))
                assert {200} == await send(one, 4, "good") == await send(two, 2, "good")
                assert await send(one, 1, "failing") <= {500, 502, 503}
                assert {429} == await send(one, 2, "busy")
                await asyncio.to_thread(leave, one, "slow")
                await eventually(lambda: _all_of(stack))
            await eventually(lambda: reads(stack, two, 0))
            assert (6.0, 18.0, 0.0) == await counts(stack, "good")

            with running_nginx(folders[1], source, limits=NO_LIMIT, listen=listen) as two:
                await asyncio.to_thread(two.wait_ready)
                assert {200} == await send(two, 1, "good")
                await eventually(lambda: _is(stack, "good", (7.0, 21.0, 0.0)))
            samples = await stack.samples()

    errors = {
        dict(labels)["model"]: (dict(labels)["error_type"], value)
        for (name, labels), value in samples.items()
        if name == "ollama_fleet_errors_total" and value
    }
    assert {"failing": ("5xx", 1.0)} == errors
    of_node = ("ollama_node_errors_total", (("error_type", "5xx"), ("node", NODE), ("shard", "0")))
    assert 1.0 == samples[of_node]
    of_good = (("le", "+Inf"), ("model", "good"), ("shard", "0"))
    assert 7.0 == samples["ollama_fleet_request_duration_seconds_bucket", of_good]
    assert any(("le", "0.15") in labels for _, labels in samples)


async def _is(stack: Running, model: str, expected: tuple[float, ...]) -> bool:
    return await counts(stack, model) == expected


async def _all_of(stack: Running) -> bool:
    requests = [(await counts(stack, model))[::2] for model in ("good", "failing", "slow")]
    return requests == [(6.0, 0.0), (1.0, 1.0), (1.0, 0.0)]
