"""Serve HTTP on a bounded number of connections, so that clients cannot use up the descriptors."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    import logging
    import ssl
    from collections.abc import Callable, Sequence

    from aiohttp.typedefs import Handler
    from aiohttp.web_protocol import RequestHandler

BACKLOG = 128
ETAG_DIGITS = 32
CLIENT_FAULTS = (web.RequestPayloadError, HttpProcessingError, ConnectionError)
IDLE_S = 75.0
"""An idle connection is closed then; scrapers, and clients that poll, come again sooner."""
ACCEPT_PAUSE_S = 1.0
"""After a connection could not be taken, as without a descriptor to spare."""
LOG_WINDOW_S = 60.0
"""Each kind of event is logged once in it: clients could fill the log."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections may be open, and what is done when there are more."""

    connections: int
    on_closed: Callable[[], object]
    """Called for each connection that is closed to make room for another."""
    spared_s: float = math.inf
    """If none is idle, one whose request has run for longer than this is closed."""


@dataclass(slots=True, eq=False)
class _Connection:
    client: socket.socket
    since_s: float
    """When it became idle, or its request began; a TLS handshake counts as idle."""
    is_answered: bool = False
    opening: asyncio.Task[Any] | None = None
    """Until the TLS handshake is over."""


def etag_of(body: bytes) -> str:
    """Return a tag that tells a body from others."""
    return hashlib.sha256(body).hexdigest()[:ETAG_DIGITS]


class HttpServer:
    """Serves an application on sockets; one connection too many closes the longest idle one."""

    def __init__(
        self,
        application: web.Application,
        limits: Limits,
        *,
        log: logging.Logger,
        http_log: logging.Logger,
        shutdown_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits
        self._log = log
        self._tls = tls
        self._connections: dict[RequestHandler, _Connection] = {}
        self._accepting: list[asyncio.Task[None]] = []
        self._n_closed = 0
        self._next_log_s: dict[str, float] = {}
        application.middlewares.insert(0, self._follow)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=http_log,
            shutdown_timeout=shutdown_s,
            keepalive_timeout=IDLE_S,
            handle_signals=False,
        )

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Listen.

        Raises:
            OSError: Somebody else has begun to listen there.
        """
        await self._runner.setup()
        for one in sockets:
            one.listen(BACKLOG)
            one.setblocking(False)
        self._accepting = [asyncio.create_task(self._accept(one)) for one in sockets]

    async def close(self) -> None:
        """Take no more connections and end those there are; the sockets stay their owner's."""
        openings = [one.opening for one in self._connections.values() if one.opening]
        tasks = [*self._accepting, *openings]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.cleanup()

    @web.middleware
    async def _follow(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Mark a connection as busy during a request."""
        self._note(request.protocol, is_answered=True)
        try:
            return await handler(request)
        finally:
            self._note(request.protocol, is_answered=False)

    def _note(self, protocol: RequestHandler, *, is_answered: bool) -> None:
        if connection := self._connections.get(protocol):
            connection.is_answered = is_answered
            connection.since_s = asyncio.get_running_loop().time()

    async def _accept(self, listener: socket.socket) -> None:
        """Take connections until cancelled.

        asyncio's own way logs a hundred errors a second without a descriptor to spare.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
                self._take(client)
                await asyncio.sleep(0)  # who was closed for it gives the descriptor back
            except ConnectionError:
                continue  # it has left already
            except OSError as error:
                if self._is_due("accept"):
                    self._log.error("accept failed: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_S)

    def _take(self, client: socket.socket) -> None:
        if not self._has_room():
            client.close()
            return
        loop = asyncio.get_running_loop()
        protocol = cast("web.Server", self._runner.server)()  # which setup has made
        connection = self._connections[protocol] = _Connection(client, loop.time())
        # A task of its own, as TLS waits for the client.
        opening = loop.create_task(
            loop.connect_accepted_socket(lambda: protocol, client, ssl=self._tls)
        )
        connection.opening = opening
        opening.add_done_callback(partial(self._opened, connection))

    def _opened(self, connection: _Connection, opening: asyncio.Task[Any]) -> None:
        connection.opening = None
        error = None if opening.cancelled() else opening.exception()
        if opening.cancelled() or error:
            connection.client.close()
        if error and not isinstance(error, OSError):  # as it is where a client speaks no TLS
            self._log.error("opening a connection failed", exc_info=error)

    def _has_room(self) -> bool:
        """Say whether one more fits; another is closed for it where one can be."""
        self._connections = {
            protocol: one for protocol, one in self._connections.items() if one.client.fileno() >= 0
        }
        if len(self._connections) < self._limits.connections:
            return True
        self._count_closed()
        protocol = min(self._connections, key=self._rank)
        is_busy, since_s = self._rank(protocol)
        if is_busy and asyncio.get_running_loop().time() - since_s < self._limits.spared_s:
            return False
        _end(protocol, self._connections.pop(protocol))
        return True

    def _rank(self, protocol: RequestHandler) -> tuple[bool, float]:
        """Return whether a connection is busy, and since when: the least one goes first."""
        connection = self._connections[protocol]
        return connection.is_answered or protocol.writing_paused, connection.since_s

    def _count_closed(self) -> None:
        self._limits.on_closed()
        self._n_closed += 1
        if self._is_due("closed"):
            self._log.warning(
                "connections closed=%d limit=%d: web.max-connections and the limit of open files "
                "allow no more",
                *(self._n_closed, self._limits.connections),
            )
            self._n_closed = 0

    def _is_due(self, kind: str) -> bool:
        """Say whether to log an event of a kind; others of it may just have been logged."""
        now_s = asyncio.get_running_loop().time()
        is_due = now_s >= self._next_log_s.get(kind, now_s)
        if is_due:
            self._next_log_s[kind] = now_s + LOG_WINDOW_S
        return is_due


def _end(protocol: RequestHandler, connection: _Connection) -> None:
    if protocol.transport is not None:
        protocol.transport.abort()
    elif connection.opening is not None:
        connection.opening.cancel()


def bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets at every address of a host ("" for any), all with one port; 0 for a free one.

    Nobody is answered there yet.

    Raises:
        OSError: They cannot be had.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for family, *_, address in dict.fromkeys(found):
            try:
                one = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and family == socket.AF_INET6:
                    continue  # the kernel has none, whatever the resolver says
                raise
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = sockets[0].getsockname()[1] if sockets else port
            one.bind((address[0], chosen, *address[2:]))
            sockets.append(one)
        stack.pop_all()
    return sockets


def is_ours(record: logging.LogRecord) -> bool:
    """Return whether a log record of aiohttp's server is no client's fault; a filter.

    Clients could fill the log with theirs.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, CLIENT_FAULTS)
