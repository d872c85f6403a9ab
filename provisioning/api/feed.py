"""Tell clients what changes, as it changes, without waiting for any of them.

In:   a Source, and the Directory that makes inventories of its views.
Out:  for each subscription a first Snapshot, then Changes; a client that does not keep up is
      dropped, and comes again for a new snapshot.
Several changes within a moment come as one, so that the start of a fleet is not a storm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from provisioning.api.errors import TooManyStreamsError
from provisioning.api.inventory import Directory, Inventory
from provisioning.api.ports import Source
from provisioning.clock import Clock
from provisioning.store.base import View

MAX_STREAMS = 100
MAX_PENDING = 64
"""Messages that a client may be behind."""
MIN_GAP_S = 0.2


@dataclass(frozen=True, slots=True)
class Message:
    """The instances that a revision changed; with `is_whole`, all that there are."""

    revision: int
    is_whole: bool
    changed: tuple[bytes, ...]
    """Their details as JSON."""
    removed: tuple[str, ...]


@dataclass(eq=False, slots=True)
class Subscription:
    """What one client has yet to be sent."""

    drop: Callable[[], None]
    """Called when it is too far behind; closes its connection."""
    pending: asyncio.Queue[Message] = field(
        default_factory=lambda: asyncio.Queue(maxsize=MAX_PENDING)
    )


class Feed:
    """The latest inventory, and who wants to hear of the next ones."""

    def __init__(
        self, source: Source, directory: Directory, clock: Clock, *, max_streams: int = MAX_STREAMS
    ) -> None:
        self._source = source
        self._directory = directory
        self._clock = clock
        self._max_streams = max_streams
        self._subscriptions: set[Subscription] = set()
        self._seen: View | None = None
        self._told = Inventory(-1, {})
        self._is_revision_spent = False
        """Whether the latest revision was told before, of other contents."""
        self.n_dropped = 0

    def __repr__(self) -> str:
        return f"<Feed to {self.n_streams} clients, {self.n_dropped} dropped, at {self._told}>"

    @property
    def n_streams(self) -> int:
        """Return how many clients follow."""
        return len(self._subscriptions)

    async def run(self) -> None:
        """Tell of changes until cancelled."""
        while True:
            await self._source.changed(self._seen)
            self._tell()
            await self._clock.sleep(MIN_GAP_S)

    @contextmanager
    def subscribed(
        self, *, drop: Callable[[], None], known: int | None = None
    ) -> Iterator[Subscription]:
        """Follow the changes until the context ends.

        Args:
            drop: Called if the client is too far behind.
            known: The revision of the last message that it had, if it had any.

        Raises:
            TooManyStreamsError: Too many clients follow already.
        """
        if self.n_streams >= self._max_streams:
            raise TooManyStreamsError(
                f"{self.n_streams} clients follow the changes, as many as are allowed; "
                "try again later, or poll GET /instances with If-None-Match"
            )
        subscription = Subscription(drop)
        if known != self._told.revision or self._is_revision_spent:
            subscription.pending.put_nowait(whole(self._told))
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def _tell(self) -> None:
        view = self._source.view
        if view is None:
            return
        self._seen = view
        before, self._told = self._told, self._directory.inventory_of(view)
        message = change(before, self._told)
        if not (message.changed or message.removed):
            return
        self._is_revision_spent = self._told.revision <= before.revision
        for subscription in list(self._subscriptions):
            self._tell_one(subscription, message)

    def _tell_one(self, subscription: Subscription, message: Message) -> None:
        try:
            subscription.pending.put_nowait(message)
        except asyncio.QueueFull:
            self.n_dropped += 1
            self._subscriptions.discard(subscription)
            subscription.drop()


def whole(inventory: Inventory) -> Message:
    """Return all instances."""
    changed = tuple(row.details_json for row in inventory.rows.values())
    return Message(inventory.revision, is_whole=True, changed=changed, removed=())


def change(before: Inventory, after: Inventory) -> Message:
    """Return the instances that differ between two inventories."""
    changed = tuple(
        row.details_json
        for id_, row in after.rows.items()
        if (old := before.rows.get(id_)) is not row
        and (old is None or old.details_json != row.details_json)
    )
    removed = tuple(id_ for id_ in before.rows if id_ not in after.rows)
    return Message(after.revision, is_whole=False, changed=changed, removed=removed)
