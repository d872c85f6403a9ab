"""Render the exposition once per interval and give the same one to every scraper."""

from __future__ import annotations

import asyncio
import gc
import logging
import zlib
from typing import TYPE_CHECKING

from exporter.exposition import (
    CHUNK_ROWS,
    Chunk,
    Exposition,
    Format,
    assemble,
    fleet_chunks,
    instance_chunks,
)
from exporter.snapshot import Aggregation, Snapshot
from exporter.steps import run_in_steps

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from zlib import _Compress as _Compressor

    from exporter.counters import FleetCounters
    from exporter.poller import Poller
    from exporter.selfmetrics import SelfMetrics
    from exporter.snapshot import Row
    from ollama_fleet.clock import Clock


log = logging.getLogger("exporter.publisher")

AUTO_MAX_INSTANCES = 50_000
"""In a larger fleet the series per instance are off: a scrape would be too large by default."""
GZIP_LEVEL = 1
"""Level 9 takes six times as long for a body that is an eighth smaller."""
GZIP_WINDOW_BITS = 31
"""zlib's way of saying: with gzip's header and trailer."""


class RenderedScrape:
    """An exposition in every format and encoding, each made on first request."""

    def __init__(self, exposition: Exposition) -> None:
        self.exposition = exposition
        self._plain: dict[Format, tuple[bytes, ...]] = {}
        self._gzipped: dict[Format, asyncio.Task[tuple[bytes, _Compressor]]] = {}

    @property
    def gzipped_formats(self) -> tuple[Format, ...]:
        """Return the formats that were asked for with gzip."""
        return tuple(self._gzipped)

    def plain(self, format_: Format) -> tuple[bytes, ...]:
        """Return the uncompressed exposition, in parts."""
        parts = self._plain.get(format_)
        if parts is None:
            parts = self._plain[format_] = self.exposition.parts(format_)
        return parts

    async def gzipped(self, format_: Format, tail: bytes) -> tuple[bytes, ...]:
        """Return the exposition and `tail`, compressed; the exposition is compressed only once."""
        # One scraper that leaves must not end the work for the others.
        head, compressor = await asyncio.shield(self.prepare_gzip(format_))
        end = compressor.copy()
        return head, end.compress(tail) + end.flush()

    def prepare_gzip(self, format_: Format) -> asyncio.Task[tuple[bytes, _Compressor]]:
        """Start to compress the exposition, unless that has started."""
        task = self._gzipped.get(format_)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(_compress, self.plain(format_)))
            self._gzipped[format_] = task
        return task

    async def close(self) -> None:
        """Wait for what is being compressed: a thread cannot be stopped."""
        await asyncio.gather(*self._gzipped.values(), return_exceptions=True)


