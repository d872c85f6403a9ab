"""Tell the time and wait, by a clock that tests can replace."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """The time, and a way to wait."""

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary start; never goes back."""
        ...

    def unix_s(self) -> float:
        """Return seconds since 1970 UTC; may jump when the machine's clock is set."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Return after `duration_s`; at once when it is zero or negative."""
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic_s(self) -> float:
        """Return the machine's monotonic clock, in seconds."""
        return time.monotonic()

    def unix_s(self) -> float:
        """Return the machine's wall clock, in seconds since 1970 UTC."""
        return time.time()

    async def sleep(self, duration_s: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(max(0.0, duration_s))


async def wait_at_most(event: asyncio.Event, clock: Clock, duration_s: float) -> None:
    """Return once the event is set, or after `duration_s`."""
    if event.is_set():
        return
    waiting = asyncio.ensure_future(event.wait())
    sleeping = asyncio.ensure_future(clock.sleep(duration_s))
    try:
        await asyncio.wait({waiting, sleeping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        sleeping.cancel()
        await asyncio.gather(waiting, sleeping, return_exceptions=True)
