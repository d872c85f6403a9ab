"""Real LLM servers, and simulated ones, as processes."""

from __future__ import annotations

import sys
from pathlib import Path

import aiohttp
import msgspec

from tests.provisioning.runtime.contract import running
from tests.provisioning.runtime.processes import ProcessLab
from tests.waiting import eventually

GIB = 2**30


async def answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def comes_up(url: str) -> bool:
    try:
        await eventually(lambda: answers(url))
    except AssertionError:
        return False
    return True


async def test_a_real_llama_server_serves_and_goes_when_it_is_asked(
    process_lab: ProcessLab, tiny_model: Path
) -> None:
    runtime, container = process_lab.open(), process_lab.container()
    command = (
        "-m",
        "ollama_fleet",
        "llama-server",
        f"--port={container.port}",
        f"--model={tiny_model}",
    )
    container = msgspec.structs.replace(
        container, command=(sys.executable, *command), memory_bytes=2 * GIB
    )

    await runtime.start(container)

    log = process_lab.log(container)
    assert await comes_up(f"http://127.0.0.1:{container.port}/health"), log.read_text()
    assert (running(container),) == await runtime.containers()
    await runtime.remove(container.name, grace_s=10.0)
    assert not await answers(f"http://127.0.0.1:{container.port}/health")
