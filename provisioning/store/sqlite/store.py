"""A store in one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path

from ollama_fleet.clock import Clock
from provisioning.errors import CompactedError, FencedError
from provisioning.model import Instance
from provisioning.store.base import (
    NEW,
    Change,
    ChangeRefusal,
    ChangeResult,
    Delete,
    Put,
    PutSpec,
    StoredInstance,
    StoredSpec,
    Term,
    Update,
    View,
    decode,
    encode,
    place_of,
)
from provisioning.store.sqlite.database import Database, transaction


def view(connection: sqlite3.Connection) -> View:
    """Return everything."""
    with transaction(connection, "DEFERRED"):
        (revision,) = connection.execute("SELECT revision FROM fleet").fetchone()
        stored = {one.instance.id: one for one in _stored(connection, after=0)}
        return View(revision, stored, _spec(connection, after=0))


def changes(connection: sqlite3.Connection, *, after: int) -> Update | None:
    """Return what has another state now than at a revision; None: nothing was written since.

    Raises:
        CompactedError: Deletions since then are forgotten, or the file is an older one.
    """
    with transaction(connection, "DEFERRED"):
        return _changes(connection, after)


def _changes(connection: sqlite3.Connection, after: int) -> Update | None:
    revision, forgotten = connection.execute("SELECT revision, forgotten FROM fleet").fetchone()
    if revision == after:
        return None
    if not forgotten <= after < revision:
        raise CompactedError(
            f"cannot watch from revision {after}: the file knows {forgotten} to {revision}; "
            f"load again"
        )
    deleted = connection.execute(
        "SELECT id FROM deletion WHERE version > ? ORDER BY version, id", (after,)
    )
    return Update(
        revision,
        stored=tuple(_stored(connection, after=after)),
        deleted=tuple(gone for (gone,) in deleted),
        spec=_spec(connection, after=after),
    )


def _stored(connection: sqlite3.Connection, *, after: int) -> Iterator[StoredInstance]:
    rows = connection.execute(
        "SELECT id, version, body FROM instance WHERE version > ? ORDER BY version, id", (after,)
    )
    for instance_id, version, body in rows:
        yield StoredInstance(decode(body, source=f"of instance {instance_id}"), version)


def _spec(connection: sqlite3.Connection, *, after: int) -> StoredSpec | None:
    row = connection.execute(
        "SELECT text, version FROM spec WHERE version > ?", (after,)
    ).fetchone()
    return StoredSpec(*row) if row else None


CONFLICT = ChangeResult(refusal=ChangeRefusal.CONFLICT)
PORT_TAKEN = ChangeResult(refusal=ChangeRefusal.PORT_TAKEN)


def begin_term(connection: sqlite3.Connection, *, holder: str) -> int:
    """Begin a term and return its epoch; all earlier ones are over."""
    with transaction(connection):
        return _begin(connection, holder)


def end_term(connection: sqlite3.Connection, *, epoch: int) -> None:
    """Let nobody write until another term begins; do nothing where one has begun."""
    with transaction(connection):
        if current_term(connection)[0] == epoch:
            _begin(connection, None)


def current_term(connection: sqlite3.Connection) -> tuple[int, str | None]:
    """Return the epoch and who holds it, who may have died since; None: nobody."""
    epoch, holder = connection.execute("SELECT epoch, holder FROM fleet").fetchone()
    return epoch, holder


def _begin(connection: sqlite3.Connection, holder: str | None) -> int:
    connection.execute("UPDATE fleet SET epoch = epoch + 1, holder = ?", (holder,))
    return current_term(connection)[0]


def commit(
    connection: sqlite3.Connection, changes: Sequence[Change], *, term: Term, kept_deletions: int
) -> tuple[ChangeResult, ...]:
    """Make each change that can be made, all in one revision.

    Raises:
        FencedError: The term is over; nothing was written.
    """
    with transaction(connection):
        _refuse_another(connection, term)
        (revision,) = connection.execute("SELECT revision FROM fleet").fetchone()
        results = tuple(_make(connection, change, revision + 1) for change in changes)
        if not all(one.refusal for one in results):
            connection.execute("UPDATE fleet SET revision = revision + 1")
            _forget(connection, kept_deletions)
        return results


def _refuse_another(connection: sqlite3.Connection, term: Term) -> None:
    epoch, _ = current_term(connection)
    if epoch != term.epoch:
        raise FencedError(
            f"cannot write for {term.holder}: its term {term.epoch} is over; "
            f"stop changing things and lead again"
        )


def _make(connection: sqlite3.Connection, change: Change, version: int) -> ChangeResult:
    match change:
        case Put():
            return _put(connection, change, version)
        case Delete():
            return _delete(connection, change, version)
        case PutSpec():
            return _put_spec(connection, change, version)


def _put(connection: sqlite3.Connection, change: Put, version: int) -> ChangeResult:
    instance = change.instance
    found = connection.execute("SELECT version FROM instance WHERE id = ?", (instance.id,))
    if change.expected != _version(found):
        return CONFLICT
    if _is_taken(connection, instance):
        return PORT_TAKEN
    connection.execute(
        "INSERT INTO instance (id, version, node, port, body) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET version = excluded.version, node = excluded.node,"
        " port = excluded.port, body = excluded.body",
        (instance.id, version, *place_of(instance), encode(instance)),
    )
    connection.execute("DELETE FROM deletion WHERE id = ?", (instance.id,))
    return ChangeResult(version)


def _is_taken(connection: sqlite3.Connection, instance: Instance) -> bool:
    found = connection.execute(
        "SELECT id FROM instance WHERE node = ? AND port = ?", place_of(instance)
    ).fetchone()
    return found is not None and found != (instance.id,)


def _delete(connection: sqlite3.Connection, change: Delete, version: int) -> ChangeResult:
    deleted = connection.execute(
        "DELETE FROM instance WHERE id = ? AND version = ?", (change.id, change.expected)
    )
    if not deleted.rowcount:
        return CONFLICT
    connection.execute("INSERT INTO deletion (id, version) VALUES (?, ?)", (change.id, version))
    return ChangeResult()


def _put_spec(connection: sqlite3.Connection, change: PutSpec, version: int) -> ChangeResult:
    if change.expected != _version(connection.execute("SELECT version FROM spec")):
        return CONFLICT
    connection.execute("DELETE FROM spec")
    connection.execute("INSERT INTO spec (version, text) VALUES (?, ?)", (version, change.text))
    return ChangeResult(version)


def _version(found: sqlite3.Cursor) -> int:
    row = found.fetchone()
    return int(row[0]) if row else NEW


def _forget(connection: sqlite3.Connection, kept_deletions: int) -> None:
    """Forget the oldest deletions, and remember up to which revision they are forgotten."""
    row = connection.execute(
        "SELECT version FROM deletion ORDER BY version DESC LIMIT 1 OFFSET ?", (kept_deletions,)
    ).fetchone()
    if row is not None:
        connection.execute("DELETE FROM deletion WHERE version <= ?", row)
        connection.execute("UPDATE fleet SET forgotten = ?", row)


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
        self.writer = Database(path, fleet)
        # A second connection, so that a large commit does not hold up the watches.
        self._reader = Database(path, fleet, beside=self.writer)
        self._clock = clock
        self._look_every_s = look_every_s
        self._kept_deletions = kept_deletions

    async def load(self) -> View:
        """Return everything, as of one revision."""
        return await self._reader.run(view, doing="read")

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[ChangeResult, ...]:
        """Make each change that can be made, all in one transaction.

        Raises:
            FencedError: The term is over; nothing was written.
        """
        work = partial(commit, changes=changes, term=term, kept_deletions=self._kept_deletions)
        return await self.writer.run(work, doing="write")

    async def watch(self, after: int) -> AsyncIterator[Update]:
        """Yield what was written, by whichever process; each update reaches to the present.

        Writes that follow one another closely come as one update.

        Raises:
            CompactedError: Too much was deleted since.
        """
        while True:
            work = partial(changes, after=after)
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