class Publisher:
    """Makes editions of what the poller sees."""

    def __init__(
        self,
        poller: Poller,
        fleet_counters: FleetCounters,
        metrics: SelfMetrics,
        clock: Clock,
        *,
        shard: str = "0",
        per_instance: bool | None = None,
        hardware_label: str = "hardware",
        grace_period_s: float,
    ) -> None:
        self._poller = poller
        self._fleet_counters = fleet_counters
        self._metrics = metrics
        self._clock = clock
        self._shard = shard
        self.per_instance = per_instance
        """None: as the size of the fleet allows."""
        self.grace_period_s = grace_period_s
        self.hardware_label = hardware_label
        self._announced: dict[str, bool] = {}
        """Whether each kind of series was published when that was last logged."""
        self.rendered_scrape: RenderedScrape | None = None
        """None until the first whole cycle has ended."""

    async def run(self, interval_s: float) -> None:
        """Publish once the first cycle has ended and then every interval, until cancelled."""
        await self._poller.has_seen_all.wait()
        due_s = self._clock.monotonic_s()
        while True:
            await self.publish()
            due_s += interval_s
            await self._clock.sleep(due_s - self._clock.monotonic_s())

    async def publish(self) -> None:
        """Make an edition of the fleet as it is now."""
        exposition, busy_s = await self._render()
        rendered_scrape = RenderedScrape(exposition)
        if self.rendered_scrape is not None:
            for format_ in self.rendered_scrape.gzipped_formats:
                rendered_scrape.prepare_gzip(format_)
        self.rendered_scrape = rendered_scrape
        self._metrics.exposition_duration_s.set(busy_s)
        self._metrics.exposition_samples.set(exposition.n_samples)
        self._metrics.exposition_rendered_at_s.set(exposition.rendered_at_s)
        # The collector rarely comes by itself, and broken-off requests leave cycles of exceptions.
        gc.collect(0)

    async def close(self) -> None:
        """Wait for the edition's work to end."""
        if self.rendered_scrape is not None:
            await self.rendered_scrape.close()

    async def _render(self) -> tuple[Exposition, float]:
        """Return the exposition of the fleet now, and the event loop's CPU time for it in s."""
        rows, rows_s = await run_in_steps(self._poller.rows())
        now_s = self._clock.unix_s()
        of_instances, instances_s = await run_in_steps(self._instance_steps(rows, now_s))
        aggregation, chunks = of_instances
        if not self._publishes_aggregates():
            return assemble(chunks, now_s), rows_s + instances_s
        fleet = await asyncio.to_thread(aggregation.finish, self._fleet_counters)
        snapshot = Snapshot(tuple(rows), fleet, now_s, self._shard)
        more, fleet_s = await run_in_steps(_fleet_steps(snapshot))
        return assemble([*chunks, *more], now_s), rows_s + instances_s + fleet_s

    def _publishes_aggregates(self) -> bool:
        """Return whether polls go on: old counts would hide what a replica sees."""
        is_fresh = not self._poller.is_stale
        self._announce("aggregates", is_fresh, "no whole poll cycle has ended for 3 intervals")
        return is_fresh

    def _publishes_instances(self, n_instances: int) -> bool:
        if self.per_instance is not None:
            return self.per_instance
        is_small = n_instances <= AUTO_MAX_INSTANCES
        helps = f"more than {AUTO_MAX_INSTANCES:,}; to publish them: --metrics.per-instance true"
        self._announce("instance series", is_small, f"{n_instances:,} instances are {helps}")
        return is_small

    def _announce(self, kind: str, is_published: bool, why_not: str) -> None:
        """Log when some series are no longer published, and when they are again."""
        before = self._announced.get(kind, True)
        self._announced[kind] = is_published
        if before and not is_published:
            log.warning("series not published kind=%s: %s", kind, why_not)
        elif is_published and not before:
            log.info("series published again kind=%s", kind)

    def _instance_steps(
        self, rows: Sequence[Row], now_s: float
    ) -> Generator[None, None, tuple[Aggregation, list[Chunk]]]:
        """Aggregate and render the instances in steps of about a millisecond."""
        aggregation = Aggregation(
            now_s=now_s,
            hardware_label=self.hardware_label,
            grace_period_s=self.grace_period_s,
        )
        rendered: list[Chunk] = []
        per_instance = self._publishes_instances(len(rows))
        for first in range(0, len(rows), CHUNK_ROWS):
            some = rows[first : first + CHUNK_ROWS]
            aggregation.add(some)
            yield
            for chunk in instance_chunks(some, now_s=now_s) if per_instance else ():
                rendered.append(chunk)
                yield
        return aggregation, rendered


def _fleet_steps(snapshot: Snapshot) -> Generator[None, None, list[Chunk]]:
    """Render the fleet, its models and its nodes; there may be tens of thousands of nodes."""
    rendered: list[Chunk] = []
    for chunk in fleet_chunks(snapshot):
        rendered.append(chunk)
        yield
    return rendered


def _compress(parts: Sequence[bytes]) -> tuple[bytes, _Compressor]:
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW_BITS)
    return b"".join([compressor.compress(part) for part in parts]), compressor
