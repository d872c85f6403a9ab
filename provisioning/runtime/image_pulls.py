"""Let imports take turns: a few at once, first come, first served.

In:   how many; of each import, when it has sent something, and when that was all.
Out:  its turn, and how many come before it. A turn ends with what there is to send: what the node
      does with that afterwards is no burden on us, and may take its time.
Fails with TimeoutError where one has its turn, and sends nothing for STALL_LIMIT_S.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

IMPORTS_AT_ONCE = 16
"""Of one provisioner: its network and its CPU are shared by all, and a few fill them."""
STALL_LIMIT_S = 300.0
"""A node that has all of a layer writes it to its disk before it takes more: 30 GB at 100 MB/s."""


class Turns:
    """What the imports to all nodes take turns by."""

    def __init__(self, n_at_once: int = IMPORTS_AT_ONCE) -> None:
        self.free = asyncio.Semaphore(n_at_once)
        self.line: list[Turn] = []
        """Who waits, or has its turn, in the order in which they came."""


class Turn:
    """The turn of one image."""

    def __init__(self, turns: Turns | None) -> None:
        """Take what it has to wait for; None: it need not, and nobody waits for it."""
        self._turns = turns
        self._stall = asyncio.timeout(None)
        self._is_had = False

    @property
    def n_before(self) -> int:
        """Return how many come first while it waits; 0: it does not."""
        if self._turns is None or self._is_had or self not in self._turns.line:
            return 0
        return self._turns.line.index(self)

    @property
    def has_stalled(self) -> bool:
        """Say whether it has been ended because nothing was sent any more."""
        return self._stall.expired()

    @contextlib.asynccontextmanager
    async def had(self) -> AsyncIterator[None]:
        """Wait for the turn, and have it for the block, or until all is sent."""
        if self._turns is None:
            yield
            return
        self._turns.line.append(self)
        try:
            await self._turns.free.acquire()
            self._is_had = True
            async with self._stall:
                self.goes_on()
                yield
        finally:
            self._leave(self._turns)

    def goes_on(self) -> None:
        """Take note that something has been sent."""
        if self._is_had and not self.has_stalled:
            self._stall.reschedule(asyncio.get_running_loop().time() + STALL_LIMIT_S)

    def has_sent_all(self) -> None:
        """Give the turn to the next one."""
        if self._turns is not None and self._is_had and not self.has_stalled:
            self._stall.reschedule(None)
            self._leave(self._turns)

    def _leave(self, turns: Turns) -> None:
        if self in turns.line:
            turns.line.remove(self)
        if self._is_had:
            self._is_had = False
            turns.free.release()
