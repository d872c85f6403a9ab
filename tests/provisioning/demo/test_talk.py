from __future__ import annotations

import asyncio
import re

import aiohttp

from provisioning.demo import talk
from tests.conftest import StartLlamaServer

TOKENS = re.compile(r"^llamacpp:tokens_predicted_total (\d+)", re.MULTILINE)


async def _generated_tokens(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        found = TOKENS.search(await answer.text())
    assert found is not None
    return int(found[1])


async def test_a_real_server_is_asked_again_and_again_though_another_one_is_away(
    start_llama_server: StartLlamaServer, free_port: int
) -> None:
    server = await start_llama_server()
    generated = 0

    async def find() -> list[str]:
        return [f"http://127.0.0.1:{free_port}", server.url]

    async with talk.keeping_busy(find, pause_s=0.01), asyncio.timeout(60):
        while generated < 3 * 32:
            generated = await _generated_tokens(server.url)
