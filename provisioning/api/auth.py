"""Whose token a request carries, and the audit log of who changed what."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import msgspec
from aiohttp import web

from ollama_fleet.clock import Clock
from provisioning.api.errors import AuditFileError, DeniedError, TokenFileError
from provisioning.api.routes import Operation
from provisioning.model import Fleet

log = logging.getLogger("provisioning.api.auth")

TOKEN_BYTES = 32
MAX_FILE_BYTES = 100_000
LINE = re.compile(r"(?:(?P<name>\S+)\s+)?(?P<token>[!-~]{16,512})", re.ASCII)
NAMELESS = "token"
NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""What file systems without hard links say, as vfat and some network shares."""
SERVER_OPTION = "--web.token-file"


def first_token(path: Path, *, option: str) -> str:
    """Return the first token of a file; messages name the option that chose the file.

    Raises:
        TokenFileError: It cannot be read, or holds none.
    """
    return next(iter(_read(path, option)))


class Tokens:
    """Who may write."""

    def __init__(self, path: Path) -> None:
        """Read the file, or make it.

        Raises:
            TokenFileError: It can be neither read nor made, or holds no token.
        """
        self.path = path
        self.is_new = not path.exists()
        if self.is_new:
            _make(path)
        if path.stat().st_mode & stat.S_IROTH:
            log.warning("everybody here can read the tokens in %s: chmod o= %s", path, path)
        self._stamp = _stamp(path)
        self._name_by_token = _read(path)

    def __repr__(self) -> str:
        return f"<Tokens of {self.path}>"

    def required_holder(self, headers: Mapping[str, str]) -> str:
        """Return whose token a request carries.

        Raises:
            DeniedError: Nobody's.
            TokenFileError: The file has changed and cannot be read.
        """
        given = headers.get("Authorization", "")
        who = self.holder(given)
        if who is None:
            raise DeniedError(
                "this needs 'Authorization: Bearer TOKEN', got "
                f"{'another token' if given else 'none'}; tokens are in the file that the "
                f"provisioner's {SERVER_OPTION} names; if several provisioners stand in for each "
                "other, they need the same file"
            )
        return who

    def holder(self, authorization: str) -> str | None:
        """Return whose token an Authorization header carries; None: nobody's.

        Raises:
            TokenFileError: The file has changed and cannot be read.
        """
        self._refresh()
        scheme, _, credentials = authorization.partition(" ")
        # Bytes that are no UTF-8 come as lone surrogates.
        given = credentials.strip().encode(errors="surrogatepass")
        found = None
        # Every token is compared, each in constant time: how long it takes tells nothing.
        for token, name in self._name_by_token.items():
            if secrets.compare_digest(given, token.encode()):
                found = name
        return found if scheme.lower() == "bearer" else None

    def _refresh(self) -> None:
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            self._name_by_token = _read(self.path)
            self._stamp = stamp


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return what changes with the file."""
    try:
        state = path.stat()
    except OSError as error:
        raise _error(path, error.strerror) from error
    return state.st_mtime_ns, state.st_size, state.st_ino


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, draft = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{secrets.token_urlsafe(TOKEN_BYTES)}\n")
            # A standby that begins at the same moment makes one as well: the first one counts.
            with contextlib.suppress(FileExistsError):
                _put(draft, path)
        finally:
            os.unlink(draft)
    except OSError as error:
        raise _error(path, error.strerror) from error


def _put(draft: str, path: Path) -> None:
    """Have the draft's content at the path, unless something is there: at once where that goes."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        content = Path(draft).read_bytes()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def _read(path: Path, option: str = SERVER_OPTION) -> Mapping[str, str]:
    """Return the name behind each token."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _error(path, f"it is larger than {MAX_FILE_BYTES:,} bytes", option)
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise _error(path, error.strerror, option) from error
    name_by_token: dict[str, str] = {}
    for number, line in enumerate(map(bytes.strip, lines), 1):
        if line and not line.startswith(b"#"):  # which may be in any encoding
            if not line.isascii():
                raise _error(path, f"line {number} holds something other than ASCII", option)
            found = LINE.fullmatch(line.decode())
            if found is None:
                raise _error(path, f"line {number} is no token of 16 characters or more", option)
            name_by_token[found["token"]] = found["name"] or NAMELESS
    if not name_by_token:
        raise _error(path, "it holds no token", option)
    return name_by_token


def _error(path: Path, seen: str | None, option: str = SERVER_OPTION) -> TokenFileError:
    return TokenFileError(
        f"cannot use the token file {path}: {seen}; mend it, or choose another with {option}"
    )


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


PERIOD_S = 60.0
MAX_ADDRESSES = 1000
OTHERS = "other addresses"


class LeftOut(msgspec.Struct, frozen=True):
    """Refusals that were not told one by one."""

    address: str
    operation: str
    """What the latest of them asked for."""
    count: int


class Refusals:
    """Of each address, what came since the minute began."""

    def __init__(self) -> None:
        self._left_out_by_address: dict[str, LeftOut] = {}

    def take(self, address: str, operation: str) -> bool:
        """Take note of a refusal; say whether it may be told, as the first of its address."""
        known = self._left_out_by_address
        key = address if address in known or len(known) < MAX_ADDRESSES else OTHERS
        count = known[key].count + 1 if key in known else 0
        known[key] = LeftOut(key, operation, count)
        return count == 0

    def end_minute(self) -> Sequence[LeftOut]:
        """Return what was left out in it; of whom it tells, nothing more is told in the next."""
        left_out = tuple(one for one in self._left_out_by_address.values() if one.count)
        self._left_out_by_address = {
            one.address: LeftOut(one.address, one.operation, 0) for one in left_out
        }
        return left_out


class Admission:
    """One object per API."""

    def __init__(self, tokens: Tokens, audit: Audit, clock: Clock) -> None:
        self._tokens = tokens
        self._audit = audit
        self._clock = clock
        self._refusals = Refusals()

    async def holder(self, operation: Operation, request: web.Request) -> str:
        """Return whose token a request carries; of one without, nothing is read.

        Raises:
            DeniedError: It carries nobody's.
            TokenFileError: The file has changed and cannot be read.
        """
        try:
            return self._tokens.required_holder(request.headers)
        except DeniedError as error:
            if self._refusals.take(request.remote or "", operation.name):
                fault = str(error)
                await self._audit.note(operation, request, HTTPStatus.UNAUTHORIZED, fault=fault)
            raise

    async def run(self) -> None:
        """Tell once a minute, and when cancelled, how many were turned away without a line."""
        try:
            while True:
                await self._clock.sleep(PERIOD_S)
                await self._tell_left_out()
        finally:
            await self._tell_left_out()

    async def _tell_left_out(self) -> None:
        for left_out in self._refusals.end_minute():
            await self._audit.note_left_out(left_out)
