"""Read the body of an HTTP message, and no more of it than its reader takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import StreamReader


class BodyTooLargeError(Exception):
    """A body is larger than its reader takes."""


async def read_body(content: StreamReader, max_bytes: int) -> bytes:
    """Return a body of at most `max_bytes`.

    Raises:
        BodyTooLargeError: It is larger; the rest was not read.
    """
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise BodyTooLargeError(f"more than {max_bytes:,} bytes")
    return bytes(body)
