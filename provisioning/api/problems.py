"""Every error as a problem document (RFC 9457).

In:   what handlers and aiohttp raise.
Out:  responses of type application/problem+json.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web

from ollama_fleet.httplog import is_ours
from provisioning.api.errors import (
    BadRequestError,
    DeniedError,
    HalfDoneError,
    NotLeadingError,
    OutdatedError,
    RefusedError,
    TokenFileError,
    TooManyStreamsError,
    UnknownError,
)
from provisioning.api.forms import NOT_LEADING, ProblemDocument
from provisioning.api.openapi import PROBLEM
from provisioning.errors import (
    ProvisionerError,
    SpecError,
    StoreUnavailableError,
    TooLargeError,
)

log = logging.getLogger("provisioning.api")
http_log = logging.getLogger("provisioning.api.http")
"""Of the server below us."""

RETRY_AFTER_S = 2
UNTYPED = "about:blank"
"""Its status says all there is to go by."""
KEPT_HEADERS = ("Allow", "WWW-Authenticate")
STATUS_BY_ERROR: Mapping[type[ProvisionerError], HTTPStatus] = {
    BadRequestError: HTTPStatus.BAD_REQUEST,
    DeniedError: HTTPStatus.UNAUTHORIZED,
    UnknownError: HTTPStatus.NOT_FOUND,
    RefusedError: HTTPStatus.CONFLICT,
    OutdatedError: HTTPStatus.PRECONDITION_FAILED,
    SpecError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotLeadingError: HTTPStatus.SERVICE_UNAVAILABLE,
    HalfDoneError: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooManyStreamsError: HTTPStatus.SERVICE_UNAVAILABLE,
    TokenFileError: HTTPStatus.SERVICE_UNAVAILABLE,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

http_log.addFilter(is_ours)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem document."""
    try:
        return await handler(request)
    except ProvisionerError as error:
        return response_of(error)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        kept = {name: error.headers[name] for name in KEPT_HEADERS if name in error.headers}
        return _response(HTTPStatus(error.status), error.text or error.reason, headers=kept)
    except Exception:  # a client gets an answer, whatever we did wrong
        log.exception("%s %a fails", request.method, request.path)
        return _response(
            HTTPStatus.INTERNAL_SERVER_ERROR, "the provisioner's log says why", headers={}
        )


def response_of(error: ProvisionerError) -> web.Response:
    """Return the answer to a request that failed with one of our errors."""
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("a request fails: %s", error, exc_info=error)
    headers = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _response(
        status,
        str(error),
        type_=NOT_LEADING if isinstance(error, NotLeadingError) else UNTYPED,
        problems=error.problems if isinstance(error, SpecError) else (),
        leader=(error.leader or "") if isinstance(error, NotLeadingError) else "",
        headers=headers,
    )


def status_of(error: ProvisionerError) -> HTTPStatus:
    """Return the status that tells a client what it can do about an error."""
    for kind in type(error).__mro__:
        if kind in STATUS_BY_ERROR:
            return STATUS_BY_ERROR[kind]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _response(
    status: HTTPStatus,
    detail: str,
    *,
    type_: str = UNTYPED,
    problems: tuple[str, ...] = (),
    leader: str = "",
    headers: Mapping[str, str],
) -> web.Response:
    document = ProblemDocument(type_, status.phrase, status.value, detail, problems, leader)
    return web.Response(
        status=status, body=msgspec.json.encode(document), content_type=PROBLEM, headers=headers
    )
