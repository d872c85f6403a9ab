"""The SQLite file: where it is, its schema, and transactions on it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from provisioning.errors import StoreError, StoreUnavailableError

MODE = 0o600
"""The specification may hold secrets in the instances' environment."""


def restoring(path: Path) -> str:
    """Return how to restore a backup: what an earlier file left in its WAL would overrule it."""
    return f"remove {path}-wal and {path}-shm, put a backup in its place"


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


T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

BUSY_TIMEOUT_S = 5.0

PASSING = {
    sqlite3.SQLITE_FULL: "free some space",
    sqlite3.SQLITE_BUSY: "see which program keeps the file locked",
    sqlite3.SQLITE_IOERR: "see the disk's health and its free space",
    sqlite3.SQLITE_NOMEM: "free some memory",
}
"""By SQLite's primary error code, what helps where trying again later may do."""
LASTING = {
    sqlite3.SQLITE_CANTOPEN: "see that its folder exists and may be written by this user",
    sqlite3.SQLITE_PERM: "let this user write it",
    sqlite3.SQLITE_READONLY: "let this user write it and its folder",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: stop the provisioner, {restoring}, start it",
    sqlite3.SQLITE_NOTADB: "it is no SQLite file: name another one, or {restoring}",
}


class Database:
    """A connection that is opened at its first use, and again after an error."""

    def __init__(
        self,
        path: Path,
        fleet: str,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        beside: Database | None = None,
    ) -> None:
        """`beside` is this process's other connection to the same file, if there is one."""
        self.path = path
        self._fleet = fleet
        self._busy_timeout_s = busy_timeout_s
        self._first = beside or self
        self._inode: int | None = None
        """Of the file that was opened first; None: none was."""
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite {path.name}")

    async def run(self, work: Work[T], *, doing: str) -> T:
        """Do the work in the thread; `doing` stands in the error: "read", "write", ….

        Work that is cancelled here goes on in the thread.

        Raises:
            StoreUnavailableError: It may go well later.
            StoreError: It will not; or the file has gone, and what was written with it.
        """
        if self._is_closed:
            raise StoreUnavailableError(f"cannot {doing} {self.path}: it was closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run, work, doing)

    async def close(self) -> None:
        """Wait for the work that is going on, then close the file for good."""
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def _run(self, work: Work[T], doing: str) -> T:
        try:
            self._check_file()
            if self._connection is None:
                self._connection = self._connect()
                self._first._inode = self.path.stat().st_ino
            return work(self._connection)
        except (sqlite3.Error, OSError) as error:
            # Whatever state the connection is in now, a new one is in none.
            self._disconnect()
            raise self._translated(error, doing) from error

    def _check_file(self) -> None:
        """Refuse to write into a file that nobody will find again."""
        if self._first._inode is None:
            return
        found = self.path.stat().st_ino if self.path.exists() else None
        if found != self._first._inode:
            seen = "another file is in its place" if found else "it was removed"
            raise StoreError(
                f"cannot use {self.path}: {seen} since this provisioner opened it; stop the "
                f"provisioner, move the file back or {restoring(self.path)}, start it"
            )

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> sqlite3.Connection:
        if self._first._inode is None:
            # SQLite would make it readable for all that the umask lets; its side files follow it.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE))
        connection = sqlite3.connect(
            # Where the file has gone since, SQLite must not make another.
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # What was acknowledged outlives a loss of power too, not only the process.
            connection.execute("PRAGMA synchronous = FULL")
            prepare(connection, self.path, self._fleet)
        except BaseException:
            connection.close()
            raise
        return connection

    def _translated(self, error: sqlite3.Error | OSError, doing: str) -> StoreError:
        attempted = f"cannot {doing} {self.path}"
        if isinstance(error, OSError):
            return StoreError(
                f"{attempted}: {error.strerror or error}; {LASTING[sqlite3.SQLITE_CANTOPEN]}"
            )
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in PASSING:
            return StoreUnavailableError(f"{attempted}: {error}; {PASSING[code]}")
        help_text = LASTING.get(code, "see whether another program has changed the file")
        help_text = help_text.format(restoring=restoring(self.path))
        return StoreError(f"{attempted}: {error}; {help_text}")
