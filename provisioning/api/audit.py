"""Who changed what: a line of JSON for every write that was asked for, and who was turned away.

In:   requests, by whom they are, and how they ended.
Out:  lines in the log, and at the end of a file where there is one. Never a token, never a whole
      specification. Reads leave a line where they are refused for want of a token.
A line that cannot be written is logged: what it tells of is done already. A file that cannot be
written when we begin is an AuditFileError.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import msgspec
from aiohttp import web

from provisioning.api.errors import AuditFileError
from provisioning.api.operations import Operation
from provisioning.api.refusals import LeftOut
from provisioning.clock import Clock
from provisioning.model import Fleet

log = logging.getLogger("provisioning.audit")


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One write, or one request that was turned away."""

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

    async def note(
        self,
        operation: Operation,
        request: web.Request,
        status: HTTPStatus,
        *,
        body: bytes = b"",
        who: str = "",
        fault: str = "",
    ) -> None:
        """Write down what was asked, and what became of it."""
        record = Record(
            at=self._now(),
            who=who,
            address=request.remote or "",
            operation=operation.name,
            target=next(iter(request.match_info.values()), ""),
            order=_order_shown(operation, body),
            status=status.value,
            fault=fault,
        )
        await self._write(record)

    async def note_left_out(self, left_out: LeftOut) -> None:
        """Write down how many more were turned away than have lines of their own."""
        record = Record(
            at=self._now(),
            who="",
            address=left_out.address,
            operation=left_out.operation,
            target="",
            order=msgspec.Raw(b"null"),
            status=HTTPStatus.UNAUTHORIZED.value,
            fault=f"and {left_out.count:,} more in the last minute",
        )
        await self._write(record)

    def _now(self) -> str:
        at = datetime.fromtimestamp(self._clock.unix_s(), UTC)
        return at.isoformat(timespec="milliseconds")

    async def _write(self, record: Record) -> None:
        log.log(
            logging.WARNING if record.status == HTTPStatus.UNAUTHORIZED else logging.INFO,
            "%s by %s from %s: status %d %s",
            f"{record.operation} {_on_one_line(record.target)}".rstrip(),
            _on_one_line(record.who) or "nobody known",
            record.address,
            record.status,
            _on_one_line(record.fault),
        )
        if self._path is None:
            return
        async with self._one_at_a_time:
            try:
                await asyncio.to_thread(_append, self._path, msgspec.json.encode(record) + b"\n")
            except OSError as error:
                log.error("cannot write to the audit log %s: %s", self._path, error.strerror)


def _on_one_line(text: str) -> str:
    """Return a text as a log may have it: a stranger's words make no lines or colours there."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _order_shown(operation: Operation, body: bytes) -> msgspec.Raw:
    """Return an order as the audit log has it: what may hold secrets as a digest."""
    if operation.order is Fleet and body:
        return msgspec.Raw(msgspec.json.encode({"sha256": hashlib.sha256(body).hexdigest()}))
    try:
        shown = msgspec.json.decode(body) if body else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        shown = {"bytes": len(body)}
    return msgspec.Raw(msgspec.json.encode(shown))


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
