"""Where instances write their output, and how logs on this machine stay within bounds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

MAX_BYTES = 16 * 2**20
CONTAINERS_DIR = "/var/log/ollama-fleet"
"""Of the logs of containers, on their node."""


def of_process(folder: Path, instance_id: str) -> Path:
    """Return where an instance's processes write, in the folder of `process.folder_of`."""
    return folder / "logs" / f"{instance_id}.log"


def of_container(fleet: str, instance_id: str, *, folder: str = CONTAINERS_DIR) -> Path:
    """Return where an instance's containers write, on their node."""
    return Path(folder, fleet, f"{instance_id}.log")


def predecessor(log: Path) -> Path:
    """Return where the older part of a log is; it need not exist."""
    return log.with_name(f"{log.name}.1")


def forget(log: Path) -> None:
    """Delete a log and its predecessor."""
    log.unlink(missing_ok=True)
    predecessor(log).unlink(missing_ok=True)


def rotate(logs: Iterable[Path], max_bytes: int) -> None:
    """Move the newest `max_bytes` of each larger log to its predecessor; leave what cannot be."""
    for log in logs:
        with contextlib.suppress(OSError):
            if log.stat().st_size > max_bytes:
                _copy_and_truncate(log, max_bytes)


def _copy_and_truncate(log: Path, max_bytes: int) -> None:
    # The writer has the file open and goes on at its new end.
    with log.open("rb") as source:
        source.seek(-max_bytes, os.SEEK_END)
        newest = source.read(max_bytes)
    os.truncate(log, 0)  # first: on a full disk it makes the room
    with open(predecessor(log), "wb", opener=private) as file:
        file.write(newest)


def private(path: str, flags: int) -> int:
    """Open a file, made for its owner alone; an `opener` of `open`."""
    return os.open(path, flags, 0o600)
