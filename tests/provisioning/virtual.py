"""Time that passes only when everybody waits: a week goes by in a moment, and always alike.

`virtual_run` runs a coroutine on an event loop whose clock jumps to the next timer as soon as there
is nothing else to be done. Timers, time-outs and sleeps all follow it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_S = 1_800_000_000.0


class _Jumping(selectors.SelectSelector):
    """Does not wait: it moves the loop's clock on by what it should have waited."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits for something that will never happen")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop without waiting."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def freeze(self, duration_s: float) -> None:
        """Let time pass of which the process sees nothing, as when it is stopped by a signal."""
        self._jumping.now_s += duration_s


class VirtualClock:
    """The clock of the running virtual loop; see `clock.Clock`."""

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def unix_s(self) -> float:
        return EPOCH_S + asyncio.get_running_loop().time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(max(0.0, duration_s))


def freeze(duration_s: float) -> None:
    """Freeze the running virtual loop: on waking, all that was due meanwhile is due at once."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.freeze(duration_s)


def virtual_run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time; whatever tasks it leaves are an error."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_alone(main))


async def _alone(main: Coroutine[Any, Any, T]) -> T:
    result = await main
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks are left behind: {left}"
    return result
