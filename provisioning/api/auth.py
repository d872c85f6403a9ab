"""Whose token a request carries, and the audit log of who changed what."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import msgspec
from aiohttp import web

from ollama_fleet.clock import Clock
from ollama_fleet.tokens import Tokens
from provisioning.api.routes import Operation
from provisioning.errors import AuditFileError, DeniedError
from provisioning.eventlog import EventLog
from provisioning.model import Fleet

log = logging.getLogger("provisioning.api.auth")

SERVER_OPTION = "--web.token-file"


def required_holder(tokens: Tokens, headers: Mapping[str, str]) -> str:
    """Return whose token a request carries.

    Raises:
        DeniedError: Nobody's.
        TokenFileError: The file has changed and cannot be read.
    """
    given = headers.get("Authorization", "")
    who = tokens.holder(given)
    if who is None:
        raise DeniedError(
            "this needs 'Authorization: Bearer TOKEN', got "
            f"{'another token' if given else 'none'}; tokens are in the file that the "
            f"provisioner's {SERVER_OPTION} names; if several provisioners stand in for each "
            "other, they need the same file"
        )
    return who


class AuditRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One write, or one request that was denied."""

    at: str
    who: str
    """The name beside the token; empty: there was no token."""
    address: str
    operation: str
    target: str
    """Id of the instance, name of the pool; empty for the specification."""
    body: msgspec.Raw
    """The request's body as it came; of a specification its digest."""
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
        self._denied = EventLog(log, clock)
        self._one_at_a_time = asyncio.Lock()
        if path is not None:
            _check(path)

    async def note_denied(self, operation: Operation, request: web.Request, fault: str) -> None:
        """Record a request without a token: of each address one a window, with what came since."""
        n_held = self._denied.admit(request.remote)
        if n_held is not None:
            held = f"; held_back={n_held}" if n_held else ""
            await self.note(operation, request, HTTPStatus.UNAUTHORIZED, fault=f"{fault}{held}")

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
        """Record what was asked, and what became of it."""
        record = AuditRecord(
            at=datetime.fromtimestamp(self._clock.unix_s(), UTC).isoformat(timespec="milliseconds"),
            who=who,
            address=request.remote or "",
            operation=operation.name,
            target=next(iter(request.match_info.values()), ""),
            body=_body_shown(operation, body),
            status=status.value,
            fault=fault,
        )
        log.log(
            logging.WARNING if status is HTTPStatus.UNAUTHORIZED else logging.INFO,
            "audit operation=%s target=%s who=%s address=%s status=%d: %s",
            record.operation,
            record.target,
            record.who,
            record.address,
            record.status,
            record.fault or "done",
        )
        if self._path is not None:
            await self._write(self._path, msgspec.json.encode(record) + b"\n")

    async def _write(self, path: Path, line: bytes) -> None:
        async with self._one_at_a_time:
            try:
                await asyncio.to_thread(_append, path, line)
            except OSError as error:
                log.error("cannot write to the audit log file=%s: %s", path, error.strerror)


def _body_shown(operation: Operation, body: bytes) -> msgspec.Raw:
    """Return a body as the audit log has it: what may hold secrets as a digest."""
    if operation.body is Fleet and body:
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
