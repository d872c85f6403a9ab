"""Put the API together, and serve it.

In:   a Source, Commands, Tokens and Metrics.
Out:  an aiohttp application; `serving` listens. Reads are free, writes need a token.
Fails with ListenError.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from provisioning.fleet.api.audit import Audit
from provisioning.fleet.api.errors import BadRequestError, ListenError
from provisioning.fleet.api.feed import Feed
from provisioning.fleet.api.idempotency import Answers
from provisioning.fleet.api.inventory import Directory
from provisioning.fleet.api.operations import JSON, MAX_SPEC_BYTES, OPERATIONS, Operation
from provisioning.fleet.api.ports import Commands, Source
from provisioning.fleet.api.problems import Handler, problems
from provisioning.fleet.api.reads import Reads, check_query
from provisioning.fleet.api.token import Tokens
from provisioning.fleet.api.writes import Writes
from provisioning.fleet.clock import Clock
from provisioning.fleet.metrics import Metrics
from provisioning.fleet.units import netloc

log = logging.getLogger("provisioning.fleet.api")

SHUTDOWN_S = 0.5
NAME_BY_ROUTE = {(one.method, one.path): one.name for one in OPERATIONS}


class Api:
    """The operations, and what they need."""

    def __init__(
        self,
        source: Source,
        commands: Commands,
        tokens: Tokens,
        metrics: Metrics,
        clock: Clock,
        *,
        version: str,
        audit_path: Path | None = None,
    ) -> None:
        directory = Directory()
        self.feed = Feed(source, directory, clock)
        self._metrics = metrics
        self._reads = Reads(source, directory, self.feed, metrics, clock, version=version)
        self._writes = Writes(commands, directory, tokens, Audit(audit_path, clock), Answers(clock))

    def application(self) -> web.Application:
        """Return the application with all its routes."""
        app = web.Application(middlewares=[self._counted, problems], client_max_size=MAX_SPEC_BYTES)
        for operation in OPERATIONS:
            app.router.add_route(operation.method, operation.path, self._handler(operation))
        return app

    @web.middleware
    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        resource = request.match_info.route.resource
        path = resource.canonical if resource else ""
        name = NAME_BY_ROUTE.get((request.method, path), "none")
        self._metrics.api_requests.labels(name, response.status).inc()
        return response

    def _handler(self, operation: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            check_query(operation, request)
            check_body(operation, request)
            if operation.is_write:
                return await self._writes.carry_out(operation, request)
            read: Handler = getattr(self._reads, operation.name)
            return await read(request)

        return handle


def check_body(operation: Operation, request: web.Request) -> None:
    """Refuse a body that is too large or no JSON, before it is read."""
    length = request.content_length or 0
    if length > operation.max_body_bytes:
        raise web.HTTPRequestEntityTooLarge(operation.max_body_bytes, length)
    if operation.order is None and request.can_read_body:
        raise BadRequestError(f"{operation.method} {operation.path} takes no body")
    if operation.order is not None and request.content_type != JSON:
        raise web.HTTPUnsupportedMediaType(
            text=f"the body must be {JSON}, got {request.content_type}"
        )


@asynccontextmanager
async def serving(api: Api, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve the API until the context ends; gives its base URL.

    Raises:
        ListenError: The address cannot be listened on.
    """
    runner = web.AppRunner(
        api.application(), access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False
    )
    await runner.setup()
    telling = asyncio.create_task(api.feed.run())
    telling.add_done_callback(_log_fault)
    try:
        await _listen(runner, host, port)
        bound_host, bound_port = runner.addresses[0][:2]
        yield f"http://{netloc(bound_host, bound_port)}"
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        await runner.cleanup()


def _log_fault(telling: asyncio.Task[None]) -> None:
    """Log what ended the telling of changes, if it was not us."""
    if not telling.cancelled() and (error := telling.exception()):
        log.error("changes are not told any more: restart the provisioner", exc_info=error)


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ListenError(
            f"cannot listen on {netloc(host, port)} for the API: {_reason(error)}; "
            "choose another with --web.listen-address, port 0 for any"
        ) from error


def _reason(error: OSError) -> str:
    """Return what the system says; the event loop's own words repeat the address."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)
