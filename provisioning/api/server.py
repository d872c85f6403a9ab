"""Serve the API: admit, answer, count and audit each request."""

from __future__ import annotations

import logging
import socket
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, asynccontextmanager, contextmanager
from http import HTTPStatus
from pathlib import Path

import msgspec
from aiohttp import web

from ollama_fleet.clock import Clock
from ollama_fleet.http_server import HttpServer, Limits, bind, is_ours
from ollama_fleet.tokens import TokenFileError, Tokens
from ollama_fleet.urls import host_port_text
from provisioning.api.auth import Audit, required_holder
from provisioning.api.commands import Commands
from provisioning.api.handlers import (
    Reads,
    Writes,
    body_of,
    check_body,
    check_host,
    check_query,
    json_of,
)
from provisioning.api.inventory import InventoryBuilder, LogOf
from provisioning.api.routes import (
    NOT_LEADING,
    OPERATIONS,
    PROBLEM,
    Operation,
    ProblemDocument,
    ReloadDocument,
)
from provisioning.cache import Cache
from provisioning.errors import (
    BadRequestError,
    ConflictError,
    DeniedError,
    HalfDoneError,
    ListenError,
    NotFoundError,
    NotLeadingError,
    OutdatedError,
    ProvisionerError,
    SpecError,
    StoreUnavailableError,
    TooLargeError,
)
from provisioning.metrics import Metrics

log = logging.getLogger("provisioning.api.server")
http_log = logging.getLogger("provisioning.api.http")
"""Of the server below us."""
http_log.addFilter(is_ours)

