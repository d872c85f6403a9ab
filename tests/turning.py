"""See whether the event loop turns while something goes on.

Time is compared with time of the same run, and a run may be repeated: another process that takes
the processor stalls the loop too, but hardly ten times in a row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

N_RUNS = 10


async def is_ever_free(
    work: Callable[[], Awaitable[object]], *, longest_share: float, n_runs: int = N_RUNS
) -> bool:
    """Return whether in one of the runs no stall was longer than that share of the run."""
    for _ in range(n_runs):
        if await _longest_stall_share(work()) <= longest_share:
            return True
    return False


async def _longest_stall_share(work: Awaitable[object]) -> float:
    task = asyncio.ensure_future(work)
    began_s = last_s = time.monotonic()
    longest_s = 0.0
    while not task.done():
        await asyncio.sleep(0.001)
        now_s = time.monotonic()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    await task
    return longest_s / (last_s - began_s)
