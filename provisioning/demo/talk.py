"""Keep a few real LLM servers busy, so that they have a generation speed to show.

In:   how to find the servers' URLs, as they come and go.
Out:  requests for a little text, every few seconds, until the block ends.
A server that does not answer is asked again the next time: its troubles are the exporter's news.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

PAUSE_S = 5.0
ANSWER_TIMEOUT_S = 60.0
REQUEST = {"prompt": "A fleet of language models is", "n_predict": 32, "cache_prompt": False}

Find = Callable[[], Awaitable[Sequence[str]]]


@asynccontextmanager
async def keeping_busy(find: Find, *, pause_s: float = PAUSE_S) -> AsyncIterator[None]:
    """Ask each server for text, again and again, until the block ends."""
    asking = asyncio.create_task(_ask_for_ever(find, pause_s))
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _ask_for_ever(find: Find, pause_s: float) -> None:
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            await _ask_all(session, await find())
            await asyncio.sleep(pause_s)


async def _ask_all(session: aiohttp.ClientSession, urls: Sequence[str]) -> None:
    # One after the other: they share one machine's processors.
    for url in urls:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.post(f"{url}/completion", json=REQUEST) as answer:
                await answer.read()
