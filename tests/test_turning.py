"""The helper that sees whether the event loop turns."""

from __future__ import annotations

import asyncio
import itertools
import time

from tests.turning import is_ever_free


def keep_the_loop(seconds: float) -> None:
    time.sleep(seconds)


async def test_work_that_keeps_the_loop_is_seen() -> None:
    async def stalls() -> None:
        await asyncio.sleep(0.01)
        keep_the_loop(0.5)

    assert not await is_ever_free(stalls, longest_share=0.5, n_runs=3)


async def test_work_elsewhere_leaves_the_loop_free() -> None:
    assert await is_ever_free(lambda: asyncio.to_thread(time.sleep, 0.1), longest_share=0.5)


async def test_one_free_run_is_enough() -> None:
    runs = itertools.chain([0.0, 0.0], itertools.repeat(0.1))

    async def work() -> None:
        pause_s = next(runs)
        keep_the_loop(0.1 - pause_s)
        await asyncio.sleep(pause_s)

    assert await is_ever_free(work, longest_share=0.5)
