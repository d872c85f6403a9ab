"""Two real LLM servers, the real exporter, a real Prometheus."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import StartLlamaServer
from tests.e2e.running import Running, running
from tests.exporter.fetching import fetch
from tests.llama import LlamaServer
from tests.ports import free_port
from tests.waiting import eventually

TOKENS = "ollama_fleet_generated_tokens_total"


def write_inventory(path: Path, servers: dict[str, LlamaServer], engine: str = "llamacpp") -> Path:
    entries = [
        {"id": name, "url": server.url, "node": f"node-{name}", "engine": engine}
        for name, server in servers.items()
    ]
    path.write_text(json.dumps(entries))
    return path


async def generate(running: Running, server: LlamaServer, n_tokens: int) -> None:
    """Let a server generate."""
    body = {"prompt": "hello", "n_predict": n_tokens, "ignore_eos": True}
    async with running.session.post(f"{server.url}/completion", json=body) as answer:
        answer.raise_for_status()


async def generating_s(server: LlamaServer) -> float:
    """Return for how long a server has generated, as it counts itself."""
    page = (await fetch(server.port, "/metrics")).text
    (seconds,) = re.findall(r"^llamacpp:tokens_predicted_seconds_total (\S+)", page, re.MULTILINE)
    return float(seconds)


@pytest.fixture
async def servers(start_llama_server: StartLlamaServer) -> dict[str, LlamaServer]:
    return {name: await start_llama_server(alias=f"tiny-{name}") for name in ("a", "b")}


async def test_what_real_servers_generate_is_what_we_count(
    servers: dict[str, LlamaServer], tmp_path: Path, prometheus_binary: Path
) -> None:
    inventory = write_inventory(tmp_path / "fleet.json", servers)
    async with running(tmp_path, inventory, prometheus_binary) as stack:
        for name, server in servers.items():
            await generate(stack, server, 200)
            await eventually(
                partial(_is_value, stack, 200.0, TOKENS, shard="0", model=f"tiny-{name}")
            )
            before_s = await generating_s(server)
            await generate(stack, server, 400)
            await eventually(
                partial(_is_value, stack, 600.0, TOKENS, shard="0", model=f"tiny-{name}")
            )

            speed = 400 / (await generating_s(server) - before_s)
            await eventually(partial(_is_speed, stack, name, pytest.approx(speed, rel=0.01)))

        expected = {f"model=tiny-{name},shard=0": 600.0 for name in servers}
        await eventually(lambda: _answers(stack, TOKENS, expected))
        await eventually(lambda: _answers(stack, "sum(ollama_instance_up)", {"": 2.0}))


async def _is_speed(stack: Running, name: str, expected: object) -> bool:
    labels = {"instance_id": name, "node": f"node-{name}"}
    return expected == await stack.value("ollama_instance_tokens_per_second", **labels)


async def _is_value(stack: Running, expected: float, name: str, **labels: str) -> bool:
    return expected == await stack.value(name, **labels)


async def _answers(stack: Running, expression: str, expected: dict[str, float]) -> bool:
    return expected == await stack.query(expression)


async def test_a_server_that_dies_and_comes_back_counts_on(
    start_llama_server: StartLlamaServer, tmp_path: Path
) -> None:
    """kill -9, then a new process on the same port: its counters are at zero, ours are not."""
    first = await start_llama_server(alias="tiny", port=free_port())
    inventory = write_inventory(tmp_path / "fleet.json", {"a": first}, engine="auto")
    async with running(tmp_path, inventory) as stack:
        await generate(stack, first, 50)
        await eventually(lambda: _is_value(stack, 50.0, TOKENS, shard="0", model="tiny"))

        first.process.send_signal(signal.SIGKILL)
        refused = dict.fromkeys(("last_outcome", "last_failure_outcome"), "refused")
        await eventually(lambda: _is(stack, {"status": "unreachable", **refused}))

        second = await start_llama_server(alias="tiny", port=first.port)
        await eventually(lambda: stack.instances(status="healthy"))
        await generate(stack, second, 7)
        await eventually(lambda: _is_value(stack, 57.0, TOKENS, shard="0", model="tiny"))
        seen = (await stack.instances(id="a"))[0]

    assert ("llamacpp", "tiny") == (seen["engine"], seen["model"])
    assert seen["last_failure_outcome"]  # a poll that was late since then may have failed last


async def _is(stack: Running, expected: Mapping[str, str]) -> bool:
    """Say whether the one instance is so, at one look."""
    (seen,) = await stack.instances()
    return expected.items() <= seen.items()
