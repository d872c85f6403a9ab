"""One SQLite connection in a thread of its own, so that the event loop never waits for the disk.

In:   the file's path, the fleet's name, and work to do on the connection.
Out:  what the work returns.
Fails with StoreUnavailableError where it may go well later (disk full, file locked), else with
StoreError (no permission, corrupt, not ours, removed meanwhile). No sqlite3 error leaves this
module.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from provisioning.errors import StoreError, StoreUnavailableError
from provisioning.store.sqlite import schema
from provisioning.store.sqlite.place import Place, restoring

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
            schema.prepare(connection, self.path, self._fleet)
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
