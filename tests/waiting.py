"""Wait for a condition with a deadline, instead of sleeping for luck."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

POLL_S = 0.02


async def eventually(
    condition: Callable[[], object | Awaitable[object]], *, within_s: float = 100.0
) -> None:
    """Return once `condition()` is true, or what it gives when awaited; fail after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not true within {within_s} s: {_shown(condition)}")
        await asyncio.sleep(POLL_S)


def _shown(condition: Callable[[], object]) -> str:
    return inspect.getsource(condition) if inspect.isfunction(condition) else repr(condition)
