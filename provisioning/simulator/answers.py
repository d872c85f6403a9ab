"""What the control API's answers have in common: JSON, problem documents, the token for writes.

In:   values, errors of the simulation, requests.
Out:  aiohttp responses; errors as application/problem+json (RFC 9457), those of a fault with every
      problem in it under `problems`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType

import msgspec
from aiohttp import web

from provisioning.simulator.errors import (
    FaultError,
    InventoryError,
    NodeGoneError,
    OrderError,
    PlaceTakenError,
    SimulationError,
    UnknownFaultError,
)
from provisioning.simulator.token import Token

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STATUS_BY_ERROR: Mapping[type[SimulationError], HTTPStatus] = MappingProxyType(
    {
        FaultError: HTTPStatus.BAD_REQUEST,
        OrderError: HTTPStatus.BAD_REQUEST,
        UnknownFaultError: HTTPStatus.NOT_FOUND,
        PlaceTakenError: HTTPStatus.CONFLICT,
        InventoryError: HTTPStatus.INTERNAL_SERVER_ERROR,
        NodeGoneError: HTTPStatus.SERVICE_UNAVAILABLE,
    }
)


def json_answer(value: object, *, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    """Return a value as JSON."""
    return web.Response(
        status=status, body=msgspec.json.encode(value), content_type="application/json"
    )


def check_token(request: web.Request, token: Token) -> None:
    """Let a request with the token pass, or raise HTTPUnauthorized."""
    if not token.admits(request.headers.get("Authorization", "")):
        raise web.HTTPUnauthorized(
            headers={"WWW-Authenticate": "Bearer"},
            text=f"writing needs 'Authorization: Bearer TOKEN'; it is in {token.path}",
        )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem document."""
    try:
        return await handler(request)
    except SimulationError as error:
        every = error.problems if isinstance(error, FaultError) else None
        return _problem(STATUS_BY_ERROR[type(error)], str(error), problems=every)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        response = _problem(HTTPStatus(error.status), error.text or error.reason)
        for name in ("Allow", "WWW-Authenticate"):
            if name in error.headers:
                response.headers[name] = error.headers[name]
        return response


def _problem(
    status: HTTPStatus, detail: str, *, problems: Sequence[str] | None = None
) -> web.Response:
    document = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
    } | ({} if problems is None else {"problems": problems})
    return web.Response(
        status=status,
        body=msgspec.json.encode(document),
        content_type="application/problem+json",
    )
