"""What the benchmark finds out, as values.

A Row is a line of the table; a Finding is that or a sentence below the table. A PollerCycle is
what a peer's process says of one of its cycles, as a line of JSON.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from bench.procfs import Cpu


class Target(StrEnum):
    """What the figures of a row are held against; the value is how the table calls it."""

    CPU = "CPU"
    MEMORY = "memory"
    FLAT = "growth"
    PAGE = "page"
    BLOCKING = "blocking"
    BELOW_OURS = "CPU below healthy"


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the table; None means that it was not measured or does not apply."""

    what: str
    healthy: int | None = None
    """Instances seen healthy."""
    user_s: float | None = None
    """CPU-seconds per cycle."""
    system_s: float | None = None
    resident_bytes: int | None = None
    grown_bytes: int | None = None
    """How far the memory went above its first reading."""
    samples: int | None = None
    page_bytes: int | None = None
    gzip_bytes: int | None = None
    render_s: float | None = None
    fetch_s: Durations | None = None
    gzip_fetch_s: Durations | None = None
    blocked_s: float | None = None
    """The longest time that the event loop did not turn."""
    targets: frozenset[Target] = frozenset()
    is_baseline: bool = False
    """Whether the other rows' ratios are to this one."""

    @property
    def cpu_s(self) -> float | None:
        """Return CPU-seconds per cycle, user and system together."""
        if self.user_s is None or self.system_s is None:
            return None
        return self.user_s + self.system_s


class Durations(msgspec.Struct, frozen=True):
    """Many durations in short, in seconds."""

    median: float
    p99: float
    worst: float


Finding = Row | str


class PollerCycle(msgspec.Struct, frozen=True):
    """One cycle of a peer."""

    healthy: int
    user_s: float
    system_s: float
    resident_bytes: int
    samples: int
    page_bytes: int
    render_s: float


def durations_of(values_s: Sequence[float]) -> Durations:
    """Return median, 99th percentile (the next higher value) and maximum of at least one value."""
    ordered = sorted(values_s)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return Durations(statistics.median(ordered), p99, ordered[-1])


def median_cpu(cycles: Sequence[Cpu]) -> Cpu:
    """Return the CPU time of the cycle in the middle: the lower one of two."""
    return sorted(cycles, key=lambda cycle: cycle.total_s)[(len(cycles) - 1) // 2]


def peer_row(what: str, cycles: Sequence[PollerCycle]) -> Row:
    """Return a peer's row: its cycle in the middle by CPU, with its last memory."""
    cpu = median_cpu([Cpu(cycle.user_s, cycle.system_s) for cycle in cycles])
    return Row(
        what=what,
        healthy=int(statistics.median_low([cycle.healthy for cycle in cycles])),
        user_s=cpu.user_s,
        system_s=cpu.system_s,
        resident_bytes=cycles[-1].resident_bytes,
        samples=cycles[-1].samples,
        page_bytes=cycles[-1].page_bytes,
        render_s=statistics.median([cycle.render_s for cycle in cycles]),
    )
