"""Read requests within bounds and answer what is wrong with them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.http import HttpProcessingError

from ollama_fleet.http_server import is_ours
from provisioning.api.commands import ANY
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
from provisioning.api.routes import JSON, NOT_LEADING, PROBLEM, Operation, ProblemDocument
from provisioning.errors import ProvisionerError, SpecError, StoreUnavailableError, TooLargeError
from provisioning.spec.problems import did_you_mean

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


TAGS = re.compile(r'"[!#-~]*"(?:[ \t]*,[ \t]*"[!#-~]*")*')
"""One or more strong ETags."""
VERSION = re.compile(r'"(0|[1-9][0-9]{0,18})"')


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


def check_query(operation: Operation, request: web.Request) -> None:
    """Refuse what the operation does not know.

    Raises:
        BadRequestError: A parameter or its value is unknown, or it is there twice.
    """
    known = {one.name: one for one in operation.parameters if one.where == "query"}
    for name in request.query:
        if name not in known:
            near = did_you_mean(name, known)
            raise BadRequestError(f"unknown parameter {name!r} of {operation.path}{near}")
        values = request.query.getall(name)
        if len(values) > 1 and not known[name].is_repeatable:
            raise BadRequestError(f"parameter {name} is given {len(values)} times; give it once")
        choices = known[name].choices
        for value in values:
            if choices and value not in choices:
                seen = f"must be one of {', '.join(choices)}, got {value!r}"
                raise BadRequestError(f"parameter {name} {seen}")


def expected_version(request: web.Request) -> int | None:
    """Return the version that If-Match names, or ANY; None: it is not there.

    Raises:
        BadRequestError: It names none; to take it for absent would be to write unguarded.
        OutdatedError: It names one that was never in force, or several.
    """
    given = ", ".join(request.headers.getall("If-Match", ())).strip()
    if "If-Match" not in request.headers:
        return None
    if given == "*":
        return ANY
    if not TAGS.fullmatch(given):
        raise BadRequestError(
            "If-Match must be the ETag that GET /spec gave, in its quotes and without the W/ that "
            f'a compressing proxy puts before it, such as "7", or *, got {given[:80]!a}'
        )
    version = VERSION.fullmatch(given)
    if version is None:
        raise OutdatedError("If-Match must be the ETag that GET /spec gave")
    return int(version[1])


log = logging.getLogger("provisioning.api.requests")
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
