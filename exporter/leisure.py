"""Do long work in short steps, so that no poll waits for it.

In:   a generator that yields after each millisecond or so of work.
Out:  its result, and the CPU time that it took.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

T = TypeVar("T")


async def at_leisure(steps: Generator[None, None, T]) -> tuple[T, float]:
    """Run steps with the event loop in between; return their result and their CPU time in s."""
    busy_s = 0.0
    while True:
        started_s = time.thread_time()
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value, busy_s + time.thread_time() - started_s
        busy_s += time.thread_time() - started_s
        await asyncio.sleep(0)
