"""Records of one fleet in a SQLite file, for any number of processes on one machine.

In:   changes with a term, revisions to watch from.
Out:  every commit is one transaction and one revision, on the disk before it is acknowledged.
Fails with FencedError, CompactedError, StoreUnavailableError, StoreError.
Whoever finds the file removed or replaced refuses, for good: what it knows is not in that file.
The file must lie on a local disk: SQLite's WAL does not work over a network.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

from provisioning.clock import Clock
from provisioning.store.base import Change, Done, Term, Update, View
from provisioning.store.sqlite import reading, writing
from provisioning.store.sqlite.database import Database
from provisioning.store.sqlite.place import Place

LOOK_EVERY_S = 0.2
KEPT_DELETIONS = 10_000
"""A watch that has missed more of them has to load again."""


class SqliteStore:
    """See `base.Store`."""

    def __init__(
        self,
        path: Path,
        fleet: str,
        *,
        clock: Clock,
        look_every_s: float = LOOK_EVERY_S,
        kept_deletions: int = KEPT_DELETIONS,
    ) -> None:
        self._place = Place(path)
        self.writer = Database(self._place, fleet)
        # A second connection, so that a large commit does not hold up the watches.
        self._reader = Database(self._place, fleet)
        self._clock = clock
        self._look_every_s = look_every_s
        self._kept_deletions = kept_deletions

    async def load(self) -> View:
        """Return everything, as of one revision."""
        return await self._reader.run(reading.view, doing="read")

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[Done, ...]:
        """Make each change that can be made, all in one transaction.

        Raises:
            FencedError: The term is over; nothing was written.
        """
        work = partial(
            writing.commit, changes=changes, term=term, kept_deletions=self._kept_deletions
        )
        return await self.writer.run(work, doing="write")

    async def watch(self, after: int) -> AsyncIterator[Update]:
        """Yield what was written, by whichever process; each update reaches to the present.

        Writes that follow one another closely come as one update.

        Raises:
            CompactedError: Too much was deleted since.
        """
        while True:
            work = partial(reading.changes, after=after)
            update = await self._reader.run(work, doing="watch")
            if update is None:
                await self._clock.sleep(self._look_every_s)
            else:
                yield update
                after = update.revision

    async def close(self) -> None:
        """Wait for what is being written, then close the file."""
        await self._reader.close()
        await self.writer.close()
        self._place.close()
