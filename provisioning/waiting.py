"""Wait for whichever comes first: something to happen, or time to pass."""

from __future__ import annotations

import asyncio

from provisioning.clock import Clock


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
