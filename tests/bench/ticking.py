"""Run the exporter in this process with a ticker on its event loop; say how late the ticks were.

Prints one JSON object. The CPU time of the loop's thread between two ticks is measured too: on a
busy machine a tick may be late because the process did not get a processor.
"""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

import aiohttp
import click
import msgspec
import uvloop

from exporter import config as configuration
from exporter.app import Exporter
from exporter.cli import COLLECTOR_THRESHOLDS
from exporter.config import Given
from tests.bench.figures import durations_of
from tests.bench.page import READY_PATH

TICK_S = 0.005
READY_POLL_S = 0.2


@click.command()
@click.option("--inventory", type=click.Path(path_type=Path), required=True)
@click.option("--port", type=int, required=True)
@click.option("--interval", type=int, required=True)
@click.option("--cycles", type=int, required=True)
def main(inventory: Path, port: int, interval: int, cycles: int) -> None:
    """Poll the fleet for some cycles after the first."""
    settings = {
        "inventory": str(inventory),
        "web.listen-address": f"127.0.0.1:{port}",
        "poll.interval": f"{interval}s",
        "log.level": "warning",
    }
    given = {name: Given((text,), f"--{name}") for name, text in settings.items()}
    blocked_s, busy_s = uvloop.run(
        ticking(configuration.build(given), seconds=interval * cycles, port=port)
    )
    report = {
        "blocked": durations_of(blocked_s),
        "busy": durations_of(busy_s),
        "n": len(blocked_s),
    }
    click.echo(msgspec.json.encode(report))


async def ticking(
    config: configuration.Config, *, seconds: float, port: int
) -> tuple[list[float], list[float]]:
    """Run the exporter; once it has seen the whole fleet, tick for some seconds."""
    async with Exporter(config):
        # As the command does it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTOR_THRESHOLDS)
        await _until_ready(f"http://127.0.0.1:{port}{READY_PATH}")
        return await tick(seconds)


async def tick(seconds: float) -> tuple[list[float], list[float]]:
    """Return by how much each tick was late, and the thread's CPU time up to it."""
    blocked_s, busy_s = [], []
    now_s, cpu_s = time.perf_counter(), time.thread_time()
    end_s = now_s + seconds
    while now_s < end_s:
        await asyncio.sleep(TICK_S)
        before_s, now_s = now_s, time.perf_counter()
        cpu_before_s, cpu_s = cpu_s, time.thread_time()
        blocked_s.append(max(0.0, now_s - before_s - TICK_S))
        busy_s.append(cpu_s - cpu_before_s)
    return blocked_s, busy_s


async def _until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(url) as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(READY_POLL_S)


if __name__ == "__main__":
    main()
