"""What is being done to units now, each operation in a task of its own.

In:   operations to begin.
Out:  those that have ended, with their outcomes, until they are taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any

import msgspec

from provisioning.lifecycle import Outcome, Result

log = logging.getLogger("provisioning.operations")


class Kind(StrEnum):
    """What an operation does."""

    START = "start"
    STOP = "stop"
    SWEEP = "sweep"


class Operation(msgspec.Struct, frozen=True):
    """Something that is done to one unit."""

    kind: Kind
    node: str
    unit: str
    id: str = ""
    """Of the instance whose record waits for the outcome; empty: it has none."""
    generation: int = 0


Ended = tuple[tuple[Operation, Outcome], ...]


class Operations:
    """Operations that are going on, or have ended and were not written down yet."""

    def __init__(self, *, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._tasks: dict[Operation, asyncio.Task[Outcome]] = {}
        self._ended: list[tuple[Operation, Outcome]] = []

    def __repr__(self) -> str:
        return f"<Operations: {self.n_running} running, {len(self._ended)} ended>"

    @property
    def n_running(self) -> int:
        """Return how many are going on."""
        return len(self._tasks)

    @property
    def ended(self) -> Ended:
        """Return those whose outcome was not written down yet, the first ended first."""
        return tuple(self._ended)

    def working(self) -> frozenset[str]:
        """Return the instances that an operation is about, or was and is not written down."""
        ended = (operation for operation, _ in self._ended)
        return frozenset(one.id for one in (*self._tasks, *ended) if one.id)

    def starting(self) -> frozenset[str]:
        """Return the instances whose start goes on, and was not called off."""
        started = {one.id for one in self._tasks if one.kind is Kind.START}
        return frozenset(started - {one.id for one in self._tasks if one.kind is Kind.STOP})

    def sweeping(self) -> frozenset[tuple[str, str]]:
        """Return the nodes and units that are being removed without a record."""
        return frozenset((one.node, one.unit) for one in self._tasks if one.kind is Kind.SWEEP)

    def begin(self, operation: Operation, work: Coroutine[Any, Any, Outcome]) -> None:
        """Let something be done; its outcome is kept until it is taken."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[operation] = task
        task.add_done_callback(lambda task: self._take_end(operation, task))

    async def call_off(self, id_: str) -> None:
        """Cancel the start of an instance, and return when it has ended."""
        starts = [
            task
            for operation, task in self._tasks.items()
            if operation.kind is Kind.START and operation.id == id_
        ]
        for task in starts:
            task.cancel()
        if starts:
            await asyncio.wait(starts)

    def take(self, n: int) -> None:
        """Forget the first n outcomes: they are written down."""
        del self._ended[:n]

    async def cancel(self) -> None:
        """Leave everything as it is, and return when nothing goes on any more."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ended.clear()

    def _take_end(self, operation: Operation, task: asyncio.Task[Outcome]) -> None:
        del self._tasks[operation]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            # A fault of ours: the executor reports what goes wrong, it does not raise it.
            log.error("the %s of %s broke off", operation.kind, operation.unit, exc_info=error)
        outcome = Outcome(Result.FAILED, f"{error!r}") if error else task.result()
        self._ended.append((operation, outcome))
        self._on_end()
