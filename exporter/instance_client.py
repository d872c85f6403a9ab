"""Send requests to one instance over a connection that is kept between polls.

It costs a tenth of the CPU time per request of a general HTTP client, which decides how many
instances one exporter can poll.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from exporter.connection import (
    Bounds,
    Connection,
    Deadlines,
    Exchange,
    OpenConnections,
    connect_error,
    connect_timeout,
)
from exporter.errors import PollError
from exporter.model import Answer, Outcome, Target
from ollama_fleet.urls import is_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.resolver import Resolver


Answers = dict[str, Answer | PollError]

ONE_BY_ONE_POLLS = 100
"""For this many polls a server that failed at pipelining is asked one path at a time."""

GONE = (Outcome.CLOSED, Outcome.RESET)


@dataclass(slots=True)
class TransportConfig:
    """What all clients share: how to reach instances, and the bounds."""

    resolver: Resolver
    tls: ssl.SSLContext
    bounds: Bounds = field(default_factory=Bounds)
    user_agent: str = "ollama-fleet"
    open_connections: OpenConnections = field(default_factory=OpenConnections)
    slots: asyncio.Semaphore | None = None
    """Bounds the open connections where not every instance can keep one; None: all can."""


class InstanceClient:
    """The connection to one instance: opened when needed, pipelined where the server allows it."""

    __slots__ = ("_addresses", "_connection", "_one_by_one", "_requests", "_target", "_transport")

    def __init__(self, target: Target, transport: TransportConfig) -> None:
        self._target = target
        self._transport = transport
        self._addresses = (target.host,) if is_address(target.host) else ()
        """Empty for a name, whose addresses may change."""
        self._connection: Connection | None = None
        self._one_by_one: dict[tuple[str, ...], int] = {}
        """What cannot be asked in one piece, and for how many polls that is taken for granted."""
        self._requests: dict[tuple[str, ...], bytes] = {}

    @property
    def is_open(self) -> bool:
        """Return whether a connection is open now."""
        return self._connection is not None and self._connection.is_open

    @property
    def has_lost_connection(self) -> bool:
        """Return whether the server closed a kept connection since it was last asked."""
        return self._connection is not None and not self._connection.is_open

    def fetch_now(
        self, paths: tuple[str, ...], deadlines: Deadlines, done: Callable[[Exchange], None]
    ) -> bool:
        """Ask for all paths at once; `answers_of` reads the result.

        Returns:
            False, and nothing is done, where that takes more: then `fetch` does it.
        """
        if self._transport.slots is not None or paths in self._one_by_one:
            return False
        connection = self._connection
        if connection is None or not connection.is_open:
            if not self._addresses or self._target.tls:
                return False
            connection = self._connection = self._connection_to(self._addresses)
        connection.send(self._request(paths), len(paths), deadlines, done)
        return True

    def answers_of(self, paths: tuple[str, ...], exchange: Exchange) -> Answers | None:
        """Return what came of `fetch_now`; None where only the kept connection was at fault."""
        answers: list[Answer | PollError] = []
        self._take(paths, answers, exchange)
        if len(answers) < len(paths):
            return None
        return dict(zip(paths, answers, strict=True))

    async def fetch(self, paths: tuple[str, ...], deadlines: Deadlines) -> Answers:
        """Send a GET for each path; return an answer or an error for each, never raise one."""
        if self._transport.slots is None:
            return await self._fetch(paths, deadlines)
        return await self._fetch_in_slot(paths, deadlines, self._transport.slots)

    def close(self) -> None:
        """Close the connection, if one is open; the next `fetch` opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _fetch_in_slot(
        self, paths: tuple[str, ...], deadlines: Deadlines, slots: asyncio.Semaphore
    ) -> Answers:
        """Ask over a connection that does not outlive the poll, once one more may be open."""
        if not await _acquire(slots, deadlines.first_s):
            detail = "no file descriptor was free in time; raise the limit (ulimit -n) or shard"
            return dict.fromkeys(paths, PollError(Outcome.NO_DESCRIPTOR, detail))
        try:
            return await self._fetch(paths, deadlines)
        finally:
            self.close()
            slots.release()

    async def _fetch(self, paths: tuple[str, ...], deadlines: Deadlines) -> Answers:
        """Ask over as many connections as it takes."""
        answers: list[Answer | PollError] = []
        self._retry_pipelining_later(paths)
        while len(answers) < len(paths):
            if answers:
                deadlines = Deadlines(deadlines.all_s, deadlines.all_s)
            n = 1 if paths in self._one_by_one else len(paths)
            exchange = await self._exchange(paths[len(answers) :][:n], deadlines)
            self._take(paths, answers, exchange)
        return dict(zip(paths, answers, strict=True))

    def _take(
        self, paths: tuple[str, ...], answers: list[Answer | PollError], exchange: Exchange
    ) -> None:
        """Add the answers; where no other try is worth it, the failure stands for the rest."""
        if not self.is_open:
            self._connection = None
        answers += exchange.answers
        failure = exchange.failure
        if failure is not None and not self._is_retried(paths, exchange):
            answers += [failure] * (len(paths) - len(answers))

    def _is_retried(self, paths: tuple[str, ...], exchange: Exchange) -> bool:
        """Decide whether a failure is the connection's own and a fresh one deserves a try.

        Servers close kept connections as they like (llama-server: after 5 s, or 100 requests), also
        while a request is on its way; and some answer only the first of pipelined requests.
        """
        is_gone = exchange.failure is not None and exchange.failure.outcome in GONE
        if not exchange.answers:
            return is_gone and not exchange.is_first
        self._one_by_one[paths] = ONE_BY_ONE_POLLS
        return is_gone

    def _retry_pipelining_later(self, paths: tuple[str, ...]) -> None:
        """Try pipelining again after a while: it may only have been slow, or another server."""
        if paths in self._one_by_one:
            self._one_by_one[paths] -= 1
            if not self._one_by_one[paths]:
                del self._one_by_one[paths]

    async def _exchange(self, paths: tuple[str, ...], deadlines: Deadlines) -> Exchange:
        connection = self._connection
        if connection is None or not connection.is_open:
            opened = await self._connect(deadlines.first_s)
            if isinstance(opened, PollError):
                return Exchange((), opened)
            connection = self._connection = opened
        answered: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()
        request = self._request(paths)
        connection.send(request, len(paths), deadlines, partial(_set_result, answered))
        return await answered

    async def _connect(self, deadline_s: float) -> Connection | PollError:
        target = self._target
        try:
            resolver = self._transport.resolver
            addresses = self._addresses or await resolver.resolve(target.host, deadline_s)
            if not target.tls:
                return self._connection_to(addresses)
            async with asyncio.timeout_at(deadline_s):
                return await self._tls_connection_to(addresses)
        except PollError as error:
            return error
        except TimeoutError:
            return connect_timeout(target)
        except OSError as error:
            return connect_error(target, error)

    def _connection_to(self, addresses: Sequence[str]) -> Connection:
        """Return a connection that connects with the first request."""
        connection = self._new_connection()
        connection.connect_to(addresses)
        return connection

    async def _tls_connection_to(self, addresses: Sequence[str]) -> Connection:
        """Return a connection to the first address that accepts, once TLS is agreed on.

        Raises:
            OSError: What the first address failed with.
        """
        failures: list[OSError] = []
        for address in addresses:
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    self._new_connection,
                    address,
                    self._target.port,
                    ssl=self._transport.tls,
                    server_hostname=self._target.host,
                )
                return connection
            except OSError as error:
                failures.append(error)
        raise failures[0]

    def _new_connection(self) -> Connection:
        transport = self._transport
        loop = asyncio.get_running_loop()
        return Connection(loop, self._target, transport.bounds, transport.open_connections)

    def _request(self, paths: tuple[str, ...]) -> bytes:
        request = self._requests.get(paths)
        if request is None:
            request = b"".join(
                _get(self._target, path, self._transport.user_agent) for path in paths
            )
            self._requests[paths] = request
        return request


def _set_result(answered: asyncio.Future[Exchange], exchange: Exchange) -> None:
    if not answered.done():  # the poll may have been given up
        answered.set_result(exchange)


async def _acquire(slots: asyncio.Semaphore, deadline_s: float) -> bool:
    if not slots.locked():  # then nothing is waited for, and no timer is needed
        return await slots.acquire()
    try:
        async with asyncio.timeout_at(deadline_s):
            return await slots.acquire()
    except TimeoutError:
        return False


def _get(target: Target, path: str, user_agent: str) -> bytes:
    return (
        f"GET {target.path}{path} HTTP/1.1\r\nHost: {target.netloc}\r\n"
        f"User-Agent: {user_agent}\r\nAccept: */*\r\n\r\n"
    ).encode()
