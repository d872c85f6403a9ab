"""Which requests are looked at: for whom they are, and how much of them is read.

In:   a request, and what its operation takes.
Out:  its body.
Fails with web.HTTPException or BadRequestError.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import web

from provisioning.fleet.api.errors import BadRequestError
from provisioning.fleet.api.operations import JSON, Operation


class MisdirectedError(web.HTTPClientError):
    """The request is for another server."""

    status_code = HTTPStatus.MISDIRECTED_REQUEST


def check_host(request: web.Request, own_names: Collection[str]) -> None:
    """Refuse a request for a host that is not ours.

    A page of a stranger's may give its own name our address, and so have a browser ask us for it.
    An address as a host cannot be had that way.
    """
    given = request.headers.get("Host")
    if given is None:
        return  # no browser
    host = _host(given)
    if host != "localhost" and host not in own_names and not _is_address(host):
        raise MisdirectedError(
            text=f"no host of ours is called {given[:255]!a}; ask by address, or give the name as "
            "the provisioner's --web.external-url"
        )


def _host(given: str) -> str:
    try:
        return urlsplit(f"//{given}").hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


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
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        _check_size(len(body), max_bytes)
    return bytes(body)


def _check_size(n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise web.HTTPRequestEntityTooLarge(max_bytes, n_bytes)
