"""A file of the fleet's, and whether it still is where it was opened.

In:   a path.
Out:  nothing, as long as the path leads to the file that was opened by it.
Fails with StoreError once it does not, and with OSError where the path cannot be looked at.

Whoever has a file open goes on with it when somebody removes it, or puts another in its place: the
system says nothing, and what is written then is lost.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provisioning.errors import StoreError

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
