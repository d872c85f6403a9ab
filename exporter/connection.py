"""Connect to one instance and speak pipelined HTTP/1.1 over the connection, within bounds."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httptools
import msgspec

from exporter.errors import PollError, os_reason
from exporter.model import Answer, Outcome

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle, Transport
    from collections.abc import Callable, Sequence

    from exporter.model import Target


CONTENT_LENGTH = b"content-length"
TRANSFER_ENCODING = b"transfer-encoding"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much an instance may send for one answer."""

    header_bytes: int = 16 * 1024
    body_bytes: int = 1024 * 1024
    helps: str = " (poll.max-body-bytes); raise the limit or reduce what the server sends"
    """What helps against a body that is larger, in words."""

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
    is_first: bool = True
    """Whether the connection was opened for it, not kept from an earlier one."""


class Connection(asyncio.Protocol):
    """One connection: asks, parses, and stays open for the next time where the server allows it.

    It and its parser refer to each other only while it is open, and it keeps nothing of an exchange
    that has ended: the exporter's garbage collector hardly ever runs.
    """

    __slots__ = (
        "_answers", "_body", "_body_bytes", "_bounds", "_done", "_has_length",
        "_header_bytes", "_is_closing", "_is_first", "_is_in_body", "_is_too_large", "_loop",
        "_open_connections", "_parser", "_spare_bytes", "_target", "_timer", "_transport",
        "_wanted",
        "is_open",
    )  # fmt: skip

    def __init__(
        self,
        loop: AbstractEventLoop,
        target: Target,
        bounds: Bounds,
        open_connections: OpenConnections,
    ) -> None:
        self._loop = loop
        self._target = target
        self._bounds = bounds
        self._open_connections = open_connections
        self._parser: httptools.HttpResponseParser | None = None
        self._transport: Transport | SocketTransport | None = None
        self._timer: TimerHandle | None = None
        self._done: Callable[[Exchange], None] | None = None
        self._wanted = 0
        self._answers: list[Answer] = []
        self._body: list[bytes] = []
        self._begin_answer()
        self._spare_bytes = 0
        self._is_closing = False
        self._is_first = True
        self.is_open = False

    def connect_to(self, addresses: Sequence[str]) -> None:
        """Connect to the first address that accepts, once there is something to send."""
        self._transport = SocketTransport(self._loop, self, addresses, self._target.port)

    def send(
        self, request: bytes, n_answers: int, deadlines: Deadlines, done: Callable[[Exchange], None]
    ) -> None:
        """Send the request; `done` is called once, with what came of it.

        A callback, not a future: waking a task costs as much as parsing the answers.
        """
        assert self._transport is not None  # noqa: S101 - what has lost it is not asked again
        self._done = done
        self._wanted = n_answers
        self._spare_bytes = n_answers * self._bounds.answer_bytes
        self._transport.write(request)
        if self._done is not None:  # a refusal may have ended it already
            self._timer = self._loop.call_at(deadlines.first_s, self._on_deadline, deadlines)

    def close(self) -> None:
        """Close at once; an exchange under way ends as closed."""
        self._finish(PollError(Outcome.CLOSED, "the poll was given up"))
        self._drop()

    def connecting_failed(self, error: OSError) -> None:
        """End the exchange that the connection was to be for."""
        self._transport = None
        self._finish(connect_error(self._target, error))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport | SocketTransport) -> None:
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
            limit, helps = self._bounds.body_bytes, self._bounds.helps
            self._fail(
                Outcome.TOO_LARGE, f"the answer's body is larger than {limit:,} bytes{helps}"
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
        if not self.is_open:
            self._drop()
            self._finish(connect_timeout(self._target))
            return
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
        exchange = Exchange(tuple(self._answers), failure, self._is_first)
        self._answers.clear()
        self._is_first = False
        if done is not None:
            done(exchange)

    def _drop(self) -> None:
        self._retire()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def _retire(self) -> None:
        """Part with the parser; count the connection out, once."""
        self._parser = None
        if self.is_open:
            self.is_open = False
            self._open_connections.n -= 1


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return os_reason(error)
    return str(error) or type(error).__name__


KIND = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
CONNECTED = (0, errno.EISCONN)
RECEIVE_BYTES = 64 * 1024


class SocketTransport:
    """A TCP connection for small requests, which connects when the first one is written.

    It costs less than half of asyncio's transport, and needs neither a task nor a turn of the loop
    to know that a port nearby refuses. The next address is tried as soon as one fails; one that
    stays silent takes all the time.
    """

    __slots__ = ("_connection", "_error", "_loop", "_port", "_request", "_socket", "_untried")

    def __init__(
        self, loop: AbstractEventLoop, connection: Connection, addresses: Sequence[str], port: int
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._untried = iter(addresses)
        self._port = port
        self._socket: socket.socket | None = None
        self._request = b""
        """What waits until a socket is connected."""
        self._error: OSError | None = None
        """What the first address failed with."""

    def write(self, request: bytes) -> None:
        """Send a request, once connected."""
        if self._socket is None:
            self._request = request
            self._connect()
        else:
            self._send(self._socket, request)

    def abort(self) -> None:
        """Close at once; the connection is not called any more."""
        closing, self._socket = self._socket, None
        if closing is None:
            return
        if self._request:
            self._loop.remove_writer(closing.fileno())
        else:
            self._loop.remove_reader(closing.fileno())
        closing.close()

    def _connect(self) -> None:
        for address in self._untried:
            try:
                connecting, error = _connecting(address, self._port)
            except OSError as raised:
                self._error = self._error or raised.with_traceback(None)
                continue
            if error == errno.EALREADY:
                self._socket = connecting
                self._loop.add_writer(connecting.fileno(), self._on_decided, connecting)
                return
            if error in CONNECTED:
                self._on_connected(connecting)
                return
            self._note_failure(connecting, error)
        assert self._error is not None  # noqa: S101 - there is at least one address
        self._connection.connecting_failed(self._error)

    def _note_failure(self, connecting: socket.socket, error: int) -> None:
        connecting.close()
        self._error = self._error or OSError(error, os.strerror(error))

    def _on_decided(self, connecting: socket.socket) -> None:
        self._loop.remove_writer(connecting.fileno())
        self._socket = None
        error = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._note_failure(connecting, error)
            self._connect()
        else:
            self._on_connected(connecting)

    def _on_connected(self, connected: socket.socket) -> None:
        self._socket = connected
        request, self._request = self._request, b""
        # By number: given the socket, the selector writes its addresses into a KeyError each time.
        self._loop.add_reader(connected.fileno(), self._on_readable, connected)
        self._connection.connection_made(self)
        self._send(connected, request)

    def _send(self, connected: socket.socket, request: bytes) -> None:
        try:
            n_sent = connected.send(request)
        except OSError as error:
            self._lose(error)
            return
        if n_sent < len(request):  # an idle socket takes far more than a request has
            self._lose(OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)))

    def _on_readable(self, connected: socket.socket) -> None:
        try:
            data = connected.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._connection.data_received(data)
        else:
            self._connection.eof_received()
            self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        self.abort()
        self._connection.connection_lost(error)


