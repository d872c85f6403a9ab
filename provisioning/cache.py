"""Keep the store's records in this process, current by the store's watch and by our own writes.

A record's version is the revision that wrote it: so what the watch or a commit tells late is known
to be old.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from ollama_fleet.clock import Clock
from provisioning.errors import CompactedError, StoreError, StoreUnavailableError
from provisioning.eventlog import EventLog
from provisioning.store.base import (
    Change,
    ChangeResult,
    Delete,
    Put,
    PutSpec,
    Store,
    StoredInstance,
    StoredSpec,
    Update,
    View,
)

log = logging.getLogger("provisioning.cache")

PAUSE_S = 1.0
"""Between tries to reach the store."""
OnChange = Callable[[str, StoredInstance | None], None]


class Cache:
    """The store's records, in this process."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._view: View | None = None
        self._stored: dict[str, StoredInstance] = {}
        self._spec: StoredSpec | None = None
        self._revision = -1
        self._watch_revision = -1
        """All that was written up to here is known, by a load or by the watch."""
        self._deleted: dict[str, int] = {}
        """Deleted by this process, and not seen in the watch yet: the last version, by id."""
        self._one_load = asyncio.Lock()
        self._updates_meanwhile: list[Update] = []
        """From the watch since a load began: the load may show an earlier state."""
        self._known_at_s = 0.0
        self._is_followed = False
        self._is_tried = asyncio.Event()
        self._listeners: list[OnChange] = []
        self._events = EventLog(log, clock)

    @property
    def view(self) -> View | None:
        """Return the latest view; None: none was had yet. It does not change any more."""
        if self._view is None and self._revision >= 0:
            self._view = View(self._revision, dict(self._stored), self._spec)
        return self._view

    @property
    def stored(self) -> Mapping[str, StoredInstance]:
        """Return the records by instance id, as they are now; not to be kept over an await."""
        return self._stored

    @property
    def spec(self) -> StoredSpec | None:
        """Return the active specification; None: there is none."""
        return self._spec

    @property
    def as_of_s(self) -> float:
        """Return when the view was last known to be the store's, in seconds since 1970 UTC."""
        return self._clock.unix_s() if self._is_followed else self._known_at_s

    async def tried(self) -> None:
        """Return once the store was read, or is out of reach and may come back."""
        await self._is_tried.wait()

    def listen(self, on_change: OnChange) -> None:
        """Call back for each record that changes; None: it was deleted."""
        self._listeners.append(on_change)

    async def load(self) -> None:
        """Take over all that the store holds now.

        Raises:
            StoreUnavailableError: It cannot be reached.
            StoreError: It refuses, or a record cannot be read.
        """
        async with self._one_load:
            self._updates_meanwhile.clear()
            self._take_view(await self._store.load())
            for update in tuple(self._updates_meanwhile):
                self.take(update)

    def _take_view(self, view: View) -> None:
        self._watch_revision = view.revision
        self._deleted.clear()
        before = self._stored
        self._stored = dict(view.stored)
        self._spec = view.spec
        for id_ in before.keys() - self._stored.keys():
            self._tell(id_, None)
        for id_, stored in self._stored.items():
            if before.get(id_) != stored:
                self._tell(id_, stored)
        self._advance(view.revision)

    def apply_local_write(self, changes: Sequence[Change], results: Sequence[ChangeResult]) -> None:
        """Take over what this process has just written, without waiting for the watch."""
        revision = self._revision
        for change, one in zip(changes, results, strict=True):
            if not one.refusal:
                revision = max(revision, one.version)
                self._take_one(change, one.version)
        self._advance(revision)

    def _take_one(self, change: Change, version: int) -> None:
        """Take over one change of ours, unless it, or what came after, is known already."""
        match change:
            case Delete(id_, expected):
                known = self._stored.get(id_)
                if known is not None and known.version <= expected:
                    self._deleted[id_] = expected
                    self._delete(id_)
            case _ if version <= self._watch_revision:
                pass
            case Put(instance) if version > self._version(instance.id):
                self._put(StoredInstance(instance, version))
            case PutSpec(text) if self._spec is None or version > self._spec.version:
                self._spec = StoredSpec(text, version)

    async def follow(self) -> None:
        """Load, and take over what is written from then on, until cancelled.

        Raises:
            StoreError: It could not be read even once: the wrong store, or the wrong rights.
        """
        while True:
            try:
                await self.load()
                self._events.succeeded("store", "store followed again")
                self._is_tried.set()
                await self._follow()
            except CompactedError:
                continue
            except StoreUnavailableError as error:
                self._events.failed("store", "store unreachable, the view gets old", error)
            except StoreError as error:
                if self._revision < 0:
                    raise
                message = "store cannot be read, the view gets old"
                self._events.failed("store", message, error, level=logging.ERROR)
            self._is_tried.set()
            await self._clock.sleep(PAUSE_S)

    async def _follow(self) -> None:
        self._is_followed = True
        try:
            async for update in self._store.watch(self._watch_revision):
                self.take(update)
        finally:
            self._is_followed = False
            self._known_at_s = self._clock.unix_s()

    def take(self, update: Update) -> None:
        """Take over what the watch tells, unless it is known, or something newer is."""
        if self._one_load.locked():
            self._updates_meanwhile.append(update)
        if update.revision <= self._watch_revision:
            return
        self._watch_revision = update.revision
        for stored in update.stored:
            if self._version(stored.instance.id) < stored.version:
                self._put(stored)
        for id_ in update.deleted:
            if self._version(id_) < update.revision:
                self._deleted.pop(id_, None)
                self._delete(id_)
        if update.spec and (self._spec is None or self._spec.version < update.spec.version):
            self._spec = update.spec
        self._advance(max(update.revision, self._revision))

    def _version(self, id_: str) -> int:
        """Return the last version of a record that is known; 0: none is."""
        known = self._stored.get(id_)
        return known.version if known else self._deleted.get(id_, 0)

    def _put(self, stored: StoredInstance) -> None:
        self._stored[stored.instance.id] = stored
        self._tell(stored.instance.id, stored)

    def _delete(self, id_: str) -> None:
        if self._stored.pop(id_, None):
            self._tell(id_, None)

    def _tell(self, id_: str, stored: StoredInstance | None) -> None:
        for listener in self._listeners:
            listener(id_, stored)

    def _advance(self, revision: int) -> None:
        self._view = None
        self._revision = revision
        self._known_at_s = self._clock.unix_s()
