"""A peer: the same polls with aiohttp's client and a page by prometheus-client.

As an engineer who knows both would write it: one session without a limit of connections, uvloop,
kept connections, a time-out per request, polls spread over the interval, a custom collector that
makes the page from the last readings, rendered once per cycle.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click
import uvloop
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bench.poller import Reporter
from ollama_fleet.descriptors import raise_limit
from tests.waiting import eventually

HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
METRICS_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
KEEP_ALIVE_S = 60.0
ENTRY_LABELS = ("id", "node", "model")
LABELS = ("instance_id", "node", "model")


@dataclass(frozen=True, slots=True)
class Reading:
    """One instance after a poll."""

    labels: tuple[str, ...]
    developer: str
    is_up: bool
    duration_s: float
    values: dict[str, float]


class FleetCollector(Collector):
    """Makes the page: the fleet's aggregates, and six series per instance as our exporter."""

    def __init__(self) -> None:
        self.readings: dict[str, Reading] = {}

    @property
    def n_healthy(self) -> int:
        """Return how many instances answered their last poll."""
        return sum(reading.is_up for reading in self.readings.values())

    def collect(self) -> Iterator[Metric]:
        """Yield everything that is published."""
        readings = list(self.readings.values())
        yield from _aggregates(readings)
        yield from _per_instance(readings)


def _aggregates(readings: list[Reading]) -> Iterator[Metric]:
    statuses: Counter[str] = Counter()
    node_statuses: Counter[tuple[str, str]] = Counter()
    speed: dict[str, float] = defaultdict(float)
    latencies_s = []
    for reading in readings:
        _, node, model = reading.labels
        status = "healthy" if reading.is_up else "unhealthy"
        statuses[status] += 1
        node_statuses[node, status] += 1
        speed[model] += reading.values.get("tokens_per_second", 0.0)
        if "latency_p99" in reading.values:
            latencies_s.append(reading.values["latency_p99"])
    by_status = GaugeMetricFamily("fleet_instances", "Instances by status.", labels=["status"])
    for status, count in statuses.items():
        by_status.add_metric([status], count)
    by_node = GaugeMetricFamily("node_instances", "By node.", labels=["node", "status"])
    for key, count in node_statuses.items():
        by_node.add_metric(key, count)
    by_model = GaugeMetricFamily("fleet_tokens_per_second", "Speed.", labels=["model"])
    for model, value in speed.items():
        by_model.add_metric([model], value)
    p99_s = sorted(latencies_s)[int(0.99 * (len(latencies_s) - 1))] if latencies_s else 0.0
    yield from (by_status, by_node, by_model)
    yield GaugeMetricFamily("fleet_latency_p99_seconds", "p99 over instances.", value=p99_s)


def _per_instance(readings: list[Reading]) -> Iterator[Metric]:
    up = GaugeMetricFamily("instance_up", "Health.", labels=LABELS)
    duration = GaugeMetricFamily("instance_poll_duration_seconds", "Poll.", labels=LABELS)
    speed = GaugeMetricFamily("instance_tokens_per_second", "Speed.", labels=LABELS)
    latency = GaugeMetricFamily("instance_latency_p99_seconds", "p99.", labels=LABELS)
    errors = CounterMetricFamily("instance_errors", "Errors.", labels=(*LABELS, "error_type"))
    info = GaugeMetricFamily("instance_info", "Always 1.", labels=(*LABELS, "developer"))
    for reading in readings:
        labels, values = reading.labels, reading.values
        up.add_metric(labels, float(reading.is_up))
        duration.add_metric(labels, reading.duration_s)
        info.add_metric((*labels, reading.developer), 1.0)
        if values:
            speed.add_metric(labels, values["tokens_per_second"])
            latency.add_metric(labels, values["latency_p99"])
            errors.add_metric((*labels, "unknown"), values["error_count"])
    yield from (up, speed, latency, duration, errors, info)


async def poll(session: aiohttp.ClientSession, entry: dict[str, Any]) -> Reading:
    """Ask one instance for its health and its figures, one after the other on one connection."""
    url = entry["url"]
    started_s = time.perf_counter()
    is_up, values = False, {}
    try:
        async with session.get(f"{url}/health", timeout=HEALTH_TIMEOUT) as answer:
            await answer.read()
            is_up = answer.status == 200
        if is_up:
            async with session.get(f"{url}/api/metrics", timeout=METRICS_TIMEOUT) as answer:
                values = await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        is_up = False
    return Reading(
        labels=tuple(entry[key] for key in ENTRY_LABELS),
        developer=entry["developer"],
        is_up=is_up,
        duration_s=time.perf_counter() - started_s,
        values=values,
    )


async def watch(
    session: aiohttp.ClientSession,
    entry: dict[str, Any],
    collector: FleetCollector,
    *,
    due_s: float,
    interval_s: float,
) -> None:
    """Poll one instance once per interval, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(due_s - loop.time())
        collector.readings[entry["id"]] = await poll(session, entry)
        due_s += interval_s


async def run(entries: list[dict[str, Any]], *, interval_s: float, n_cycles: int) -> None:
    """Poll the fleet for one cycle that does not count, and then for those that do."""
    collector = FleetCollector()
    registry = CollectorRegistry()
    registry.register(collector)
    loop = asyncio.get_running_loop()
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        started_s = loop.time()
        watches = [
            group.create_task(
                watch(
                    session,
                    entry,
                    collector,
                    due_s=started_s + interval_s * index / len(entries),
                    interval_s=interval_s,
                )
            )
            for index, entry in enumerate(entries)
        ]
        await asyncio.sleep(interval_s)
        # On a busy machine the last ones are still on their way.
        await eventually(lambda: len(collector.readings) == len(entries), within_s=600.0)
        reporter = Reporter(registry, lambda: collector.n_healthy)
        for number in range(n_cycles):
            await asyncio.sleep(started_s + (number + 2) * interval_s - loop.time())
            reporter.end_cycle()
        for task in watches:
            task.cancel()


@click.command()
@click.option("--inventory", type=click.Path(path_type=Path), required=True)
@click.option("--interval", type=float, required=True)
@click.option("--cycles", type=int, required=True)
def main(inventory: Path, interval: float, cycles: int) -> None:
    """Poll the fleet of an inventory for some cycles."""
    raise_limit()
    entries = json.loads(inventory.read_bytes())
    uvloop.run(run(entries, interval_s=interval, n_cycles=cycles))


if __name__ == "__main__":
    main()
