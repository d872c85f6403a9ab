"""Send canaries to what is polled, and llama-servers that generate as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from exporter.canary import CanaryOptions, CanaryScheduler
from exporter.model import CanaryOutcome, CanaryState
from tests.exporter.engines.bodies import LLAMACPP_METRICS
from tests.exporter.engines.test_generation import LLAMACPP_LINES
from tests.exporter.pollers import Polled, target, watching
from tests.exporter.servers import Handler, response, serving
from tests.waiting import eventually

PERIOD_S = 0.2
IDLE = LLAMACPP_METRICS.replace(b"requests_processing 1", b"requests_processing 0")
ANSWER = b"\n\n".join(LLAMACPP_LINES) + b"\n\n"


@asynccontextmanager
async def canarying(polled: Polled, **changed: Any) -> AsyncIterator[CanaryScheduler]:
    """Send canaries to what is polled until the block ends."""
    given = {"period_s": PERIOD_S, "concurrency": 20, "timeout_s": 100.0, "n_tokens": 8}
    options = CanaryOptions(
        **{"prompt": "1, 2, 3,", "max_tokens_per_second": 1e6, **given, **changed}
    )
    targets = [scrape_target.target for scrape_target in polled.poller.scrape_targets.values()]
    await polled.update()
    canary = CanaryScheduler(
        options,
        polled.poller,
        polled.fleet_counters,
        polled.options.transport,
        polled.options.clock,
    )
    await polled.update(*targets)
    running = asyncio.create_task(canary.run())
    try:
        yield canary
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await canary.close()


def state(polled: Polled, instance_id: str = "a") -> CanaryState | None:
    return polled.poller.scrape_targets[instance_id].row.canary


def outcome(polled: Polled, instance_id: str = "a") -> CanaryOutcome | None:
    known = state(polled, instance_id)
    return None if known is None else known.outcome


def n_results(polled: Polled, which: CanaryOutcome) -> int:
    assert polled.fleet_counters.canary is not None
    return polled.fleet_counters.canary.results[which]


async def asked_again(polled: Polled, which: CanaryOutcome, n: int = 2) -> None:
    """Return once more canaries have ended so."""
    before = n_results(polled, which)
    await eventually(lambda: n_results(polled, which) >= before + n)


def n_stalled(polled: Polled, instance_id: str) -> int:
    known = state(polled, instance_id)
    return 0 if known is None else known.n_stalled


def llama_server(generate: Handler, metrics: bytes = IDLE) -> Handler:
    """Return a handler that is polled as an idle llama-server, and generates as a test wants."""
    bodies = {"/health": b'{"status":"ok"}', "/metrics": metrics}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await read_head(reader):
            path = head.split(b" ", 2)[1].decode()
            if path == "/completion":
                await generate(reader, writer)
                return
            writer.write(response(bodies.get(path, b"{}")))

    return handle


async def read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def answering(answer: bytes) -> Handler:
    async def generate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return generate


@asynccontextmanager
async def asking(generate: Handler, metrics: bytes = IDLE, **changed: Any) -> AsyncIterator[Polled]:
    """Send canaries to one llama-server."""
    async with serving(llama_server(generate, metrics)) as port:
        async with watching(target("a", port, engine="llamacpp")) as polled:
            async with canarying(polled, **changed):
                yield polled
