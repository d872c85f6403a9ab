"""Keep a fleet in this process: for tests, and for fleets that may be lost with it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from provisioning.errors import CompactedError, FencedError
from provisioning.model import Instance
from provisioning.store.base import (
    NEW,
    Change,
    ChangeRefusal,
    ChangeResult,
    Delete,
    LeaderSession,
    Place,
    Put,
    PutSpec,
    StoredInstance,
    StoredSpec,
    Term,
    Update,
    View,
    place_of,
)

KEPT_UPDATES = 10_000
"""A watch that is further behind has to load again."""
CONFLICT = ChangeResult(refusal=ChangeRefusal.CONFLICT)
PORT_TAKEN = ChangeResult(refusal=ChangeRefusal.PORT_TAKEN)


class MemoryBackend:
    """The records of one fleet, and who leads it."""

    def __init__(self, *, kept_updates: int = KEPT_UPDATES) -> None:
        self.revision = 0
        self.stored: dict[str, StoredInstance] = {}
        self.spec: StoredSpec | None = None
        self.session: LeaderSession | None = None
        """Of whoever leads; None: nobody does."""
        self._id_at: dict[Place, str] = {}
        self._updates: deque[Update] = deque(maxlen=kept_updates)
        self._n_terms = 0
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Return at the next write, or when a term ends."""
        await self._changed.wait()

    def begin_term(self, holder: str) -> LeaderSession:
        """Let somebody lead."""
        self._n_terms += 1
        self.session = LeaderSession(Term(self._n_terms, holder))
        return self.session

    def end_term(self, session: LeaderSession) -> None:
        """Let nobody lead, if this term is still going on."""
        session.end()
        if self.session is session:
            self.session = None
            self._tell()

    def updates(self, after: int) -> tuple[Update, ...]:
        """Return what was written after a revision.

        Raises:
            CompactedError: Some of it is forgotten.
        """
        forgotten = self.revision - len(self._updates)
        if after < forgotten:
            raise CompactedError(
                f"cannot watch from revision {after}: writes up to {forgotten} are forgotten; "
                f"load again"
            )
        return tuple(update for update in self._updates if update.revision > after)

    def commit(self, changes: Sequence[Change], term: Term) -> tuple[ChangeResult, ...]:
        """Make each change that can be made, all in one revision.

        Raises:
            FencedError: The term is over; nothing was written.
        """
        if self.session is None or self.session.term.epoch != term.epoch:
            raise FencedError(
                f"cannot write for {term.holder}: its term {term.epoch} is over; "
                f"stop changing things and lead again"
            )
        revision = self.revision + 1
        results = tuple(self._make(change, revision) for change in changes)
        made = [change for change, one in zip(changes, results, strict=True) if not one.refusal]
        if made:
            self.revision = revision
            self._updates.append(self._update(made))
            self._tell()
        return results

    def _make(self, change: Change, version: int) -> ChangeResult:
        match change:
            case Put():
                return self._put(change.instance, change.expected, version)
            case Delete():
                return self._delete(change)
            case PutSpec():
                return self._put_spec(change, version)

    def _put(self, instance: Instance, expected: int, version: int) -> ChangeResult:
        old = self.stored.get(instance.id)
        if expected != (old.version if old else NEW):
            return CONFLICT
        if self._id_at.get(place_of(instance), instance.id) != instance.id:
            return PORT_TAKEN
        if old:
            del self._id_at[place_of(old.instance)]
        self._id_at[place_of(instance)] = instance.id
        self.stored[instance.id] = StoredInstance(instance, version)
        return ChangeResult(version)

    def _delete(self, change: Delete) -> ChangeResult:
        old = self.stored.get(change.id)
        if old is None or old.version != change.expected:
            return CONFLICT
        del self._id_at[place_of(old.instance)]
        del self.stored[change.id]
        return ChangeResult()

    def _put_spec(self, change: PutSpec, version: int) -> ChangeResult:
        if change.expected != (self.spec.version if self.spec else NEW):
            return CONFLICT
        self.spec = StoredSpec(change.text, version)
        return ChangeResult(version)

    def _update(self, made: Sequence[Change]) -> Update:
        ids = dict.fromkeys(
            change.instance.id if isinstance(change, Put) else change.id
            for change in made
            if not isinstance(change, PutSpec)
        )
        return Update(
            self.revision,
            stored=tuple(self.stored[one] for one in ids if one in self.stored),
            deleted=tuple(one for one in ids if one not in self.stored),
            spec=self.spec if any(isinstance(change, PutSpec) for change in made) else None,
        )

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class MemoryStore:
    """See `base.Store`."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    async def load(self) -> View:
        """Return everything, as of one revision."""
        return View(self._backend.revision, dict(self._backend.stored), self._backend.spec)

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[ChangeResult, ...]:
        """Make each change that can be made, all in one revision.

        Raises:
            FencedError: The term is over; nothing was written.
        """
        return self._backend.commit(changes, term)

    async def watch(self, after: int) -> AsyncIterator[Update]:
        """Yield each commit after a revision.

        Raises:
            CompactedError: Too much was written since.
        """
        while True:
            updates = self._backend.updates(after)
            for update in updates:
                yield update
                after = update.revision
            if not updates:
                await self._backend.changed()

    async def close(self) -> None:
        """Do nothing: the backend goes on for the other stores."""


class MemoryLeadership:
    """See `base.Leadership`."""

    def __init__(self, backend: MemoryBackend, *, holder: str) -> None:
        self._backend = backend
        self._holder = holder

    @property
    def holder(self) -> str:
        """Return who we are: the holder of the terms that begin here."""
        return self._holder

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[LeaderSession]:
        """Wait until nobody else leads, then lead."""
        while self._backend.session is not None:
            await self._backend.changed()
        session = self._backend.begin_term(self._holder)
        try:
            yield session
        finally:
            self._backend.end_term(session)

    async def leader(self) -> str | None:
        """Return who leads now; None: nobody."""
        return self._backend.session.term.holder if self._backend.session else None
