"""Keep a unit's log within bounds while the unit goes on writing to it.

In:   a file that its writer opened for appending, and a bound in bytes.
Out:  the file, at most so large when looked at, and its predecessor beside it as `NAME.1`.
A writer keeps its file whatever the file is called, so what is there is copied and then cut off;
lines written between the two are lost. Fails with OSError.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MAX_BYTES = 16 * 2**20


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
    draft = log.with_name(f"{log.name}.draft")
    with log.open("rb") as source, open(draft, "wb", opener=_private) as target:
        source.seek(-max_bytes, os.SEEK_END)
        target.write(source.read(max_bytes))
    draft.rename(predecessor(log))
    os.truncate(log, 0)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