SHUTDOWN_S = 0.5
MAX_CONNECTIONS = 500
"""Most fleets have a few exporters and people."""
LOOPBACK_BY_WILDCARD = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not listened on here
NAME_BY_ROUTE = {(one.method, one.path): one.name for one in OPERATIONS}
RETRY_AFTER_S = 2
UNTYPED = "about:blank"
"""Its status says all there is to go by."""
KEPT_HEADERS = ("Allow", "WWW-Authenticate")
STATUS_BY_ERROR: Mapping[type[Exception], HTTPStatus] = {
    BadRequestError: HTTPStatus.BAD_REQUEST,
    DeniedError: HTTPStatus.UNAUTHORIZED,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    OutdatedError: HTTPStatus.PRECONDITION_FAILED,
    SpecError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotLeadingError: HTTPStatus.SERVICE_UNAVAILABLE,
    HalfDoneError: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TokenFileError: HTTPStatus.SERVICE_UNAVAILABLE,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The operations, and what they need."""

    def __init__(
        self,
        cache: Cache,
        commands: Commands,
        tokens: Tokens,
        metrics: Metrics,
        clock: Clock,
        *,
        fleet: str,
        version: str,
        audit_path: Path | None = None,
        own_names: Collection[str] = (),
        log_of: LogOf = lambda *_: "",
        reload: Callable[[], ReloadDocument] = lambda: ReloadDocument(()),
    ) -> None:
        """Put the operations together.

        Requests may be for `own_names` besides addresses and `localhost`; without `audit_path`
        nothing is recorded.

        Raises:
            AuditFileError: The file cannot be written.
        """
        builder = InventoryBuilder(log_of)
        self.metrics = metrics
        self._own_names = own_names
        self._tokens = tokens
        self._audit = Audit(audit_path, clock)
        self._reads = Reads(
            cache, builder, commands, metrics, clock, fleet=fleet, version=version, reload=reload
        )
        self._writes = Writes(commands, builder, clock)

    def application(self) -> web.Application:
        """Return the application with all its routes."""
        app = web.Application(middlewares=[self._counted, problems])
        for operation in OPERATIONS:
            app.router.add_route(operation.method, operation.path, self._handler(operation))
        return app

    @web.middleware
    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        resource = request.match_info.route.resource
        path = resource.canonical if resource else ""
        name = NAME_BY_ROUTE.get((request.method, path), "none")
        self.metrics.api_requests.labels(name, response.status).inc()
        return response

    def _handler(self, operation: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            check_host(request, self._own_names)
            who = await self._holder(operation, request) if operation.needs_token else ""
            if operation.is_write:
                return await self._write(operation, request, who)
            check_query(operation, request)
            check_body(operation, request)
            read: Handler = getattr(self._reads, operation.name)
            return await read(request)

        return handle

    async def _holder(self, operation: Operation, request: web.Request) -> str:
        """Return whose token a request carries; of one without, nothing is read."""
        try:
            return required_holder(self._tokens, request.headers)
        except DeniedError as error:
            await self._audit.note_denied(operation, request, str(error))
            raise

    async def _write(self, operation: Operation, request: web.Request, who: str) -> web.Response:
        """Carry out a write of the one who asks for it, and record it."""
        body = b""
        status, fault = HTTPStatus.INTERNAL_SERVER_ERROR, "an error of the provisioner itself"
        try:
            check_query(operation, request)
            check_body(operation, request)
            body = await body_of(request, max_bytes=operation.max_body_bytes)
            answer = await self._writes.carry_out(operation, request, body)
            status, fault = operation.status, ""
        except ProvisionerError as error:
            status, fault = status_of(error), str(error)
            raise
        except web.HTTPException as error:
            status, fault = HTTPStatus(error.status), error.text or error.reason
            raise
        finally:
            await self._audit.note(operation, request, status, body=body, who=who, fault=fault)
        return json_of(answer, status=status)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem document."""
    try:
        return await handler(request)
    except (ProvisionerError, TokenFileError) as error:
        return _problem_of(error)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        kept = {name: error.headers[name] for name in KEPT_HEADERS if name in error.headers}
        return _problem(HTTPStatus(error.status), error.text or error.reason, headers=kept)
    except Exception:  # a client gets an answer, whatever we did wrong
        log.exception("request failed method=%s path=%a", request.method, request.path)
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the provisioner's log says why")


def _problem_of(error: Exception) -> web.Response:
    """Return the answer to a request that failed with one of our errors."""
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request failed: %s", error, exc_info=error)
    headers = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _problem(
        status,
        str(error),
        type_=NOT_LEADING if isinstance(error, NotLeadingError) else UNTYPED,
        problems=error.problems if isinstance(error, SpecError) else (),
        leader=(error.leader or "") if isinstance(error, NotLeadingError) else "",
        headers=headers,
    )


def status_of(error: Exception) -> HTTPStatus:
    """Return the status that tells a client what it can do about an error."""
    for kind in type(error).__mro__:
        if kind in STATUS_BY_ERROR:
            return STATUS_BY_ERROR[kind]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _problem(
    status: HTTPStatus,
    detail: str,
    *,
    type_: str = UNTYPED,
    problems: tuple[str, ...] = (),
    leader: str = "",
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    document = ProblemDocument(type_, status.phrase, status.value, detail, problems, leader)
    return web.Response(
        status=status, body=msgspec.json.encode(document), content_type=PROBLEM, headers=headers
    )


@asynccontextmanager
async def serving(
    api: Api, sockets: Sequence[socket.socket], *, max_connections: int = MAX_CONNECTIONS
) -> AsyncIterator[str]:
    """Serve the API at what `bound` gave until the context ends; gives its base URL.

    Raises:
        ListenError: Somebody else has begun to listen there.
    """
    server = HttpServer(
        api.application(),
        Limits(max_connections, on_closed=api.metrics.api_closed_connections.inc),
        log=log,
        http_log=http_log,
        shutdown_s=SHUTDOWN_S,
    )
    try:
        try:
            await server.start(sockets)
        except OSError as error:
            host, port = sockets[0].getsockname()[:2]
            raise _listen_error(host, port, error) from error
        yield url_of(sockets)
    finally:
        await server.close()


@contextmanager
def bound(host: str, port: int) -> Iterator[Sequence[socket.socket]]:
    """Give sockets at every address of a host, all with one port; the system's choice for port 0.

    The port is ours from then on; nobody is answered yet.

    Raises:
        ListenError: They cannot be had.
    """
    try:
        sockets = bind(host, port)
    except OSError as error:
        raise _listen_error(host, port, error) from error
    with ExitStack() as stack:
        for one in sockets:
            stack.enter_context(one)
        yield sockets


def url_of(sockets: Sequence[socket.socket]) -> str:
    """Return the URL at which sockets are reached from this machine."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://{host_port_text(LOOPBACK_BY_WILDCARD.get(host, host), port)}"


def _listen_error(host: str, port: int, error: OSError) -> ListenError:
    return ListenError(
        f"cannot listen on {host_port_text(host, port)} for the API: {error.strerror}; "
        "choose another with --web.listen-address, port 0 for any"
    )
