"""Send large responses in chunks, to a deadline, and not too many at once.

aiohttp copies a whole body for each reader, waits for slow readers without end, and leaves the body
of an aborted response in a cycle of exceptions that only the garbage collector finds.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from exporter.selfmetrics import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from exporter.selfmetrics import SelfMetrics


CHUNK_BYTES = 131_072
"""What one reader may leave unread in our memory, on top of what the loop buffers."""
MAX_RESPONSES = 100
"""More than any number of scrapers and browsers; each also holds memory in the kernel."""
MAX_OWN_BYTES = 128 * 1024 * 1024
"""Bodies that were made for one reader each: 25 lists of 10,000 instances."""
UNHURRIED_S = 1.0
"""Where too much is being sent, who has read for longer than this makes room: most read faster."""


@dataclass(frozen=True, slots=True)
class Body:
    """What to send."""

    headers: Mapping[str, str]
    parts: Sequence[bytes]
    own_bytes: int = 0
    """What no other reader shares."""


@dataclass(slots=True, eq=False)
class _Reader:
    """Whom a response is being sent to."""

    request: web.Request
    response: web.StreamResponse
    own_bytes: int
    since_s: float


class ResponseSender:
    """Sends responses, and knows how many and how large those are that are being sent."""

    def __init__(
        self,
        metrics: SelfMetrics,
        *,
        timeout_s: float,
        max_responses: int = MAX_RESPONSES,
        max_own_bytes: int = MAX_OWN_BYTES,
    ) -> None:
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._max_responses = max_responses
        self._max_own_bytes = max_own_bytes
        self._n_making = 0
        self._readers: dict[_Reader, None] = {}
        """The one that has read for longest comes first."""

    async def send(
        self, request: web.Request, make: Callable[[], Awaitable[Body]]
    ) -> web.StreamResponse:
        """Make a body and send it; refuse before anything is made where too many are sent."""
        if self._n_making + len(self._readers) >= self._max_responses and not self._cut_off_one():
            return self._refusal()
        self._n_making += 1
        try:
            body = await make()
        finally:
            self._n_making -= 1
        return await self._send(request, body)

    async def _send(self, request: web.Request, body: Body) -> web.StreamResponse:
        while self._is_too_much(body.own_bytes):
            if not self._cut_off_one():
                return self._refusal()
        response = web.StreamResponse(headers=body.headers)
        response.content_length = sum(map(len, body.parts))
        now_s = asyncio.get_running_loop().time()
        reader = _Reader(request, response, body.own_bytes, now_s)
        self._readers[reader] = None
        try:
            async with asyncio.timeout(self._timeout_s):
                await _write(request, response, body.parts)
        except TimeoutError:
            self._metrics.responses_aborted.inc()
            _abort(request, response)
        except ConnectionError as error:
            # What the loop waited on holds the error, and its traceback what the loop waited on.
            error.__traceback__ = None
            _abort(request, response)
        finally:
            self._readers.pop(reader, None)
        return response

    def _is_too_much(self, own_bytes: int) -> bool:
        held_bytes = sum([reader.own_bytes for reader in self._readers])
        return held_bytes > 0 and held_bytes + own_bytes > self._max_own_bytes

    def _cut_off_one(self) -> bool:
        """Cut off who has read for longest; return False where nobody has read for long."""
        reader = next(iter(self._readers), None)
        now_s = asyncio.get_running_loop().time()
        if reader is None or now_s - reader.since_s < UNHURRIED_S:
            return False
        del self._readers[reader]
        self._metrics.responses_aborted.inc()
        _abort(reader.request, reader.response)
        return True

    def _refusal(self) -> web.Response:
        self._metrics.requests_refused[Refusal.RESPONSES].inc()
        return web.Response(
            status=503,
            headers={"Retry-After": str(math.ceil(UNHURRIED_S))},
            text="Too many responses are being sent. Try again later.\n",
        )


async def _write(
    request: web.Request, response: web.StreamResponse, parts: Sequence[bytes]
) -> None:
    await response.prepare(request)
    for part in () if request.method == "HEAD" else parts:
        for begin in range(0, len(part), CHUNK_BYTES):
            await response.write(memoryview(part)[begin : begin + CHUNK_BYTES])
            await asyncio.sleep(0)  # a fast reader never lets the writing wait
    await response.write_eof()


def _abort(request: web.Request, response: web.StreamResponse) -> None:
    """Close the connection without sending what was not read."""
    response.force_close()
    if request.transport is not None:
        request.transport.abort()


def taken(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what an Accept header names, with its parameters; a weight of 0 means `not this`."""
    for part in header.lower().split(","):
        name, *texts = [text.strip() for text in part.split(";")]
        parameters = dict(text.split("=", 1) for text in texts if "=" in text)
        if parameters.get("q", "1").strip("0."):
            yield name, parameters


def takes_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header takes gzip."""
    return any(name == "gzip" for name, _ in taken(accept_encoding))
