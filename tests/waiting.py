"""Wait for a condition with a deadline, instead of sleeping for luck."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.02


async def eventually(condition: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Return once `condition()` is true; fail the test when it is not within `within_s`."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not true within {within_s} s: {condition}")
        await asyncio.sleep(POLL_S)


def eventually_sync(condition: Callable[[], object], *, within_s: float = 10.0) -> None:
    """As `eventually`, for tests that run no event loop."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not true within {within_s} s: {condition}")
        time.sleep(POLL_S)
