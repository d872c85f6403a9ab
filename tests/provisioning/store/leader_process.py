"""Lead a fleet and write to it, again and again, as a process that can be paused or killed.

    python -m tests.provisioning.store.leader_process URL FLEET HOLDER LEASE_S

Writes a line for each thing that happens: `leads EPOCH`, `wrote ID VERSION` once a write is
acknowledged, `fenced`, `unavailable …`, `lost`.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Iterator

from ollama_fleet.clock import SystemClock
from provisioning.errors import FencedError, StoreUnavailableError
from provisioning.store.base import NEW, LeaderSession, Leadership, Put, Store
from provisioning.store.factory import open_store
from tests.provisioning.store.examples import instance

PAUSE_S = 0.01


async def lead(url: str, fleet: str, holder: str, lease_s: int) -> None:
    store, leadership = open_store(url, fleet, clock=SystemClock(), holder=holder, lease_s=lease_s)
    numbers = itertools.count(1)
    while True:
        try:
            await _lead_once(store, leadership, numbers)
        except StoreUnavailableError as error:
            _say(f"unavailable {error}")
            await asyncio.sleep(PAUSE_S)


async def _lead_once(store: Store, leadership: Leadership, numbers: Iterator[int]) -> None:
    async with leadership.lead() as current:
        _say(f"leads {current.term.epoch}")
        writing = asyncio.create_task(_write(store, current, numbers))
        await current.lost()
        _say("lost")
        writing.cancel()
        await asyncio.wait({writing})


async def _write(store: Store, current: LeaderSession, numbers: Iterator[int]) -> None:
    """Write until a write is refused."""
    for n in numbers:
        made = instance(f"{current.term.holder}-{n}", port=n)
        try:
            (done,) = await store.commit([Put(made, NEW)], term=current.term)
        except FencedError:
            _say("fenced")
            return
        except StoreUnavailableError as error:
            _say(f"unavailable {error}")
        else:
            if done.refusal is None:
                _say(f"wrote {made.id} {done.version}")
        await asyncio.sleep(PAUSE_S)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    url, fleet, holder, lease_s = sys.argv[1:]
    asyncio.run(lead(url, fleet, holder, int(lease_s)))
