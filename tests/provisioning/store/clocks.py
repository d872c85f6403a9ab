"""Clocks for what would otherwise be waited for, or come at a bad moment."""

from __future__ import annotations

import asyncio

from ollama_fleet.clock import SystemClock

HURRIED_S = 0.1


class HurriedClock(SystemClock):
    """Sleeps for a moment only, so that what is done now and then is done at once; time goes on."""

    async def sleep(self, duration_s: float) -> None:
        await super().sleep(min(duration_s, HURRIED_S))


class SleepyClock(SystemClock):
    """Whoever sleeps by it never wakes."""

    async def sleep(self, duration_s: float) -> None:
        await asyncio.Event().wait()
