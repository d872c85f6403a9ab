"""Run the tasks of a program by name: start, replace, await the first that ends, stop all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Tasks:
    """Tasks that should never end by themselves."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Return when a task ended by itself, which is always a fault.

        Raises:
            Exception: What ended it.
        """
        await self._ended

    async def run(self, work: Coroutine[None, None, None], name: str) -> None:
        """Start a task in place of the one of that name."""
        await self.stop(name)
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        task.add_done_callback(self._note_end)

    async def stop(self, name: str) -> None:
        """End the task of that name, if there is one."""
        if task := self._tasks.pop(name, None):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """End all tasks."""
        for name in tuple(self._tasks):
            await self.stop(name)
        self._ended.cancel()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._ended.done():
            return
        if error := task.exception():
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)
