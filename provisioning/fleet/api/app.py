"""Put the API together, and serve it.

In:   a Source, Commands, Tokens and Metrics.
Out:  an aiohttp application; `bound` and `serving` listen. Writes need a token, most reads do not.
Fails with ListenError.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import web

from provisioning.fleet.api.admission import Admission
from provisioning.fleet.api.audit import Audit
from provisioning.fleet.api.bodies import check_body
from provisioning.fleet.api.errors import ListenError
from provisioning.fleet.api.feed import Feed
from provisioning.fleet.api.idempotency import Answers
from provisioning.fleet.api.inventory import Directory, LogOf
from provisioning.fleet.api.operations import OPERATIONS, Operation
from provisioning.fleet.api.ports import Commands, Orphans, Reports, Source
from provisioning.fleet.api.problems import Handler, http_log, problems
from provisioning.fleet.api.reads import Reads
from provisioning.fleet.api.requests import check_host, check_query
from provisioning.fleet.api.token import Tokens
from provisioning.fleet.api.writes import Writes
from provisioning.fleet.clock import Clock
from provisioning.fleet.metrics import Metrics
from provisioning.fleet.units import netloc

log = logging.getLogger("provisioning.fleet.api")

SHUTDOWN_S = 0.5
LOOPBACK_BY_WILDCARD = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not listened on here
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
        reports: Reports,
        orphans: Orphans,
        fleet: str,
        version: str,
        audit_path: Path | None = None,
        own_names: Collection[str] = (),
        log_of: LogOf = lambda *_: "",
    ) -> None:
        """Put the operations together.

        Args:
            source: What is told.
            commands: What carries orders out.
            tokens: Who may order.
            metrics: Count requests, and are served.
            clock: For ages.
            reports: Gives what was last heard of each node.
            orphans: Lists and deletes what runs without a record.
            fleet: Its name, as its specification has to have it.
            version: Of the release.
            audit_path: Where orders, and who is turned away, are written down; None: nowhere.
            own_names: Hosts that requests may be for, besides addresses and `localhost`.
            log_of: Tells where an instance's log is on a node.

        Raises:
            AuditFileError: The file cannot be written.
        """
        directory = Directory(log_of)
        self.feed = Feed(source, directory, clock)
        self._metrics = metrics
        self._own_names = own_names
        audit = Audit(audit_path, clock)
        self.admission = Admission(tokens, audit, clock)
        self._reads = Reads(
            source,
            directory,
            self.feed,
            metrics,
            clock,
            reports=reports,
            orphans=orphans,
            is_holders=self.admission.is_holders,
            fleet=fleet,
            version=version,
        )
        self._writes = Writes(commands, orphans, directory, audit, Answers(clock))

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
        self._metrics.api_requests.labels(name, response.status).inc()
        return response

    def _handler(self, operation: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            check_host(request, self._own_names)
            who = ""
            if operation.needs_token:
                who = await self.admission.holder(operation, request)
            if operation.is_write:
                return await self._writes.carry_out(operation, request, who)
            check_query(operation, request)
            check_body(operation, request)
            read: Handler = getattr(self._reads, operation.name)
            return await read(request)

        return handle


@asynccontextmanager
async def serving(api: Api, sockets: Sequence[socket.socket]) -> AsyncIterator[str]:
    """Serve the API at what `bound` gave until the context ends; gives its base URL.

    Raises:
        ListenError: Somebody else has begun to listen there.
    """
    runner = web.AppRunner(
        api.application(),
        access_log=None,
        logger=http_log,
        shutdown_timeout=SHUTDOWN_S,
        handle_signals=False,
    )
    await runner.setup()
    telling = asyncio.create_task(api.feed.run())
    telling.add_done_callback(_log_fault)
    counting = asyncio.create_task(api.admission.run())
    try:
        for one in sockets:
            await _listen(runner, one)
        yield url_of(sockets)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        await runner.cleanup()
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)


def _log_fault(telling: asyncio.Task[None]) -> None:
    """Log what ended the telling of changes, if it was not us."""
    if not telling.cancelled() and (error := telling.exception()):
        log.error("changes are not told any more: restart the provisioner", exc_info=error)


@contextmanager
def bound(host: str, port: int) -> Iterator[Sequence[socket.socket]]:
    """Give sockets at every address of a host, all with one port; the system's choice for port 0.

    Whose port it is is known before anybody is told of it, and nobody is answered yet.

    Raises:
        ListenError: They cannot be had.
    """
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        try:
            for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                one = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                chosen = sockets[0].getsockname()[1] if sockets else port
                one.bind((address[0], chosen, *address[2:]))
                sockets.append(one)
        except OSError as error:
            raise _listen_error(host, port, error) from error
        yield sockets


def url_of(sockets: Sequence[socket.socket]) -> str:
    """Return the URL at which sockets are reached from this machine."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://{netloc(LOOPBACK_BY_WILDCARD.get(host, host), port)}"


async def _listen(runner: web.AppRunner, one: socket.socket) -> None:
    host, port = one.getsockname()[:2]
    try:
        await web.SockSite(runner, one).start()
    except OSError as error:
        raise _listen_error(host, port, error) from error


def _listen_error(host: str, port: int, error: OSError) -> ListenError:
    return ListenError(
        f"cannot listen on {netloc(host, port)} for the API: {error.strerror}; "
        "choose another with --web.listen-address, port 0 for any"
    )
