"""Connect to one instance and speak pipelined HTTP/1.1 over the connection, within bounds."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httptools
import msgspec

from exporter.errors import PollError
from exporter.model import Answer, Outcome

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle, Transport
    from collections.abc import Callable, Sequence


CONTENT_LENGTH = b"content-length"
TRANSFER_ENCODING = b"transfer-encoding"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much an instance may send for one answer."""

    header_bytes: int = 16 * 1024
    body_bytes: int = 1024 * 1024

    @property
    def answer_bytes(self) -> int:
        """Return what may come in all for one answer: chunks have frames, and trailers."""
        return self.header_bytes + 2 * self.body_bytes


@dataclass(frozen=True, slots=True)
class Deadlines:
    """When an answer is too late, on the event loop's clock, in seconds."""

    first_s: float
    """For connecting and the first answer."""
    all_s: float
    """For the last answer."""


@dataclass(slots=True)
class OpenConnections:
    """How many connections are open now: counted as they come and go, as there may be 100,000."""

    n: int = 0


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """What came of one request."""

    answers: tuple[Answer, ...]
    failure: PollError | None = None
    """Why fewer answers came than were asked for."""


class Connection(asyncio.Protocol):
    """One connection: asks, parses, and stays open for the next time where the server allows it.

    It and its parser refer to each other only while it is open, and it keeps nothing of an exchange
    that has ended: the exporter's garbage collector hardly ever runs.
    """

    __slots__ = (
        "_answers", "_body", "_body_bytes", "_bounds", "_done", "_has_length",
        "_header_bytes", "_is_closing", "_is_in_body", "_is_too_large", "_loop",
        "_open_connections", "_parser", "_spare_bytes", "_timer", "_transport", "_wanted",
        "is_open",
    )  # fmt: skip

    def __init__(
        self, loop: AbstractEventLoop, bounds: Bounds, open_connections: OpenConnections
    ) -> None:
        self._loop = loop
        self._bounds = bounds
        self._open_connections = open_connections
        self._parser: httptools.HttpResponseParser | None = None
        self._transport: Transport | None = None
        self._timer: TimerHandle | None = None
        self._done: Callable[[Exchange], None] | None = None
        self._wanted = 0
        self._answers: list[Answer] = []
        self._body: list[bytes] = []
        self._begin_answer()
        self._spare_bytes = 0
        self._is_closing = False
        self.is_open = False

    def send(
        self, request: bytes, n_answers: int, deadlines: Deadlines, done: Callable[[Exchange], None]
    ) -> None:
        """Send the request; `done` is called once, with what came of it.

        A callback, not a future: waking a task costs as much as parsing the answers.
        """
        assert self._transport is not None  # noqa: S101 - a Connection is only had once connected
        self._done = done
        self._wanted = n_answers
        self._spare_bytes = n_answers * self._bounds.answer_bytes
        self._timer = self._loop.call_at(deadlines.first_s, self._on_deadline, deadlines)
        self._transport.write(request)

    def close(self) -> None:
        """Close at once; an exchange under way ends as closed."""
        self._finish(PollError(Outcome.CLOSED, "the poll was given up"))
        self._drop()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to write to."""
        self._transport = transport  # type: ignore[assignment]  # a stream transport, as asked for
        self._parser = httptools.HttpResponseParser(self)
        self._open_connections.n += 1
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Parse what came; end the exchange when it is complete or out of bounds."""
        if self._done is None or self._parser is None:
            self._drop()  # nobody asked: what comes could be taken for a later answer
            return
        self._spare_bytes -= len(data)
        if not self._is_in_body:
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Outcome.MALFORMED, f"the answer is not HTTP/1.1: {_words(error)}")
            return
        self._conclude()

    def eof_received(self) -> bool:
        """Take the end of the stream for the end of an answer where HTTP says so."""
        # RFC 9112, 6.3: with neither a length nor chunks the end of the stream ends the body.
        if self._done is not None and self._is_in_body and not self._has_length:
            self.on_message_complete()
            self._conclude()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange under way, if there is one: closed before or in the middle of it."""
        self._retire()
        self._transport = None
        if self._done is not None:
            self._finish(self._closed_early(exc))

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note whether the answer says where it ends; a body too large need not come."""
        name = name.lower()
        if name == CONTENT_LENGTH:
            self._has_length = True
            self._is_too_large = int(value) > self._bounds.body_bytes
        elif name == TRANSFER_ENCODING:
            self._has_length = True

    def on_headers_complete(self) -> None:
        """Count the header bytes of the next answer from zero."""
        self._is_in_body = True
        self._header_bytes = 0

    def on_body(self, data: bytes) -> None:
        """Collect the body, up to the bound."""
        self._body_bytes += len(data)
        if self._body_bytes > self._bounds.body_bytes:
            self._is_too_large = True
        elif not self._is_too_large:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """Take the answer; end the exchange with the last one."""
        parser = self._parser
        if parser is None or self._is_too_large:
            return  # _conclude ends the exchange
        status = parser.get_status_code()
        if len(self._answers) == self._wanted:
            self._is_closing = True  # one too many: what follows could be taken for a later answer
        elif status >= 200:  # 1xx only announces the answer
            self._answers.append(Answer(status, b"".join(self._body)))
            self._is_closing = not parser.should_keep_alive()
        self._begin_answer()

    # the rest

    def _begin_answer(self) -> None:
        self._header_bytes = 0
        self._has_length = False
        self._is_in_body = False
        self._is_too_large = False
        self._body.clear()
        self._body_bytes = 0

    def _conclude(self) -> None:
        """End the exchange, if what came completes it or makes it impossible to complete."""
        bounds = self._bounds
        if len(self._answers) == self._wanted:
            if self._is_closing:
                self._drop()
            self._finish(None)
        elif self._is_closing:
            self._fail(Outcome.CLOSED, "the server closes the connection after each answer")
        elif self._is_too_large or self._header_bytes > bounds.header_bytes:
            self._fail_out_of_bounds()
        elif self._spare_bytes < 0:
            self._fail(Outcome.TOO_LARGE, "there is no end to the answer's frame or trailers")

    def _fail_out_of_bounds(self) -> None:
        if self._is_too_large:
            limit = self._bounds.body_bytes
            self._fail(
                Outcome.TOO_LARGE,
                f"the answer's body is larger than {limit:,} bytes (poll.max-body-bytes); raise "
                "the limit or reduce what the server sends",
            )
        else:
            limit = self._bounds.header_bytes
            self._fail(Outcome.TOO_LARGE, f"the answer's header is larger than {limit:,} bytes")

    def _closed_early(self, error: Exception | None) -> PollError:
        how = f" ({_words(error)})" if error is not None else ""
        if self._answers or self._is_in_body or self._header_bytes:
            return PollError(Outcome.CLOSED, f"closed in the middle of an answer{how}")
        return PollError(Outcome.RESET, f"closed before the first byte of an answer{how}")

    def _on_deadline(self, deadlines: Deadlines) -> None:
        if self._answers and self._loop.time() < deadlines.all_s:
            self._timer = self._loop.call_at(deadlines.all_s, self._on_deadline, deadlines)
            return
        self._timer = None
        n, wanted = len(self._answers), self._wanted
        self._fail(Outcome.TIMEOUT, f"{n} of {wanted} answers came before the deadline")

    def _fail(self, outcome: Outcome, detail: str) -> None:
        self._drop()
        self._finish(PollError(outcome, detail))

    def _finish(self, failure: PollError | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        done, self._done = self._done, None
        exchange = Exchange(tuple(self._answers), failure)
        self._answers.clear()
        if done is not None:
            done(exchange)

    def _drop(self) -> None:
        self._retire()
        if self._transport is not None:
            self._transport.abort()

    def _retire(self) -> None:
        """Part with the parser; count the connection out, once."""
        self._parser = None
        if self.is_open:
            self.is_open = False
            self._open_connections.n -= 1


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


KIND = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


async def dial(addresses: Sequence[str], port: int, deadline_s: float) -> socket.socket:
    """Return a socket that is connected to the first address that accepts.

    The next address is tried as soon as one fails; one that stays silent takes all the time.

    Args:
        addresses: One or more, IPv4 or IPv6, of one host.
        port: The same at every address.
        deadline_s: For all addresses together, on the event loop's clock.

    Raises:
        OSError: What the first address failed with: refused, no route, no free descriptor, ...
        TimeoutError: Nothing was heard from the first address before the deadline.
    """
    try:
        return await _dial(addresses[0], port, deadline_s)
    except TimeoutError:
        raise
    except OSError:
        for address in addresses[1:]:
            with suppress(OSError):
                return await _dial(address, port, deadline_s)
        raise


async def _dial(address: str, port: int, deadline_s: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connecting = socket.socket(family, KIND)
    try:
        error = connecting.connect_ex((address, port))
        if error == errno.EINPROGRESS:
            # Asked again, a socket says how connecting went: nearby, that is known at once.
            error = connecting.connect_ex((address, port))
        if error == errno.EALREADY:
            await _decided(connecting, deadline_s)
            error = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error not in (0, errno.EISCONN):
            raise OSError(error, os.strerror(error))
    except BaseException:
        connecting.close()
        raise
    return connecting


async def _decided(connecting: socket.socket, deadline_s: float) -> None:
    """Return once the socket is connected or has failed to connect."""
    loop = asyncio.get_running_loop()
    decided = loop.create_future()
    loop.add_writer(connecting.fileno(), _decide, decided)
    try:
        async with asyncio.timeout_at(deadline_s):
            await decided
    finally:
        loop.remove_writer(connecting.fileno())


def _decide(decided: asyncio.Future[None]) -> None:
    if not decided.done():
        decided.set_result(None)
