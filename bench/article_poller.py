"""A peer: the exporter of the article that this project implements, as it describes it.

One aiohttp session with its default of 100 connections; all instances asked at once; 2 s for the
health check, which the wait for a connection counts towards; then 5 s for the figures; gauges
of prometheus-client, one label set per instance.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import click
from prometheus_client import CollectorRegistry, Gauge

from bench.poller import Reporter

HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=2)
METRICS_TIMEOUT = aiohttp.ClientTimeout(total=5)


class ArticleExporter:
    """Polls everything at once and sets gauges."""

    def __init__(self, entries: Sequence[dict[str, Any]]) -> None:
        self._entries = entries
        self.registry = CollectorRegistry()
        self._instances = self._gauge("ollama_instances_total", "status")
        self._latency = self._gauge("ollama_request_latency_seconds", "instance_id", "endpoint")
        self._throughput = self._gauge("ollama_token_throughput", "model")
        self._errors = self._gauge("ollama_errors_total", "instance_id", "error_type")
        self.n_healthy = 0

    def _gauge(self, name: str, *labels: str) -> Gauge:
        return Gauge(name, name, labels, registry=self.registry)

    async def run_cycle(self, session: aiohttp.ClientSession) -> None:
        """Ask every instance, all at once, and publish what they said."""
        polls = [self._poll(session, entry) for entry in self._entries]
        results = await asyncio.gather(*polls)
        counts = Counter(is_healthy for is_healthy, _ in results)
        self.n_healthy = counts[True]
        self._instances.labels("healthy").set(counts[True])
        self._instances.labels("unhealthy").set(counts[False])
        self._instances.labels("provisioning").set(0)
        self._throughput.labels("llama3.1:8b").set(sum(speed for _, speed in results))

    async def _poll(
        self, session: aiohttp.ClientSession, entry: dict[str, Any]
    ) -> tuple[bool, float]:
        url = entry["url"]
        try:
            async with session.get(f"{url}/health", timeout=HEALTH_TIMEOUT) as answer:
                if answer.status != 200:
                    return False, 0.0
            async with session.get(f"{url}/api/metrics", timeout=METRICS_TIMEOUT) as answer:
                values = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False, 0.0
        self._latency.labels(entry["id"], "generate").set(values["latency_p99"])
        self._errors.labels(entry["id"], "unknown").set(values["error_count"])
        return True, values["tokens_per_second"]


async def run(entries: Sequence[dict[str, Any]], *, interval_s: float, n_cycles: int) -> None:
    """Run some cycles, the first of which begins at once."""
    exporter = ArticleExporter(entries)
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session:
        reporter = Reporter(exporter.registry, lambda: exporter.n_healthy)
        for number in range(n_cycles):
            started_s = loop.time()
            await exporter.run_cycle(session)
            reporter.end_cycle()
            if number + 1 < n_cycles:
                await asyncio.sleep(started_s + interval_s - loop.time())


@click.command()
@click.option("--inventory", type=click.Path(path_type=Path), required=True)
@click.option("--interval", type=float, required=True)
@click.option("--cycles", type=int, required=True)
def main(inventory: Path, interval: float, cycles: int) -> None:
    """Poll the fleet of an inventory for some cycles."""
    entries = json.loads(inventory.read_bytes())
    asyncio.run(run(entries, interval_s=interval, n_cycles=cycles))


if __name__ == "__main__":
    main()
