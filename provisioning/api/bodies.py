"""Read the bodies of requests, within bounds.

In:   a request, and what its operation takes.
Out:  its body.
Fails with BadRequestError or web.HTTPException.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.http import HttpProcessingError

from provisioning.api.errors import BadRequestError
from provisioning.api.operations import JSON, Operation

WITHIN_S = 60.0
"""So long a body may take to come whole."""


def check_body(operation: Operation, request: web.Request) -> None:
    """Refuse a body that is too large or no JSON, before it is read."""
    _check_size(request.content_length or 0, operation.max_body_bytes)
    if operation.order is None and request.can_read_body:
        raise BadRequestError(f"{operation.method} {operation.path} takes no body")
    if operation.order is not None and request.content_type != JSON:
        raise web.HTTPUnsupportedMediaType(
            text=f"the body must be {JSON}, got {request.content_type}"
        )


async def body_of(request: web.Request, *, max_bytes: int) -> bytes:
    """Return the body; it may come in pieces, without its length said before."""
    try:
        async with asyncio.timeout(WITHIN_S):
            return await _whole(request, max_bytes)
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(
            text=f"the body did not come whole within {WITHIN_S:g} s"
        ) from error


async def _whole(request: web.Request, max_bytes: int) -> bytes:
    body = bytearray()
    try:
        async for piece in request.content.iter_any():
            _check_size(len(body) + len(piece), max_bytes)
            body += piece
    # Whoever has left is answered as well, for the count of requests.
    except (web.RequestPayloadError, HttpProcessingError, OSError) as error:
        raise BadRequestError("the body did not come whole, or not as its headers say") from error
    return bytes(body)


def _check_size(n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise web.HTTPRequestEntityTooLarge(max_bytes, n_bytes)
