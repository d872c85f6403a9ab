"""Keep units' logs within bounds while the units go on writing to them.

In:   files that their writers opened for appending, and a bound in bytes.
Out:  each file, at most so large when looked at, and its predecessor beside it as `NAME.1`.
A writer keeps its file whatever the file is called, so what is there is copied and then cut off;
lines written between the two are lost. On a full disk it is cut off first, which makes the room.
Fails with OSError; LogBound tells of that and does not.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path

MAX_BYTES = 16 * 2**20
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = logging.getLogger(__name__)


class LogBound:
    """A bound for all logs of a node; what cannot be kept within it hides no unit."""

    def __init__(self, max_bytes: int) -> None:
        """Let no log be larger."""
        self._max_bytes = max_bytes
        self._is_failing = False

    def keep(self, logs: Iterable[Path]) -> None:
        """Bound each log that can be; warn of the others once, until all can be again."""
        faults = [fault for log in logs if (fault := self._fault(log))]
        if faults and not self._is_failing:
            _log.warning(
                "cannot keep %d logs within %d bytes, as %s; see that their folder can be written "
                "and has room, or let logrotate do it",
                *(len(faults), self._max_bytes, faults[0]),
            )
        self._is_failing = bool(faults)

    def _fault(self, log: Path) -> OSError | None:
        try:
            bound(log, self._max_bytes)
        except OSError as error:
            return error
        return None


def predecessor(log: Path) -> Path:
    """Return where the older part of a log is; it need not exist."""
    return log.with_name(f"{log.name}.1")


def bound(log: Path, max_bytes: int) -> None:
    """Move the newest `max_bytes` to the predecessor where the log holds more; else do nothing."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > max_bytes:
            _copy_and_cut(log, max_bytes)


def forget(log: Path) -> None:
    """Delete a log and its predecessor."""
    log.unlink(missing_ok=True)
    predecessor(log).unlink(missing_ok=True)


def _copy_and_cut(log: Path, max_bytes: int) -> None:
    newest = _newest(log, max_bytes)
    try:
        _write_whole(predecessor(log), newest)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        os.truncate(log, 0)
        _write_whole(predecessor(log), newest)
    else:
        os.truncate(log, 0)


def _newest(log: Path, max_bytes: int) -> bytes:
    with log.open("rb") as source:
        source.seek(-max_bytes, os.SEEK_END)
        return source.read(max_bytes)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file, or leave it as it was; half a draft would take room that nobody has."""
    draft = path.with_name(f"{path.name}.draft")
    try:
        with open(draft, "wb", opener=_private) as file:
            file.write(content)
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
