"""Do long work in steps of about a millisecond, so that no poll waits for it."""

from __future__ import annotations

import asyncio
import heapq
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator, Sequence


T = TypeVar("T")

STEP = 500
"""Items of light work per step: less than a millisecond."""
PAUSE_S = 0.001
ITEMS_PER_PAUSE = 100


async def run_in_steps(steps: Generator[None, None, T]) -> tuple[T, float]:
    """Run steps with the event loop in between; return their result and their CPU time in s."""
    busy_s = 0.0
    while True:
        started_s = time.thread_time()
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value, busy_s + time.thread_time() - started_s
        busy_s += time.thread_time() - started_s
        await asyncio.sleep(0)


def run_with_pauses(steps: Generator[None, None, T]) -> T:
    """Run steps in a thread that sleeps between them; return their result.

    One call that sorts 100,000 texts would keep the event loop waiting for as long as it takes.
    """
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
        time.sleep(PAUSE_S)


def with_pauses(items: Iterable[T]) -> Iterator[T]:
    """Yield items to a thread that takes 10 µs or so for each; it sleeps about half of the time.

    Threads share one interpreter: else the event loop would get only half of what it needs.
    """
    for n, item in enumerate(items, 1):
        yield item
        if n % ITEMS_PER_PAUSE == 0:
            time.sleep(PAUSE_S)


def batched(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items in portions for one step each."""
    return (items[first : first + STEP] for first in range(0, len(items), STEP))


def sorted_in_steps(texts: Collection[str]) -> Generator[None, None, list[str]]:
    """Sort texts in steps: there may be as many as instances."""
    parts = []
    for some in batched(list(texts)):
        parts.append(sorted(some))
        yield
    merged: list[str] = []
    for text in heapq.merge(*parts):
        merged.append(text)
        if len(merged) % STEP == 0:
            yield
    return merged
