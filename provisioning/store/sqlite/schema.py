"""The tables of a fleet's SQLite file.

In:   a connection to a file that is new, or was made by us.
Out:  the same, with all tables.
Fails with StoreError where the file is somebody else's, another fleet's or of a later release.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provisioning.errors import StoreError

APPLICATION_ID = 0x6F6C6C66
"""Tells our files from those of other programs: `ollf`."""
VERSION = 1

TABLES = (
    # One row. `forgotten` is the last revision whose deletions are not all known any more.
    """CREATE TABLE fleet (
        name TEXT NOT NULL,
        revision INTEGER NOT NULL DEFAULT 0,
        forgotten INTEGER NOT NULL DEFAULT 0,
        epoch INTEGER NOT NULL DEFAULT 0,
        holder TEXT
    )""",
    """CREATE TABLE instance (
        id TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        node TEXT NOT NULL,
        port INTEGER NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (node, port)
    )""",
    "CREATE INDEX instance_by_version ON instance (version)",
    "CREATE TABLE deletion (id TEXT PRIMARY KEY, version INTEGER NOT NULL)",
    "CREATE INDEX deletion_by_version ON deletion (version)",
    # At most one row.
    "CREATE TABLE spec (version INTEGER NOT NULL, text TEXT NOT NULL)",
)


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Make what happens in the block happen whole, or not at all where it fails."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After a full disk SQLite has rolled back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def prepare(connection: sqlite3.Connection, path: Path, fleet: str) -> None:
    """Make the tables where there are none, and see that they are this fleet's.

    Raises:
        StoreError: They are not, or not ours at all.
        sqlite3.Error: The file cannot be read or written.
    """
    with transaction(connection):
        if _is_empty(connection):
            _create(connection, fleet)
        _check(connection, path, fleet)


def _is_empty(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(found == (0,))


def _create(connection: sqlite3.Connection, fleet: str) -> None:
    for statement in TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO fleet (name) VALUES (?)", (fleet,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _check(connection: sqlite3.Connection, path: Path, fleet: str) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise StoreError(
            f"{path} is a SQLite file of another program; name a file of the fleet's own"
        )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        raise StoreError(
            f"{path} has schema {version}, and this release knows schema {VERSION} only; "
            f"run the release that wrote it, or name another file"
        )
    (name,) = connection.execute("SELECT name FROM fleet").fetchone()
    if name != fleet:
        raise StoreError(
            f"{path} holds the fleet {name!r}, not {fleet!r}; name a file for each fleet"
        )
