"""Read a fleet's SQLite file, as of one moment.

In:   a connection, a revision to start after.
Out:  a View, or an Update from one revision to the present.
Fails with CompactedError, StoreError (a record that cannot be read), sqlite3.Error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from provisioning.errors import CompactedError
from provisioning.store.base import Stored, StoredSpec, Update, View
from provisioning.store.records import decode
from provisioning.store.sqlite.schema import transaction


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


def _stored(connection: sqlite3.Connection, *, after: int) -> Iterator[Stored]:
    rows = connection.execute(
        "SELECT id, version, body FROM instance WHERE version > ? ORDER BY version, id", (after,)
    )
    for instance_id, version, body in rows:
        yield Stored(decode(body, source=f"of instance {instance_id}"), version)


def _spec(connection: sqlite3.Connection, *, after: int) -> StoredSpec | None:
    row = connection.execute(
        "SELECT text, version FROM spec WHERE version > ?", (after,)
    ).fetchone()
    return StoredSpec(*row) if row else None
