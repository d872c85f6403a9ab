"""Read inventory files, only when they have changed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import SourceError
from exporter.inventory.formats import Format
from exporter.inventory.source import SourceSettings, digest
from ollama_fleet.clock import Clock
from ollama_fleet.files import TooLargeError, UnreadableFileError, read_regular

SETTLED_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What the file system says about a file; an equal stamp means that nobody wrote to it."""

    mtime_ns: int
    size_bytes: int
    inode: int


@dataclass(frozen=True, slots=True)
class _Version:
    """A file's content as it was last read."""

    stamp: _Stamp | None
    """None while the file is so fresh that a second write could leave the same stamp."""
    digest: bytes


class FileSource:
    """A file on disk. It may be rewritten, or better replaced by renaming another over it."""

    may_be_absent = False

    def __init__(self, path: Path, settings: SourceSettings, clock: Clock) -> None:
        self.name = str(path)
        self.form = Format.JSON if path.suffix.lower() == ".json" else Format.YAML
        self._path = path
        self._max_bytes = settings.max_body_bytes
        self._clock = clock
        self._known: _Version | None = None

    async def read(self) -> bytes | None:
        """Return the file's bytes, or None when they have not changed since the last time.

        Raises:
            SourceError: The file is missing, unreadable, no regular file or too large.
        """
        known = self._known
        found = await asyncio.to_thread(self._read_if_changed, known)
        if found is None:
            return None
        body, self._known = found
        return None if known and known.digest == self._known.digest else body

    async def close(self) -> None:
        """Do nothing: no file stays open between two reads."""

    def _read_if_changed(self, known: _Version | None) -> tuple[bytes, _Version] | None:
        try:
            status = os.stat(self._path)
            if known and known.stamp == _stamp(status):
                return None
            return self._read_all()
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror or error}") from error

    def _read_all(self) -> tuple[bytes, _Version]:
        try:
            body, status = read_regular(self._path, self._max_bytes)
        except TooLargeError as error:
            helps = "split it, and give each part as an --inventory of its own"
            raise SourceError(f"{error} (the limit for an inventory); {helps}") from error
        except UnreadableFileError as error:
            raise SourceError(str(error)) from error
        return body, _Version(self._settled_stamp(status), digest(body))

    def _settled_stamp(self, status: os.stat_result) -> _Stamp | None:
        """Return the stamp once it can be trusted: file systems' clocks tick in milliseconds."""
        age_s = self._clock.unix_s() - status.st_mtime
        return _stamp(status) if age_s > SETTLED_AFTER_S else None


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(status.st_mtime_ns, status.st_size, status.st_ino)
