"""Serve the API: listen, keep the number of its connections within bounds, end them.

In:   an Api, the host and port to listen at.
Out:  `bound` gives sockets, `serving` answers there.
Fails with ListenError. One connection more than `max_connections` takes the place of the longest
idle one; where none is idle it is closed. So clients leave descriptors for everything else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from provisioning.fleet.api.app import Api
from provisioning.fleet.api.errors import ListenError
from provisioning.fleet.api.problems import Handler, http_log
from provisioning.fleet.clock import SystemClock
from provisioning.fleet.eventlog import RateLimit
from provisioning.fleet.metrics import Metrics
from provisioning.fleet.units import netloc

log = logging.getLogger("provisioning.fleet.api.server")
log.addFilter(RateLimit(SystemClock()))

SHUTDOWN_S = 0.5
BACKLOG = 128
IDLE_S = 75.0
"""A connection without a request is closed then; clients that poll come again sooner."""
ACCEPT_PAUSE_S = 1.0
"""After a connection could not be taken, as without a descriptor to spare."""
MAX_CONNECTIONS = 500
"""Most fleets have a few exporters and people; feed.MAX_STREAMS of them follow changes."""
LOOPBACK_BY_WILDCARD = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not listened on here


class Connections:
    """The open connections of the API, and since when each is idle."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._idle_since_s: dict[RequestHandler, float] = {}
        """Infinite during a request."""

    @web.middleware
    async def follow(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Take note that a connection is not idle during a request."""
        self._note(request.protocol, math.inf)
        try:
            return await handler(request)
        finally:
            self._note(request.protocol, asyncio.get_running_loop().time())

    async def accept(self, listener: socket.socket, server: web.Server) -> None:
        """Take connections until cancelled.

        asyncio's own way logs a hundred errors a second without a descriptor to spare.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
                await self._take(client, server)
            except ConnectionError:
                continue  # it has left already
            except OSError as error:
                log.error("api cannot accept a connection: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_S)

    async def _take(self, client: socket.socket, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._has_room():
                await loop.connect_accepted_socket(lambda: self._made(server), client)
            else:
                client.close()
        except BaseException:
            client.close()
            raise

    def _made(self, server: web.Server) -> RequestHandler:
        protocol = server()
        self._idle_since_s[protocol] = asyncio.get_running_loop().time()
        return protocol

    def _note(self, protocol: RequestHandler, idle_since_s: float) -> None:
        if protocol in self._idle_since_s:
            self._idle_since_s[protocol] = idle_since_s

    def _has_room(self) -> bool:
        """Say whether one more fits; the longest idle one is closed for it."""
        closed = [one for one in self._idle_since_s if not _is_open(one)]
        for protocol in closed:
            del self._idle_since_s[protocol]
        if len(self._idle_since_s) < self._limit:
            return True
        self._metrics.api_closed_connections.inc()
        log.warning("api connections=%d, as many as may be open; one is closed", self._limit)
        idle = [one for one in self._idle_since_s if self._is_idle(one)]
        if idle and (transport := min(idle, key=self._idle_since_s.__getitem__).transport):
            transport.abort()
        return bool(idle)

    def _is_idle(self, one: RequestHandler) -> bool:
        is_answered = self._idle_since_s[one] < math.inf
        return is_answered and one.transport is not None and not one.writing_paused


def _is_open(one: RequestHandler) -> bool:
    return one.transport is not None and not one.transport.is_closing()


@asynccontextmanager
async def serving(
    api: Api, sockets: Sequence[socket.socket], *, max_connections: int = MAX_CONNECTIONS
) -> AsyncIterator[str]:
    """Serve the API at what `bound` gave until the context ends; gives its base URL.

    Raises:
        ListenError: Somebody else has begun to listen there.
    """
    connections = Connections(max_connections, api.metrics)
    application = api.application()
    application.middlewares.insert(0, connections.follow)
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=http_log,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=IDLE_S,
        handle_signals=False,
    )
    await runner.setup()
    for one in sockets:
        _listen(one)
    telling = asyncio.create_task(api.feed.run())
    telling.add_done_callback(_log_fault)
    counting = asyncio.create_task(api.admission.run())
    server = cast("web.Server", runner.server)  # which setup has made
    accepting = [asyncio.create_task(connections.accept(one, server)) for one in sockets]
    try:
        yield url_of(sockets)
    finally:
        for task in (telling, *accepting):
            task.cancel()
        await asyncio.gather(telling, *accepting, return_exceptions=True)
        await runner.cleanup()
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)


def _log_fault(telling: asyncio.Task[None]) -> None:
    """Log what ended the telling of changes, if it was not us."""
    if not telling.cancelled() and (error := telling.exception()):
        log.error("changes are not told any more: restart the provisioner", exc_info=error)


@contextmanager
def bound(host: str, port: int) -> Iterator[Sequence[socket.socket]]:
    """Give sockets at every address of a host, all with one port; the system's choice for port 0.

    Whose port it is is known before anybody is told of it, and nobody is answered yet.

    Raises:
        ListenError: They cannot be had.
    """
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        try:
            for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                one = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                chosen = sockets[0].getsockname()[1] if sockets else port
                one.bind((address[0], chosen, *address[2:]))
                sockets.append(one)
        except OSError as error:
            raise _listen_error(host, port, error) from error
        yield sockets


def url_of(sockets: Sequence[socket.socket]) -> str:
    """Return the URL at which sockets are reached from this machine."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://{netloc(LOOPBACK_BY_WILDCARD.get(host, host), port)}"


def _listen(one: socket.socket) -> None:
    host, port = one.getsockname()[:2]
    try:
        one.listen(BACKLOG)
    except OSError as error:
        raise _listen_error(host, port, error) from error
    one.setblocking(False)


def _listen_error(host: str, port: int, error: OSError) -> ListenError:
    return ListenError(
        f"cannot listen on {netloc(host, port)} for the API: {error.strerror}; "
        "choose another with --web.listen-address, port 0 for any"
    )
