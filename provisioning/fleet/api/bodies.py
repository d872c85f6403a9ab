"""Read the bodies of requests, within bounds.

In:   a request, and what its operation takes.
Out:  its body; `Room` for those of whom anybody may send one.
Fails with BadRequestError, BusyError, or web.HTTPException.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.http import HttpProcessingError

from provisioning.fleet.api.errors import BadRequestError, BusyError
from provisioning.fleet.api.operations import JSON, Operation

WITHIN_S = 60.0
"""So long a body may take to come whole."""


class Room:
    """How much the bodies of strangers may take at once, all of them together.

    Bytes are counted and not bodies: many who send a little, slowly, keep nobody else out. Whoever
    sends all that there is room for, but for its end, keeps other strangers out for WITHIN_S, but
    no holder of a token: what they send is not counted.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._free_bytes = max_bytes

    def __repr__(self) -> str:
        return f"<Room for {self._free_bytes:,} of {self._max_bytes:,} bytes>"

    @contextmanager
    def share(self, *, is_holders: bool = False) -> Iterator[Callable[[int], None]]:
        """Give what takes so many bytes more, or raises BusyError; they are free again after.

        Args:
            is_holders: It is for whoever has a token, and takes nothing.
        """
        taken_bytes = 0

        def take(n_bytes: int) -> None:
            nonlocal taken_bytes
            if is_holders:
                return
            if n_bytes > self._free_bytes:
                raise BusyError("too many specifications are being read at once; try again soon")
            self._free_bytes -= n_bytes
            taken_bytes += n_bytes

        try:
            yield take
        finally:
            self._free_bytes += taken_bytes


def check_body(operation: Operation, request: web.Request) -> None:
    """Refuse a body that is too large or no JSON, before it is read."""
    _check_size(request.content_length or 0, operation.max_body_bytes)
    if operation.order is None and request.can_read_body:
        raise BadRequestError(f"{operation.method} {operation.path} takes no body")
    if operation.order is not None and request.content_type != JSON:
        raise web.HTTPUnsupportedMediaType(
            text=f"the body must be {JSON}, got {request.content_type}"
        )


async def body_of(
    request: web.Request, *, max_bytes: int, take: Callable[[int], None] = lambda _: None
) -> bytes:
    """Return the body; it may come in pieces, without its length said before.

    Args:
        request: Whose body.
        max_bytes: How large it may be.
        take: Told of the size of each piece; may raise.
    """
    try:
        async with asyncio.timeout(WITHIN_S):
            return await _whole(request, max_bytes, take)
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(
            text=f"the body did not come whole within {WITHIN_S:g} s"
        ) from error


async def _whole(request: web.Request, max_bytes: int, take: Callable[[int], None]) -> bytes:
    body = bytearray()
    try:
        async for piece in request.content.iter_any():
            _check_size(len(body) + len(piece), max_bytes)
            take(len(piece))
            body += piece
    # Whoever has left is answered as well, for the count of requests.
    except (web.RequestPayloadError, HttpProcessingError, OSError) as error:
        raise BadRequestError("the body did not come whole, or not as its headers say") from error
    return bytes(body)


def _check_size(n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise web.HTTPRequestEntityTooLarge(max_bytes, n_bytes)
