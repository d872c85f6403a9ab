"""Know which instances exist, from all sources together.

In:   sources, read again whenever the caller asks.
Out:  `targets`, immutable and sorted by id, and a Change for each difference.
The first reading refuses bad input (InputError). Later ones never raise: a source that fails keeps
its last good list, and its state tells the age and the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from exporter.errors import InputError, Problem
from exporter.inventory.diff import NO_CHANGE, Change
from exporter.inventory.listing import Listing, SourceState
from exporter.inventory.merge import Listed, merge, settle
from exporter.inventory.shard import WHOLE, Shard
from exporter.inventory.sources import Source
from exporter.model import Target
from ollama_fleet.clock import Clock, SystemClock


class Inventory:
    """The fleet as its sources describe it, or one shard of it."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        shard: Shard = WHOLE,
        clock: Clock | None = None,
    ) -> None:
        self._listings = [Listing(source) for source in sources]
        self._shard = shard
        self._clock = clock or SystemClock()
        self._targets: Listed = ()
        self._one_at_a_time = asyncio.Lock()

    def __repr__(self) -> str:
        sources = ", ".join(self._described(state) for state in self.states)
        return f"<Inventory: {len(self._targets):,} instances (shard {self._shard}); {sources}>"

    @property
    def targets(self) -> tuple[Target, ...]:
        """Return the instances in force, sorted by id."""
        return self._targets

    @property
    def states(self) -> tuple[SourceState, ...]:
        """Return how each source is doing, in the order in which they were given."""
        return tuple(listing.state for listing in self._listings)

    async def load(self) -> None:
        """Read all sources for the first time.

        A URL that cannot be read leaves its part empty, with a line in the log: the exporter has
        to start while the provisioner is down.

        Raises:
            InputError: Every problem of every source: files that are missing, entries that are
                bad, ids that stand twice.
        """
        async with self._one_at_a_time:
            await self._read()
            await self._settle()
            if problems := self._problems_at_start():
                raise InputError("inventory", problems)
            self._conclude()

    async def refresh(self) -> Change:
        """Read all sources again and return what has changed; false when nothing has."""
        async with self._one_at_a_time:
            await self._read()
            change = await self._settle()
            self._conclude()
            return change

    async def close(self) -> None:
        """Close all sources."""
        for listing in self._listings:
            await listing.source.close()

    async def _read(self) -> None:
        async with asyncio.TaskGroup() as group:
            for listing in self._listings:
                group.create_task(listing.read())

    async def _settle(self) -> Change:
        """Put in force what can be; nothing new means nothing to do."""
        if not any(listing.is_undecided for listing in self._listings):
            return NO_CHANGE
        in_force = [listing.in_force for listing in self._listings]
        new = {i: item.new for i, item in enumerate(self._listings) if item.new is not None}
        settlement = await asyncio.to_thread(settle, in_force, new)
        lists = [new[i] if i in settlement.taken else old for i, old in enumerate(in_force)]
        merged = await asyncio.to_thread(merge, self._targets, lists, self._shard)
        # From here to the end nothing waits: a cancelled refresh has changed all or nothing.
        for index in settlement.taken:
            self._listings[index].take()
        for index, problems in settlement.refused.items():
            self._listings[index].refuse(problems)
        self._targets, change = merged
        return change

    def _problems_at_start(self) -> list[Problem]:
        refusing = (listing for listing in self._listings if listing.forbids_start)
        return [problem for listing in refusing for problem in listing.problems]

    def _conclude(self) -> None:
        now_s = self._clock.unix_s()
        for listing in self._listings:
            listing.conclude(now_s)

    def _described(self, state: SourceState) -> str:
        age_s = self._clock.unix_s() - state.last_success_s
        age = f"good {age_s:.0f} s ago" if state.last_success_s else "never read"
        error = f", failing: {state.last_error}" if state.last_error else ""
        return f"{state.source}: {state.n_instances:,}, {age}{error}"
