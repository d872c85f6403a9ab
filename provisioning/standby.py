"""Say who leads, while we wait to.

In:   Leadership, asked every few seconds.
Out:  one line in the log for each leader. Never fails; a store out of reach is not its affair.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from provisioning.clock import Clock
from provisioning.store.base import Leadership

log = logging.getLogger("provisioning.standby")

LOOK_EVERY_S = 5.0


class Standby:
    """A provisioner that waits to lead."""

    def __init__(
        self, leadership: Leadership, clock: Clock, *, on_answer: Callable[[], None]
    ) -> None:
        """Have `on_answer` called whenever the store has told who leads."""
        self._leadership = leadership
        self._clock = clock
        self._on_answer = on_answer
        self._told: str | None = None

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Tell of each leader once, until the block ends."""
        task = asyncio.create_task(self._tell_again_and_again())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def forget(self) -> None:
        """Tell of whoever leads next, though it be the same as before: we led in between."""
        self._told = None

    async def _tell_again_and_again(self) -> None:
        while True:
            self._tell(await self._leadership.leader())
            await self._clock.sleep(LOOK_EVERY_S)

    def _tell(self, leader: str | None) -> None:
        # We ourselves: the term has begun, and `lead` is about to say so.
        if leader is None or leader == self._leadership.holder:
            return
        self._on_answer()
        if leader != self._told:
            log.info("stands by, %s leads", leader)
            self._told = leader
