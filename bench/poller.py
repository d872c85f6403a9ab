"""What both peer pollers share: their options, their figures, and a page by prometheus-client.

A peer prints one line of JSON per cycle: a PollerCycle.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import click
import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from bench import procfs
from bench.figures import PollerCycle
from bench.page import count_samples


@dataclass
class Reporter:
    """Prints what each cycle cost."""

    registry: CollectorRegistry
    n_healthy: Callable[[], int]

    def __post_init__(self) -> None:
        self._before = _cpu()

    def end_cycle(self) -> None:
        """Render the page once, as a scrape would, and print the cycle's figures."""
        started_s = time.perf_counter()
        page = generate_latest(self.registry)
        render_s = time.perf_counter() - started_s
        used = _cpu() - self._before
        cycle = PollerCycle(
            healthy=self.n_healthy(),
            user_s=used.user_s,
            system_s=used.system_s,
            resident_bytes=procfs.resident_bytes(os.getpid()),
            samples=count_samples(page),
            page_bytes=len(page),
            render_s=render_s,
        )
        click.echo(msgspec.json.encode(cycle))
        # What the measuring itself costs belongs to no cycle.
        self._before = _cpu()


def _cpu() -> procfs.Cpu:
    times = os.times()
    return procfs.Cpu(times.user, times.system)
