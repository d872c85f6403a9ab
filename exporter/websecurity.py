"""Protect the web server with TLS, basic authentication and headers from a web configuration.

The file is checked at each request, certificates at each handshake. A bad new version is logged
once and the last good one stays active. Passwords and hashes are never logged.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import secrets
import ssl
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import bcrypt
from aiohttp import web

from exporter.errors import ExporterError, InputError
from exporter.webconfig import parse
from ollama_fleet.files import UnreadableFileError, read_regular
from ollama_fleet.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from aiohttp.typedefs import Handler

    from exporter.webconfig import Tls, WebConfig


log = logging.getLogger("exporter.web")

MAX_FILE_BYTES = 65_536
"""A web configuration has a line for each user; it is read on the event loop."""
MAX_CHECKS = 20
"""Passwords that wait to be checked: about 0.1 s each."""
MAX_CHECKS_OF_ONE = 5
"""Of these from one address, so that guesses from there keep nobody out elsewhere."""
RETRY_AFTER_S = 2
MAX_REMEMBERED = 100
"""Good passwords that are remembered; each user of the file usually has one."""
MAX_PASSWORD_BYTES = 72
"""As much of a password as bcrypt looks at."""
TLS_SECTION = "tls_server_config"

T = TypeVar("T")
_Key = tuple[str, "bytes | None", bytes]
"""User, hash (None for an unknown user) and the digest of what was given as password."""


class LastGood(Generic[T]):
    """What files say: read again once one of them changes, kept where that fails."""

    def __init__(self, what: str, *paths: Path | None, read: Callable[[T | None], T]) -> None:
        self._what = what
        self._paths = [path for path in paths if path is not None]
        self._read = read
        self._stamps = self._look()  # before reading, so that no change falls in between
        self._value = read(None)

    def value(self) -> T:
        """Return the last good value."""
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps
            self._read_again()
        return self._value

    def _read_again(self) -> None:
        try:
            self._value = self._read(self._value)
        except InputError as error:
            problems = "; ".join(str(problem) for problem in error.problems)
            log.warning(
                "reload failed, the last good version stays active: %s: %s", self._what, problems
            )
        else:
            log.info("reloaded %s", self._what)

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what differs once somebody has written or replaced a file; None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Guard:
    """Authenticates requests to the web server.

    Raises:
        InputError: The web configuration, or a file that it names, is bad.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._config = LastGood(str(path), path, read=lambda last: _config(path, last))
        self._passwords = _Passwords()
        self._on_busy: Callable[[], object] = bool
        self._tls = tls = self._config.value().tls
        self.context = None if tls is None else _rotating_context(tls)

    @property
    def is_closed(self) -> bool:
        """Return whether another site in a browser lacks the certificate or the password."""
        return self.context is not None or bool(self._config.value().users)

    @property
    def knows_clients(self) -> bool:
        """Return whether every client has shown a password or a certificate."""
        is_verified = self.context is not None and self.context.verify_mode is ssl.CERT_REQUIRED
        return is_verified or bool(self._config.value().users)

    def check(self) -> None:
        """Read the web configuration as it is now.

        Raises:
            InputError: It is bad, or changed where that needs a restart.
        """
        config = _config(self._path, self._config.value())
        if config.tls != self._tls:
            place = f"{self._path}: {TLS_SECTION}"
            raise InputError(str(self._path), [Problem(place, "needs a restart")])
        if config.tls is not None:
            _context(config.tls)

    def protect(self, app: web.Application, *, on_busy: Callable[[], object]) -> None:
        """Let the application answer only whom it may; this goes for every path."""
        self._on_busy = on_busy
        app.middlewares.append(self._authenticate)
        app.on_response_prepare.append(self._add_headers)

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        users = self._config.value().users
        try:
            if not users or await self._is_known(users, request):
                return await handler(request)
        except BusyError:
            self._on_busy()
            words = "Too many passwords are waiting to be checked. Try again later.\n"
            return web.Response(status=503, headers={"Retry-After": str(RETRY_AFTER_S)}, text=words)
        return web.Response(
            status=401, headers={"WWW-Authenticate": "Basic"}, text="401: Unauthorized"
        )

    async def _is_known(self, users: Mapping[str, bytes], request: web.Request) -> bool:
        given = credentials(request.headers.get("Authorization", ""))
        return given is not None and await self._passwords.are_good(
            users,
            *given,
            peer=request.remote or "",
            is_asking=lambda: request.transport is not None,
        )

    async def _add_headers(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._config.value().headers)


def _config(path: Path, last: WebConfig | None) -> WebConfig:
    try:
        config = parse(read_regular(path, MAX_FILE_BYTES)[0], path)
    except UnreadableFileError as error:
        raise InputError(str(path), [Problem(str(path), str(error))]) from error
    if last and last.users and not config.users:
        # A file that is being written begins as an empty one, which would open every path.
        message = "cannot remove all passwords while the exporter runs; restart it"
        raise InputError(str(path), [Problem(f"{path}: basic_auth_users", message)])
    if last and last.tls != config.tls:
        template = "web configuration file=%s: %s changed; restart the exporter to apply it"
        log.warning(template, path, TLS_SECTION)
    for note in config.notes:
        log.info("web configuration file=%s: %s", path, note)
    return config


