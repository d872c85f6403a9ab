"""See when draining instances have nothing under way, so that a drain need not last its whole time.

In:   the records, as of each pass.
Out:  `idle`: the containers of draining instances that have no request left; `on_idle` for each
new one.
Never fails. An engine that does not count its requests is not asked: its drain lasts its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from ollama_fleet.clock import Clock
from provisioning import descriptors
from provisioning.model import Instance, Phase
from provisioning.runtime.base import ProberOf
from provisioning.spec.defaults import ENGINES, Engine
from provisioning.store.base import Stored

NOTICE_S = 10.0
"""From the beginning of a drain: clients and balancers still send until they see that it drains."""
LOOK_S = 2.0
MAX_AT_ONCE = 100
"""A rollout drains few at once; each question takes a descriptor."""


class DrainMonitor:
    """Asks draining instances again and again whether a request runs or waits."""

    def __init__(self, prober_of: ProberOf, clock: Clock, *, on_idle: Callable[[], None]) -> None:
        self._prober_of = prober_of
        self._clock = clock
        self._on_idle = on_idle
        self._turns = asyncio.Semaphore(descriptors.share(MAX_AT_ONCE))
        self._draining: dict[str, Instance] = {}
        self._idle: set[str] = set()

    @property
    def idle(self) -> frozenset[str]:
        """Return the containers of draining instances that have nothing under way."""
        return frozenset(self._idle)

    def follow(self, stored: Mapping[str, Stored]) -> None:
        """Ask those that drain by their records, and nobody else."""
        self._draining = {
            one.instance.container: one.instance
            for one in stored.values()
            if one.instance.phase is Phase.DRAINING
        }
        self._idle &= self._draining.keys()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            clients_know_s = self._clock.unix_s() - NOTICE_S
            due = [
                one
                for container, one in self._draining.items()
                if one.since_s <= clients_know_s and container not in self._idle
            ]
            await asyncio.gather(*map(self._ask, due))
            await self._clock.sleep(LOOK_S)

    async def _ask(self, instance: Instance) -> None:
        page = ENGINES.get(instance.listing.engine, Engine()).requests
        host = instance.listing.address
        if page is None or not host:
            return
        async with self._turns:
            is_idle = await self._prober_of(instance.node).is_idle(host, instance.port, page)
        if is_idle:
            self._idle.add(instance.container)
            self._on_idle()
