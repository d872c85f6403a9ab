"""Time what the store takes, for the provisioner's series.

In:   a Store. Out: the same Store, whose loads and commits are timed and whose failures counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from provisioning.fleet.metrics import Metrics, StoreCall
from provisioning.fleet.store.base import Change, Done, Store, Term, Update, View


class TimedStore:
    """A Store whose calls are timed."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    async def load(self) -> View:
        """Return everything, as of one revision."""
        with self._metrics.timing(StoreCall.LOAD):
            return await self._store.load()

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[Done, ...]:
        """Make each change whole or not at all; see base.Store."""
        with self._metrics.timing(StoreCall.COMMIT):
            return await self._store.commit(changes, term=term)

    def watch(self, after: int) -> AsyncIterator[Update]:
        """Yield what is written after a revision; waiting is not timed."""
        return self._store.watch(after)

    async def close(self) -> None:
        """Let go of connections and files."""
        await self._store.close()
