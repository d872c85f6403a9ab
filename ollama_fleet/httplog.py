"""Keep the faults of clients out of the log of an HTTP server: anybody could fill it with those."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    import logging

CLIENT_FAULTS = (web.RequestPayloadError, HttpProcessingError, ConnectionError)


def is_ours(record: logging.LogRecord) -> bool:
    """Return whether a record of aiohttp's server is of no fault of a client's; a filter."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, CLIENT_FAULTS)
