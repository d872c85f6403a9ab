"""The real command `ollama-fleet load`, and a server that answers as a test says."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

COMMAND = (sys.executable, "-P", "-m", "ollama_fleet", "load")
QUICKLY = ("--users=4", "--spawn-rate=100", "--run-time=1h", "--wait=10ms", "--slo.p99=60s")
"""For users who ask until Ctrl-C."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Ended:
    """A load test that is over."""

    status: int
    said: str
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        """Return what `--json` printed."""
        found: dict[str, Any] = json.loads(self.said)
        return found


class Enough:
    """Passes requests to a handler and counts them until there are enough."""

    def __init__(self, n: int, handler: Handler) -> None:
        self.n_asked = 0
        self._n = n
        self._handler = handler
        self._is_enough = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as the other one does."""
        self.n_asked += 1
        if self.n_asked >= self._n:
            self._is_enough.set()
        return await self._handler(request)

    async def wait(self) -> None:
        """Return once it is enough."""
        await self._is_enough.wait()


async def load(*options: str | Path, until: Coroutine[Any, Any, object] | None = None) -> Ended:
    """Run a load test to its end: that of its run time, or Ctrl-C once `until` is over."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *map(str, options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ending = asyncio.ensure_future(process.communicate())
    if until is not None:
        waiting = asyncio.ensure_future(until)
        await asyncio.wait({ending, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            process.send_signal(signal.SIGINT)
        waiting.cancel()
    said, errors = await ending
    return Ended(process.returncode or 0, said.decode(), errors.decode())


async def reported(
    *options: str | Path, until: Coroutine[Any, Any, object] | None = None
) -> dict[str, Any]:
    """Run a short load test; return its report."""
    ended = await load(*QUICKLY, "--json", *options, until=until)
    assert ended.status in {0, 1}, ended.errors
    return ended.report


def write_instances(path: Path, *urls: str, **fields: str) -> Path:
    """Write a list of running instances."""
    named = enumerate(urls, 1)
    path.write_text(
        json.dumps(
            [
                {"id": f"i{n}", "url": url, "model": "m:1", "engine": "", **fields}
                for n, url in named
            ]
        )
    )
    return path


@asynccontextmanager
async def serving(text: Handler, health: Handler | None = None) -> AsyncIterator[str]:
    """Answer requests for text, and health checks, on a loopback port; give the URL."""

    async def is_well(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": []})

    app = web.Application()
    app.router.add_post("/{path:.*}", text)
    app.router.add_get("/{path:.*}", health or is_well)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
