"""Leadership among the processes of one machine, by a lock on a file beside the database."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

from ollama_fleet.clock import Clock
from provisioning.errors import StoreError, StoreUnavailableError
from provisioning.store.base import LeaderSession, Term
from provisioning.store.sqlite import store
from provisioning.store.sqlite.database import MODE, Database

log = logging.getLogger("provisioning.store.sqlite.leadership")

TRY_EVERY_S = 0.2
LOOK_EVERY_S = 1.0


class SqliteLeadership:
    """See `base.Leadership`."""

    def __init__(self, database: Database, *, holder: str, clock: Clock) -> None:
        self._database = database
        self._holder = holder
        self._clock = clock
        # Beside the file itself: who comes by a link must find the same lock.
        file = Path(os.path.realpath(database.path))
        self._lock_path = file.with_name(f"{file.name}.lock")

    @property
    def holder(self) -> str:
        """Return who we are: the holder of the terms that begin here."""
        return self._holder

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[LeaderSession]:
        """Wait until no other process leads, then lead.

        Raises:
            StoreUnavailableError: The file cannot be written now.
            StoreError: It never can.
        """
        async with self._held_lock():
            begin = partial(store.begin_term, holder=self._holder)
            epoch = await self._database.run(begin, doing="write")
            async with self._going_on(LeaderSession(Term(epoch, self._holder))) as session:
                yield session

    async def leader(self) -> str | None:
        """Return who leads now; None: nobody, or it cannot be said."""
        with suppress(StoreError), _opened(self._lock_path) as lock:
            if not self._locked(lock, fcntl.LOCK_SH):
                _, holder = await self._database.run(store.current_term, doing="read")
                return holder
        return None

    @asynccontextmanager
    async def _held_lock(self) -> AsyncIterator[None]:
        """Wait until we have the lock; the kernel releases it when this process ends."""
        while True:
            with _opened(self._lock_path) as lock:
                if self._locked(lock, fcntl.LOCK_EX):
                    yield
                    return
            await self._clock.sleep(TRY_EVERY_S)

    def _locked(self, lock: int, kind: int) -> bool:
        """Take the lock if it is free now, and say whether that went well; never waits."""
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StoreError(
                f"cannot take the lock {self._lock_path}: {error.strerror or error}; see that its "
                f"file system can lock files, or keep the database on another one"
            ) from error
        return True

    @asynccontextmanager
    async def _going_on(self, session: LeaderSession) -> AsyncIterator[LeaderSession]:
        following = asyncio.create_task(self._follow(session))
        try:
            yield session
        finally:
            following.cancel()
            await asyncio.wait({following})
            # Where this fails, the next one's term ends this one all the same.
            with suppress(StoreError):
                end = partial(store.end_term, epoch=session.term.epoch)
                await self._database.run(end, doing="write")

    async def _follow(self, session: LeaderSession) -> None:
        """End the session when another term has begun, or the database is lost."""
        epoch = session.term.epoch
        try:
            while epoch == session.term.epoch:
                await self._clock.sleep(LOOK_EVERY_S)
                with suppress(StoreUnavailableError):
                    epoch, _ = await self._database.run(store.current_term, doing="read")
        except StoreError as error:
            log.error("lease lost: %s", error)
        finally:
            session.end()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open the lock file, which is never removed; closing it gives the lock back."""
    try:
        # Programs that are started meanwhile, such as instances, must not inherit the lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    except OSError as error:
        raise StoreError(
            f"cannot open the lock {path}: {error.strerror or error}; see that its folder exists "
            f"and may be written by this user"
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
