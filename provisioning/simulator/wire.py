"""HTTP/1.1 as the simulated servers speak it, and the bytes that a broken one sends instead."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

import httptools

JSON = "application/json"
JSON_UTF8 = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"
TEXT = "text/plain"
TEXT_UTF8 = "text/plain; charset=utf-8"
HTML_UTF8 = "text/html; charset=utf-8"

MAX_REQUEST_BYTES = 1024 * 1024
"""Of one request, head and body together: a prompt of 250,000 tokens. 1,000 clients need 1 GB."""


Headers = tuple[tuple[str, str], ...]


class BadRequestError(Exception):
    """What the client sent is no HTTP request, or one that is too large."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its body included."""

    method: str
    path: str
    """Without the query."""
    version: str
    """`1.0` or `1.1`."""
    host: str | None
    keep_alive: bool
    body: bytes = b""
    origin: str | None = None
    """Of the page whose script asks, as a browser says."""
    echoes: Headers = ()
    """Headers that every answer to this request has."""

    @property
    def is_plain(self) -> bool:
        """Say whether the usual head is right for the answer: a bodiless GET that keeps alive."""
        return (
            self.method == "GET"
            and self.version == "1.1"
            and self.keep_alive
            and self.host is not None
            and self.origin is None
            and not self.body
        )


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that is known as a whole."""

    status: HTTPStatus
    content_type: str | None
    body: bytes
    headers: Headers = ()


def head(request: Request, response: Response, *, now_s: float, length: int | None = None) -> bytes:
    """Write status line and headers; without a length the body follows in chunks."""
    status = response.status
    lines = [f"HTTP/{request.version} {status.value} {status.phrase}"]
    if response.content_type is not None:
        lines.append(f"Content-Type: {response.content_type}")
    lines += [f"{name}: {value}" for name, value in (*response.headers, *request.echoes)]
    lines.append(f"Date: {formatdate(now_s, usegmt=True)}")
    if status is HTTPStatus.NO_CONTENT:
        pass
    elif length is not None:
        lines.append(f"Content-Length: {length}")
    elif request.version != "1.0":
        lines.append("Transfer-Encoding: chunked")
    if not request.keep_alive:
        lines.append("Connection: close")
    elif request.version == "1.0":
        lines.append("Connection: keep-alive")
    return "\r\n".join([*lines, "\r\n"]).encode()


def encode(request: Request, response: Response, *, now_s: float) -> bytes:
    """Write a whole answer; one to HEAD has the length of its body, but no body."""
    first = head(request, response, now_s=now_s, length=len(response.body))
    return first if request.method == "HEAD" else first + response.body


def chunk(data: bytes) -> bytes:
    """Frame a piece of a chunked body; an empty piece ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class RequestReader:
    """Reads requests, pipelined or in pieces, off one connection.

    The `on_...` methods are httptools' callbacks.
    """

    __slots__ = ("_body", "_host", "_is_idle", "_n_bytes", "_origin", "_parser", "_ready", "_url")

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._ready: list[Request] = []
        self._n_bytes = 0
        self._is_idle = True
        self._url = b""
        self._host: str | None = None
        self._origin: str | None = None
        self._body = bytearray()

    @property
    def is_idle(self) -> bool:
        """Say whether everything fed so far has come out as whole requests."""
        return self._is_idle

    def feed(self, data: bytes) -> list[Request]:
        """Take what has arrived; return the requests that it completes, often none or one."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise BadRequestError("upgrades are not offered") from None
        except httptools.HttpParserError as error:
            raise BadRequestError(str(error)) from error
        self._n_bytes += len(data)
        if self._is_idle:
            self._n_bytes = 0
        elif self._n_bytes > MAX_REQUEST_BYTES:
            raise BadRequestError(f"the request is larger than {MAX_REQUEST_BYTES:,} bytes")
        ready, self._ready = self._ready, []
        return ready

    def close(self) -> None:
        """Let go of everything; the parser refers back to this reader, and no more is fed."""
        del self._parser
        self._body = bytearray()

    def on_message_begin(self) -> None:
        """Begin a request; nothing of the one before is left."""
        self._is_idle = False
        self._url = b""
        self._host = None
        self._origin = None
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a whole header; only the host and the origin matter."""
        key = name.lower()
        if key == b"host":
            self._host = value.decode("latin-1")
        elif key == b"origin":
            self._origin = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Give out the request, and keep nothing of it."""
        self._is_idle = True
        self._n_bytes = 0
        body, self._body = bytes(self._body), bytearray()
        self._ready.append(
            Request(
                method=self._parser.get_method().decode("latin-1"),
                path=self._url.partition(b"?")[0].decode("latin-1"),
                version=self._parser.get_http_version(),
                host=self._host,
                keep_alive=self._parser.should_keep_alive(),
                body=body,
                origin=self._origin,
            )
        )


NO_HTTP = b"SSH-2.0-OpenSSH_9.2p1\r\n\x00\x16\x03\x01\r\n"
"""What a client sees that has reached another protocol's port."""
NO_JSON = Response(HTTPStatus.OK, JSON, b'{"tokens_per_second": 4\xff\xfe\x00<html>')
BROKEN_METRICS = Response(HTTPStatus.OK, JSON, b'{"tokens_per_second": "fast", "latency_p99": [')


def half(request: Request, response: Response, *, now_s: float) -> bytes:
    """Write an answer up to the middle of its body."""
    whole = encode(request, response, now_s=now_s)
    return whole[: len(whole) - (len(response.body) + 1) // 2]