def _rotating_context(tls: Tls) -> ssl.SSLContext:
    """Return a context whose new connections get the certificates that lie on disk by then."""
    files = (tls.cert_file, tls.key_file, tls.client_ca_file)
    latest = LastGood(f"the certificate {tls.cert_file}", *files, read=lambda _: _context(tls))

    # A bad pair would break the context that it is loaded into, so each pair gets its own.
    def choose(connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        connection.context = latest.value()

    context = latest.value()
    context.sni_callback = choose
    return context


def _unreadable(*paths: Path | None) -> Iterator[Problem]:
    """Yield a problem for each pipe or device: OpenSSL would wait for its end."""
    for path in filter(None, paths):
        if path.exists() and not path.is_file():
            yield Problem(f"{TLS_SECTION}: {path}", "cannot be read: it is not a regular file")


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = tls.min_version, tls.max_version
    context.verify_mode = tls.verify_mode
    files = (tls.cert_file, tls.key_file, tls.client_ca_file)
    problems = list(_unreadable(*files))
    if problems:
        raise InputError("the web configuration", problems)
    try:
        # With a password at hand, OpenSSL does not ask for one on the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except OSError as error:  # ssl.SSLError among them
        where = f"{tls.cert_file} and {tls.key_file}"
        what = f"no PEM certificate with its key, without passphrase, is in {where}"
        problems.append(Problem(f"{TLS_SECTION}.cert_file", f"{what}: {error.strerror}"))
    try:
        if tls.client_ca_file is not None:
            context.load_verify_locations(tls.client_ca_file)
    except OSError as error:
        what = f"no certificates can be read from {tls.client_ca_file}: {error.strerror}"
        problems.append(Problem(f"{TLS_SECTION}.client_ca_file", what))
    if problems:
        raise InputError("the web configuration", problems)
    return context


class BusyError(ExporterError):
    """Too many passwords wait to be checked."""


@dataclass(frozen=True, slots=True)
class _Check:
    """The check of one password, which everybody shares who gives the same."""

    peer: str
    """The address that gave it first, whose place it takes."""
    askers: list[Callable[[], bool]]
    task: asyncio.Task[None]


class _Passwords:
    """Checks passwords, one at a time and beside the event loop, and remembers the good ones."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes()
        self._remembered: dict[_Key, None] = {}
        self._one_at_a_time = asyncio.Lock()
        self._checks: dict[_Key, _Check] = {}
        """Of which one is under way and the others wait."""

    async def are_good(
        self,
        users: Mapping[str, bytes],
        user: str,
        password: bytes,
        *,
        peer: str,
        is_asking: Callable[[], bool],
    ) -> bool:
        """Return whether this is a user's password; for an unknown user after as long a time.

        Who hung up before their turn are not asking any more, and are not checked.

        Raises:
            BusyError: Too many others wait, in all or from the same address.
        """
        known = users.get(user)
        key = (user, known, self._digest(password))
        if key not in self._remembered:
            check = self._checks.get(key)
            if check is None:
                hash_ = known or max(users.values(), key=_cost)
                check = self._begin(key, peer, partial(self._check, key, password, hash_))
            check.askers.append(is_asking)
            await asyncio.shield(check.task)
        return key in self._remembered

    def _begin(self, key: _Key, peer: str, check: Callable[[], Awaitable[None]]) -> _Check:
        n_of_peer = sum(one.peer == peer for one in self._checks.values())
        if len(self._checks) >= MAX_CHECKS or n_of_peer >= MAX_CHECKS_OF_ONE:
            raise BusyError
        askers: list[Callable[[], bool]] = []
        task = asyncio.create_task(self._run(key, askers, check))
        begun = self._checks[key] = _Check(peer, askers, task)
        return begun

    async def _run(
        self,
        key: _Key,
        askers: Sequence[Callable[[], bool]],
        check: Callable[[], Awaitable[None]],
    ) -> None:
        try:
            async with self._one_at_a_time:
                if any(is_asking() for is_asking in askers):
                    await check()
        finally:
            del self._checks[key]

    async def _check(self, key: _Key, password: bytes, hash_: bytes) -> None:
        is_match = await asyncio.to_thread(_matches, password, hash_)
        if is_match and key[1] is not None:
            self._remember(key)

    def _remember(self, key: _Key) -> None:
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[key] = None

    def _digest(self, password: bytes) -> bytes:
        # Keyed, so that neither the memory nor the time of a comparison tells of the password.
        return hashlib.blake2b(password, key=self._secret).digest()


def _matches(password: bytes, hash_: bytes) -> bool:
    return bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], hash_)


def _cost(hash_: bytes) -> bytes:
    return hash_[4:6]  # $2y$10$…


def credentials(authorization: str) -> tuple[str, bytes] | None:
    """Return user and password of an Authorization header; None where it holds none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except ValueError:  # neither base64 nor UTF-8
        return None
