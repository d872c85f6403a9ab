"""Time what the store is asked, whichever store it is.

In:   a Store, and Metrics.
Out:  a Store that does the same. Fails as the one inside does; failures are counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from provisioning.metrics import Metrics, StoreCall
from provisioning.store.base import Change, Done, Store, Term, Update, View


class TimedStore:
    """See `store.base.Store`."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    async def load(self) -> View:
        """Return everything, as of one revision."""
        with self._metrics.timing(StoreCall.LOAD):
            return await self._store.load()

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[Done, ...]:
        """Make each change whole or not at all, in order."""
        with self._metrics.timing(StoreCall.COMMIT):
            return await self._store.commit(changes, term=term)

    def watch(self, after: int) -> AsyncIterator[Update]:
        """Yield what is written after a revision."""
        return self._store.watch(after)

    async def close(self) -> None:
        """Close the store inside."""
        await self._store.close()
