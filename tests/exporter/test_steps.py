from __future__ import annotations

import asyncio
import time
from collections.abc import Generator

import pytest

from exporter.steps import (
    ITEMS_PER_PAUSE,
    PAUSE_S,
    STEP,
    run_in_steps,
    run_with_pauses,
    sorted_in_steps,
    with_pauses,
)


def steps(n: int) -> Generator[None, None, str]:
    for _ in range(n):
        yield
    return "done"


async def test_the_event_loop_turns_after_each_step() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    await run_in_steps(steps(100))
    turning.cancel()

    assert turns >= 100


async def test_only_time_spent_on_the_steps_counts_as_work() -> None:
    def lazy() -> Generator[None, None, None]:
        yield

    async def busy() -> None:
        while True:
            end_s = time.thread_time() + 0.02
            while time.thread_time() < end_s:
                pass
            await asyncio.sleep(0)

    other = asyncio.create_task(busy())
    _, busy_s = await run_in_steps(lazy())
    other.cancel()

    assert busy_s < 0.01


@pytest.mark.parametrize("n", [0, 1, STEP, 5 * STEP + 1])
def test_texts_are_sorted_a_few_at_a_time(n: int) -> None:
    texts = [str(7919 * number % (n + 1)) for number in range(n)]
    steps = sorted_in_steps(texts)

    n_steps = sum(1 for _ in steps)

    assert n_steps >= n // STEP
    assert sorted(texts) == run_with_pauses(sorted_in_steps(texts))


def test_a_thread_that_reads_much_sleeps_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses_s: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses_s.append)

    assert list(range(3 * ITEMS_PER_PAUSE)) == list(with_pauses(range(3 * ITEMS_PER_PAUSE)))
    assert [PAUSE_S] * 3 == pauses_s
