"""Logs that grow between two looks of their runtime are bounded all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ollama_fleet.clock import SystemClock
from provisioning.runtime.logs import (
    FLOODED_LOOK_EVERY_S,
    LOOK_EVERY_S,
    N_FLOODED_LOOKS,
    LogKeeper,
    predecessor,
)
from tests.waiting import eventually

LIMIT = 1000


class SteppedClock(SystemClock):
    """Lets a wait end when the test says so, and keeps how long each was to be."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._steps = asyncio.Semaphore(0)

    async def sleep(self, duration_s: float) -> None:
        self.waits.append(duration_s)
        await self._steps.acquire()

    async def step(self) -> None:
        """Let a wait end; return when the next one has begun."""
        n_waits = len(self.waits)
        self._steps.release()
        await eventually(lambda: len(self.waits) > n_waits)


def write(log: Path, size: int) -> None:
    with log.open("ab") as file:
        file.write(bytes(size))


async def test_a_log_is_bounded_again_and_again_and_sooner_while_it_floods(tmp_path: Path) -> None:
    clock, log = SteppedClock(), tmp_path / "a.log"
    keeper = LogKeeper(LIMIT, clock)
    write(log, LIMIT + 1)

    await keeper.keep([log])
    assert 0 == log.stat().st_size
    await eventually(lambda: clock.waits)

    write(log, 5 * LIMIT)
    await clock.step()
    assert (0, LIMIT) == (log.stat().st_size, predecessor(log).stat().st_size)
    write(log, LIMIT)
    await clock.step()
    assert LIMIT == log.stat().st_size
    for _ in range(N_FLOODED_LOOKS):
        await clock.step()
    quick = [FLOODED_LOOK_EVERY_S] * N_FLOODED_LOOKS
    assert [LOOK_EVERY_S, *quick, LOOK_EVERY_S, LOOK_EVERY_S] == clock.waits

    await keeper.close()


async def test_only_the_logs_that_were_named_last_are_looked_at(tmp_path: Path) -> None:
    clock = SteppedClock()
    first, second = tmp_path / "a.log", tmp_path / "b.log"
    keeper = LogKeeper(LIMIT, clock)
    await keeper.keep([first])
    await keeper.keep(path for path in [second])
    await eventually(lambda: clock.waits)
    for log in (first, second):
        write(log, LIMIT + 1)

    await clock.step()
    await clock.step()

    assert (LIMIT + 1, 0) == (first.stat().st_size, second.stat().st_size)
    await keeper.close()


async def test_nothing_is_looked_at_by_itself_once_it_is_closed(tmp_path: Path) -> None:
    tasks = asyncio.all_tasks()
    keeper = LogKeeper(LIMIT, SystemClock())
    await keeper.keep([])
    await keeper.keep([])
    assert 1 == len(asyncio.all_tasks() - tasks)

    await keeper.close()
    await keeper.close()
    write(tmp_path / "a.log", LIMIT + 1)
    await keeper.keep([tmp_path / "a.log"])

    assert 0 == (tmp_path / "a.log").stat().st_size
    assert tasks == asyncio.all_tasks()
