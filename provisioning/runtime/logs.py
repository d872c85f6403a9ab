"""Where processes write their output, and how it stays within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from ollama_fleet.clock import Clock

MAX_BYTES = 16 * 2**20
CONTAINERS_DIR = "/var/log/ollama-fleet"
"""Of the logs of containers, on their node."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = logging.getLogger(__name__)


class LogBound:
    """A bound for all logs of a node; what cannot be kept within it hides no container."""

    def __init__(self, max_bytes: int) -> None:
        """Let no log be larger."""
        self._max_bytes = max_bytes
        self._is_failing = False
        self._one_keeps = threading.Lock()

    def keep(self, logs: Iterable[Path]) -> bool:
        """Bound each log that can be; warn of the others once, until all can be again.

        Returns whether one was too large, and is not any more. Several threads may call it.
        """
        with self._one_keeps:
            return self._keep(logs)

    def _keep(self, logs: Iterable[Path]) -> bool:
        faults, n_cut = [], 0
        for log in logs:
            try:
                n_cut += bound(log, self._max_bytes)
            except OSError as error:
                faults.append(error)
        if faults and not self._is_failing:
            _log.warning(
                "cannot keep %d logs within %d bytes, as %s; see that their folder can be written "
                "and has room, or let logrotate do it",
                *(len(faults), self._max_bytes, faults[0]),
            )
        self._is_failing = bool(faults)
        return n_cut > 0


def of_process(folder: Path, instance_id: str) -> Path:
    """Return where an instance's processes write, in the folder of `records.folder_of`."""
    return folder / "logs" / f"{instance_id}.log"


def of_container(fleet: str, instance_id: str, *, folder: str = CONTAINERS_DIR) -> Path:
    """Return where an instance's containers write, on their node."""
    return Path(folder, fleet, f"{instance_id}.log")


def predecessor(log: Path) -> Path:
    """Return where the older part of a log is; it need not exist."""
    return log.with_name(f"{log.name}.1")


def bound(log: Path, max_bytes: int) -> bool:
    """Move the newest `max_bytes` to the predecessor where the log holds more; say whether."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > max_bytes:
            _copy_and_cut(log, max_bytes)
            return True
    return False


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
        # It may have become shorter meanwhile: others cut logs off too.
        source.seek(max(0, source.seek(0, os.SEEK_END) - max_bytes))
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


LOOK_EVERY_S = 0.5
FLOODED_LOOK_EVERY_S = 0.1
"""Each look may copy as much as the bound."""
N_FLOODED_LOOKS = 50
"""So many are quick after a log was too large: one that floods is not so at every look."""


class LogKeeper:
    """Keeps the logs of one node, until it is closed."""

    def __init__(self, max_bytes: int, clock: Clock) -> None:
        """Let no log be larger, when looked at."""
        self._bound = LogBound(max_bytes)
        self._clock = clock
        self._logs: tuple[Path, ...] = ()
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    async def keep(self, logs: Iterable[Path]) -> None:
        """Bound these logs now, and from now on, in place of those before."""
        self._logs = tuple(logs)
        await asyncio.to_thread(self._bound.keep, self._logs)
        if self._looking is None and not self._is_closed:
            self._looking = asyncio.create_task(self._look_again_and_again())

    async def close(self) -> None:
        """Look at none any more by itself."""
        self._is_closed = True
        if self._looking is not None:
            looking, self._looking = self._looking, None
            looking.cancel()
            await asyncio.wait({looking})

    async def _look_again_and_again(self) -> None:
        n_quick = 0
        while True:
            await self._clock.sleep(FLOODED_LOOK_EVERY_S if n_quick else LOOK_EVERY_S)
            n_quick = max(0, n_quick - 1)
            if await asyncio.to_thread(self._bound.keep, self._logs):
                n_quick = N_FLOODED_LOOKS
