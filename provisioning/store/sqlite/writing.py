"""Write a fleet's SQLite file, each time in one transaction.

In:   a connection, changes and the term that they are made in, or who begins a term.
Out:  what became of each change; the new term's epoch.
Fails with FencedError, sqlite3.Error; then nothing was written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from provisioning.errors import FencedError
from provisioning.model import Instance
from provisioning.store.base import (
    NEW,
    Change,
    Delete,
    Done,
    Put,
    PutSpec,
    Refusal,
    Term,
)
from provisioning.store.records import encode, place_of
from provisioning.store.sqlite.schema import transaction

CONFLICT = Done(refusal=Refusal.CONFLICT)
PORT_TAKEN = Done(refusal=Refusal.PORT_TAKEN)


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
) -> tuple[Done, ...]:
    """Make each change that can be made, all in one revision.

    Raises:
        FencedError: The term is over; nothing was written.
    """
    with transaction(connection):
        _refuse_another(connection, term)
        (revision,) = connection.execute("SELECT revision FROM fleet").fetchone()
        done = tuple(_make(connection, change, revision + 1) for change in changes)
        if not all(one.refusal for one in done):
            connection.execute("UPDATE fleet SET revision = revision + 1")
            _forget(connection, kept_deletions)
        return done


def _refuse_another(connection: sqlite3.Connection, term: Term) -> None:
    epoch, _ = current_term(connection)
    if epoch != term.epoch:
        raise FencedError(
            f"cannot write for {term.holder}: its term {term.epoch} is over; "
            f"stop changing things and lead again"
        )


def _make(connection: sqlite3.Connection, change: Change, version: int) -> Done:
    match change:
        case Put():
            return _put(connection, change, version)
        case Delete():
            return _delete(connection, change, version)
        case PutSpec():
            return _put_spec(connection, change, version)


def _put(connection: sqlite3.Connection, change: Put, version: int) -> Done:
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
    return Done(version)


def _is_taken(connection: sqlite3.Connection, instance: Instance) -> bool:
    found = connection.execute(
        "SELECT id FROM instance WHERE node = ? AND port = ?", place_of(instance)
    ).fetchone()
    return found is not None and found != (instance.id,)


def _delete(connection: sqlite3.Connection, change: Delete, version: int) -> Done:
    deleted = connection.execute(
        "DELETE FROM instance WHERE id = ? AND version = ?", (change.id, change.expected)
    )
    if not deleted.rowcount:
        return CONFLICT
    connection.execute("INSERT INTO deletion (id, version) VALUES (?, ?)", (change.id, version))
    return Done()


def _put_spec(connection: sqlite3.Connection, change: PutSpec, version: int) -> Done:
    if change.expected != _version(connection.execute("SELECT version FROM spec")):
        return CONFLICT
    connection.execute("DELETE FROM spec")
    connection.execute("INSERT INTO spec (version, text) VALUES (?, ?)", (version, change.text))
    return Done(version)


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