def _connecting(address: str, port: int) -> tuple[socket.socket, int]:
    """Return a socket that begins to connect, and how that goes as an error number."""
    connecting = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, KIND)
    try:
        error = connecting.connect_ex((address, port))
        if error == errno.EINPROGRESS:
            # Asked again, a socket says how connecting went: nearby, that is known at once.
            error = connecting.connect_ex((address, port))
    except BaseException:
        connecting.close()
        raise
    return connecting, error


OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


def connect_error(target: Target, error: OSError) -> PollError:
    """Translate what connecting failed with into an outcome and a sentence."""
    reason = os_reason(error)
    detail = f"cannot connect to {target.netloc}: {reason}"
    if isinstance(error, ConnectionRefusedError):
        return PollError(Outcome.REFUSED, detail)
    if isinstance(error, ssl.SSLError):
        return PollError(Outcome.TLS, detail)
    if isinstance(error, ConnectionResetError | BrokenPipeError) or error.errno == errno.ENOTCONN:
        # Accepted, and gone again before we had a word: seen here or at the first read, by chance.
        return PollError(Outcome.RESET, f"closed before the first byte of an answer ({reason})")
    if error.errno in OUT_OF_DESCRIPTORS:
        return PollError(Outcome.NO_DESCRIPTOR, f"{detail}; raise the limit (ulimit -n)")
    return PollError(Outcome.CONNECT_FAILED, detail)


def connect_timeout(target: Target) -> PollError:
    """Say that nothing was heard from an instance."""
    detail = f"no connection to {target.netloc} before the deadline"
    return PollError(Outcome.CONNECT_TIMEOUT, detail)
