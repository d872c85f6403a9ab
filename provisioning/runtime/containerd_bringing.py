"""Bring each image to a node once, for all units that wait for it, however long that takes.

In:   an image's name, a way to find it on the node and one to bring it there.
Out:  the image. The bringing goes on when those who wait for it are called off, until it is done,
      takes longer than TRANSFER_LIMIT_S, sends nothing for STALL_LIMIT_S while others may wait for
      its turn, or the node is looked after no more.
Fails as the way to bring it does, and with TransientError where it ends for one of these reasons.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from provisioning.clock import Clock
from provisioning.errors import TransientError, UnitError
from provisioning.runtime.containerd_image import Image
from provisioning.runtime.containerd_transfers import TRANSFER_LIMIT_S
from provisioning.runtime.containerd_turns import STALL_LIMIT_S, Turn, Turns

MB = 1e6

log = logging.getLogger(__name__)


class Bringing:
    """What is being brought to one node."""

    def __init__(self, node: str, clock: Clock, turns: Turns) -> None:
        """Take the name of the node, and what the imports of all nodes take turns by."""
        self._node = node
        self._clock = clock
        self._turns = turns
        self._tasks: dict[str, asyncio.Task[Image]] = {}
        self._turn_by_name: dict[str, Turn] = {}
        self._faults: dict[str, str] = {}
        """By image: why it was not brought the last time, which nobody may have waited for."""

    async def bring(
        self,
        name: str,
        find: Callable[[], Awaitable[Image | None]],
        bring: Callable[[Turn], Awaitable[Image]],
        *,
        is_import: bool,
    ) -> Image:
        """Return the image, brought by whoever asked for it first.

        An import tells its turn what it sends.
        Where the caller is cancelled meanwhile, a note of the error says what it waited for.
        """
        task = self._tasks.get(name)
        if task is None:
            turn = self._turn_by_name[name] = Turn(self._turns if is_import else None)
            work = self._found_or_brought(name, find, bring, turn)
            task = self._tasks[name] = asyncio.create_task(work)
            task.add_done_callback(lambda ended: self._forget(name, ended))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            error.add_note(self._held_up(name))
            raise
        if task.cancelled():
            raise TransientError(f"the image {name!r} is brought to {self._node} no more")
        return task.result()

    async def close(self) -> None:
        """Break off what is being brought."""
        for task in tuple(self._tasks.values()):
            task.cancel()
            await asyncio.wait([task])

    async def _found_or_brought(
        self,
        name: str,
        find: Callable[[], Awaitable[Image | None]],
        bring: Callable[[Turn], Awaitable[Image]],
        turn: Turn,
    ) -> Image:
        if found := await find():  # it came between the question and the order
            return found
        try:
            async with turn.had():
                begun_s = self._clock.monotonic_s()
                log.info("the image %r is being brought to %s", name, self._node)
                async with asyncio.timeout(TRANSFER_LIMIT_S):
                    image = await bring(turn)
        except TimeoutError:
            raise self._stalled(name) if turn.has_stalled else self._slow(name) from None
        took_s = self._clock.monotonic_s() - begun_s
        log.info(
            "the image %r, %.1f MB, was brought to %s in %.1f s",
            *(name, image.size_bytes / MB, self._node, took_s),
        )
        return image

    def _stalled(self, name: str) -> TransientError:
        return TransientError(
            f"the image {name!r} was not brought to {self._node}: nothing of it could be sent for "
            f"{STALL_LIMIT_S:,.0f} s; see whether containerd's disk there, or the archive's here, "
            "still answers"
        )

    def _slow(self, name: str) -> TransientError:
        return TransientError(
            f"the image {name!r} was not brought to {self._node} within "
            f"{TRANSFER_LIMIT_S:,.0f} s; see how fast it comes there, or import it on the node"
        )

    def _held_up(self, name: str) -> str:
        words = f"its image {name!r} is still being brought to {self._node}"
        turn = self._turn_by_name.get(name)
        if turn and turn.n_before:
            words = (
                f"its image {name!r} waits for its turn to be brought to {self._node} "
                f"({turn.n_before:,} others come first)"
            )
        fault = self._faults.get(name)
        return f"{words}; the try before ended with: {fault}" if fault else words

    def _forget(self, name: str, ended: asyncio.Task[Image]) -> None:
        del self._tasks[name], self._turn_by_name[name]
        self._faults.pop(name, None)
        if ended.cancelled() or not (error := ended.exception()):
            return
        self._faults[name] = str(error)
        # Whoever asked for it may have been called off: then nobody else tells.
        broken = None if isinstance(error, UnitError) else error
        log.warning("bringing an image to %s has failed: %s", self._node, error, exc_info=broken)
