"""Run the exporter in this process with a ticker on its event loop; say how late the ticks were.

Prints one JSON object. On a busy machine a tick is late also because the loop's thread waits for a
processor; the kernel counts that, so it is told apart.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import click
import msgspec
import uvloop

from bench import procfs
from bench.figures import durations_of
from bench.page import READY_PATH
from exporter import config as configuration
from exporter.app import Exporter
from exporter.cli import favour_the_loop
from exporter.config import Given

TICK_S = 0.005
READY_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick."""

    late_s: float
    waited_s: float
    """For a processor, since the tick before."""

    @property
    def blocked_s(self) -> float:
        """Return what of its lateness the event loop is to blame for."""
        return max(0.0, self.late_s - self.waited_s)


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
        "inventory.refresh-interval": "5s",
        "log.level": "warning",
    }
    given = {name: Given((text,), f"--{name}") for name, text in settings.items()}
    config = configuration.build(given)
    ticks = uvloop.run(ticking(config, seconds=interval * cycles, port=port))
    report = {
        "late": durations_of([tick.late_s for tick in ticks]),
        "blocked": durations_of([tick.blocked_s for tick in ticks]),
        "n": len(ticks),
    }
    click.echo(msgspec.json.encode(report))


async def ticking(config: configuration.Config, *, seconds: float, port: int) -> list[Tick]:
    """Run the exporter; once it has seen the whole fleet, tick for some seconds."""
    favour_the_loop()  # as the command does it
    async with Exporter(config):
        gc.freeze()
        await _until_ready(f"http://127.0.0.1:{port}{READY_PATH}")
        return await tick(seconds)


async def tick(seconds: float) -> list[Tick]:
    """Sleep a little again and again for some seconds; return how that went."""
    ticks = []
    now_s, waited_s = time.perf_counter(), procfs.waited_s()
    end_s = now_s + seconds
    while now_s < end_s:
        await asyncio.sleep(TICK_S)
        before_s, now_s = now_s, time.perf_counter()
        waited_before_s, waited_s = waited_s, procfs.waited_s()
        ticks.append(Tick(max(0.0, now_s - before_s - TICK_S), waited_s - waited_before_s))
    return ticks


async def _until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(url) as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(READY_POLL_S)


if __name__ == "__main__":
    main()
