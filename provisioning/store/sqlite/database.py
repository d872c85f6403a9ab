"""The SQLite file: where it is, its schema, and transactions on it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from provisioning.errors import StoreError, StoreUnavailableError

MODE = 0o600
"""The specification may hold secrets in the instances' environment."""

HOLD = os.O_PATH | os.O_CLOEXEC
"""To close a descriptor that can read would take from SQLite the locks that it has on the file."""

Identity = tuple[int, int]
"""Device and inode: no two files have them while one of the two is open."""


def restoring(path: Path) -> str:
    """Return how a backup comes into force: what an earlier file left in its WAL overrules it."""
    return f"remove {path}-wal and {path}-shm, put a backup in its place"


class Place:
    """The path of a database, which any number of connections of this process share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: Identity | None = None
        """Of the file that was opened first; None: none was yet."""
        self._hold: int | None = None
        """Keeps the identity from passing to another file while nobody has this one open."""
        self._one_opens = threading.Lock()

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Make the file if none was opened yet; where the block goes well, it is the one for good.

        Raises:
            StoreError: Another one was opened before.
            OSError: It cannot be made.
        """
        with self._one_opens:
            if self._identity is not None:
                self.check()
                yield
                return
            # SQLite would make it readable for all that the umask lets; its side files follow it.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE))
            hold = os.open(self.path, HOLD)
            try:
                yield
            except BaseException:
                os.close(hold)
                raise
            self._hold, self._identity = hold, identity_of(hold)

    def check(self) -> None:
        """Refuse to go on without the file.

        Raises:
            StoreError: It was removed, or another one is in its place.
        """
        found = identity_at(self.path)
        if found == self._identity:
            return
        seen = "another file is in its place" if found else "it was removed"
        raise StoreError(
            f"cannot use {self.path}: {seen} since this provisioner opened it, and what is written "
            f"now would be lost; stop the provisioner, move the file back or "
            f"{restoring(self.path)}, start it"
        )

    def close(self) -> None:
        """Let go of the file, once no connection will use it any more."""
        if self._hold is not None:
            os.close(self._hold)
            self._hold = None


def identity_of(descriptor: int) -> Identity:
    """Return which file is open."""
    seen = os.fstat(descriptor)
    return seen.st_dev, seen.st_ino


def identity_at(path: Path) -> Identity | None:
    """Return which file a path leads to; None: to none."""
    try:
        seen = path.stat()
    except FileNotFoundError:
        return None
    return seen.st_dev, seen.st_ino


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

    def __init__(self, place: Place, fleet: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        """Share the place with all other connections of this process to the file."""
        self._place = place
        self._fleet = fleet
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False
        self._thread = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix=f"sqlite {place.path.name}"
        )

    @property
    def path(self) -> Path:
        """Return where the file is."""
        return self._place.path

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
            if self._connection is None:
                with self._place.opening():
                    self._connection = self._connect()
            self._place.check()
            result = work(self._connection)
            # Nothing is acknowledged that went into a file which nobody will find.
            self._place.check()
            return result
        except (sqlite3.Error, OSError) as error:
            # Whatever state the connection is in now, a new one is in none.
            self._disconnect()
            raise self._translated(error, doing) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> sqlite3.Connection:
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
