"""Look at a node's logs again and again, so that they stay within bounds between two questions.

In:   the logs of the units that a runtime has found, as often as it looks.
Out:  each log is bounded twice a second, and ten times for a while once one was too large.
So a log is larger than its bound by no more than its unit writes in that time: units write to their
files themselves, and nobody else sees how much. Never fails; LogBound tells of what cannot be kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from provisioning.clock import Clock
from provisioning.runtime.logfiles import LogBound

LOOK_EVERY_S = 0.5
FLOODED_LOOK_EVERY_S = 0.1
"""Each look may copy as much as the bound."""
N_FLOODED_LOOKS = 50
"""So many are quick after a log was too large: one that floods is not so at every look."""


class LogKeeper:
    """Keeps the logs of one node, until it is closed."""

    def __init__(self, max_bytes: int, clock: Clock) -> None:
        """Let no log be larger, when looked at."""
        self._bound = LogBound(max_bytes)
        self._clock = clock
        self._logs: tuple[Path, ...] = ()
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    async def keep(self, logs: Iterable[Path]) -> None:
        """Bound these logs now, and from now on, in place of those before."""
        self._logs = tuple(logs)
        await asyncio.to_thread(self._bound.keep, self._logs)
        if self._looking is None and not self._is_closed:
            self._looking = asyncio.create_task(self._look_again_and_again())

    async def close(self) -> None:
        """Look at none any more by itself."""
        self._is_closed = True
        if self._looking is not None:
            looking, self._looking = self._looking, None
            looking.cancel()
            await asyncio.wait({looking})

    async def _look_again_and_again(self) -> None:
        n_quick = 0
        while True:
            await self._clock.sleep(FLOODED_LOOK_EVERY_S if n_quick else LOOK_EVERY_S)
            n_quick = max(0, n_quick - 1)
            if await asyncio.to_thread(self._bound.keep, self._logs):
                n_quick = N_FLOODED_LOOKS
