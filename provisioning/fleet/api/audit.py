"""Who changed what: a line of JSON for every write that was asked for.

In:   what was asked, by whom, and how it ended.
Out:  lines at the end of a file, or nowhere. Never a token, never a whole specification.
A line that cannot be written is logged: what it tells of is done already. A file that cannot be
written when we begin is an AuditFileError.
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from provisioning.fleet.api.errors import AuditFileError
from provisioning.fleet.clock import Clock

log = logging.getLogger("provisioning.fleet.audit")


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One write."""

    at: str
    who: str
    """The name beside the token; empty: there was no token."""
    address: str
    operation: str
    target: str
    """Id of the instance, name of the pool; empty for the specification."""
    order: msgspec.Raw
    """The body as it came; of a specification its digest."""
    status: int
    fault: str = ""


class Audit:
    """Where the records go; the file is opened for each, so that it may be moved away."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        """Make the file, unless it is there.

        Raises:
            AuditFileError: It cannot be written.
        """
        self._path = path
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        if path is not None:
            _check(path)

    def now(self) -> str:
        """Return the time as the records have it."""
        return datetime.fromtimestamp(self._clock.unix_s(), UTC).isoformat(timespec="milliseconds")

    async def write(self, record: Record) -> None:
        """Write one record."""
        log.info(
            "%s by %s from %s: status %d %s",
            f"{record.operation} {record.target}".rstrip(),
            record.who or "nobody known",
            record.address,
            record.status,
            record.fault,
        )
        if self._path is None:
            return
        async with self._one_at_a_time:
            try:
                await asyncio.to_thread(_append, self._path, msgspec.json.encode(record) + b"\n")
            except OSError as error:
                log.error("cannot write to the audit log %s: %s", self._path, error.strerror)


def _check(path: Path) -> None:
    try:
        _append(path, b"")
    except OSError as error:
        raise AuditFileError(
            f"cannot write to the audit log {path}: {error.strerror}; "
            "choose another with --web.audit-file"
        ) from error


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        file.write(line)
