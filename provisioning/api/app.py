"""Put the API together, and serve it.

In:   a Source, Commands, Tokens and Metrics.
Out:  an aiohttp application; server.py serves it. Writes need a token, most reads do not.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from aiohttp import web

from ollama_fleet.clock import Clock
from provisioning.api.auth import Admission, Audit, Tokens
from provisioning.api.commands import Answers, Commands, Orphans, Reports, Source
from provisioning.api.handlers import Reads, Writes
from provisioning.api.inventory import Directory, Feed, LogOf
from provisioning.api.requests import Handler, check_body, check_host, check_query, problems
from provisioning.api.routes import OPERATIONS, Operation
from provisioning.metrics import Metrics

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
        self.metrics = metrics
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
        self.metrics.api_requests.labels(name, response.status).inc()
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
