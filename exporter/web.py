"""Serve /metrics, /instances, the health checks and all web pages over HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter import instances
from exporter.errors import ExporterError, os_reason
from exporter.exposition import Format
from exporter.inventory.checks import shown
from exporter.responses import UNHURRIED_S, Body, taken, takes_gzip
from exporter.selfmetrics import Refusal
from ollama_fleet.http_server import HttpServer, Limits, bind, is_ours
from ollama_fleet.urls import host_port_text, is_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from aiohttp.typedefs import Handler

    from exporter.instances import Filter
    from exporter.inventory import SourceState
    from exporter.landing import Landing
    from exporter.operations import Operations
    from exporter.poller import Poller
    from exporter.probe import Prober
    from exporter.publisher import Publisher
    from exporter.responses import ResponseSender
    from exporter.runbooks import Runbooks
    from exporter.scrape_target import ScrapeTarget
    from exporter.selfmetrics import SelfMetrics
    from exporter.ui.handlers import FleetUi
    from exporter.upstreams import Upstreams
    from exporter.websecurity import Guard
    from ollama_fleet.clock import Clock


log = logging.getLogger("exporter.web")
http_log = logging.getLogger("exporter.web.http")
"""Of the server below us."""
http_log.addFilter(is_ours)

SHUTDOWN_S = 1.0
"""Scrapers keep their connections open: closing must not wait for them to go."""

CONTENT_TYPES = {
    Format.TEXT: "text/plain; version=0.0.4; charset=utf-8",
    Format.OPENMETRICS: "application/openmetrics-text; version=1.0.0; charset=utf-8",
}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""On every response, so that a text out of the fleet cannot become a script."""


class Web:
    """The web server and its routes."""

    def __init__(
        self,
        poller: Poller,
        publisher: Publisher,
        metrics: SelfMetrics,
        clock: Clock,
        fleet_ui: FleetUi,
        sender: ResponseSender,
        scrape_sender: ResponseSender,
        *,
        sources: Callable[[], Sequence[SourceState]] = tuple,
        landing: Landing,
        runbooks: Runbooks,
        guard: Guard | None = None,
        allowed_hosts: Sequence[str] = (),
        max_connections: int,
        telemetry_path: str = "/metrics",
        others: Sequence[Operations | Prober | Upstreams] = (),
    ) -> None:
        self._telemetry_path = telemetry_path
        self._others = others
        self._fleet_ui = fleet_ui
        self._poller = poller
        self._publisher = publisher
        self._metrics = metrics
        self._clock = clock
        self._sender = sender
        self._scrape_sender = scrape_sender  # so that no reader of lists keeps a scraper waiting
        self._one_list_at_a_time = asyncio.Lock()
        self._sources = sources
        self._landing = landing
        self._runbooks = runbooks
        self._guard = guard
        self._host_check = HostCheck(allowed_hosts)
        self._limits = Limits(
            max_connections, on_closed=metrics.connections_closed.inc, spared_s=UNHURRIED_S
        )
        self._stack = AsyncExitStack()

    async def start(
        self, addresses: Sequence[tuple[str, int]], sockets: Sequence[socket.socket] = ()
    ) -> list[tuple[str, int]]:
        """Listen at addresses, or at the sockets that systemd opened.

        Returns:
            Where; a port is a free one where 0 was asked for.

        Raises:
            ExporterError: An address is taken or not this machine's.
        """
        app = web.Application()
        app.add_routes(
            [
                web.get(self._telemetry_path, self._exposition),
                web.get("/instances", self._instances),
                web.get("/-/healthy", self._healthy),
                web.get("/-/ready", self._ready),
            ]
        )
        for pages in (self._landing, self._runbooks, self._fleet_ui, *self._others):
            pages.add_to(app)
        self._protect(app, [host for host, _ in addresses])
        try:
            return await self._listen(app, addresses, sockets)
        except BaseException:
            await self.close()
            raise

    def allow(self, hosts: Sequence[str]) -> None:
        """Take requests to these further host names from now on."""
        self._host_check.allow(hosts)

    async def _listen(
        self,
        app: web.Application,
        addresses: Sequence[tuple[str, int]],
        sockets: Sequence[socket.socket],
    ) -> list[tuple[str, int]]:
        bound = {one.getsockname()[:2]: [self._stack.enter_context(one)] for one in sockets}
        for host, port in () if sockets else addresses:
            with _refused(host, port):
                some = [self._stack.enter_context(one) for one in bind(host, port)]
            bound[host, some[0].getsockname()[1]] = some
        server = HttpServer(
            app,
            self._limits,
            log=log,
            http_log=http_log,
            shutdown_s=SHUTDOWN_S,
            tls=None if self._guard is None else self._guard.context,
        )
        self._stack.push_async_callback(server.close)
        with _refused(*next(iter(bound))):
            await server.start([one for some in bound.values() for one in some])
        return list(bound)

    def _protect(self, app: web.Application, hosts: Iterable[str]) -> None:
        for host in hosts:
            self._host_check.listen_at(host)
        refused, guard = self._metrics.requests_refused, self._guard
        self._host_check.protect(
            app,
            is_needed=lambda: guard is None or not guard.is_closed,
            on_refusal=refused[Refusal.HOST].inc,
        )
        if guard is not None:
            guard.protect(app, on_busy=refused[Refusal.PASSWORDS].inc)
        app.on_response_prepare.append(_add_headers)

    async def close(self) -> None:
        """Stop listening; answers under way have a second to end."""
        await self._stack.aclose()

    async def _exposition(self, request: web.Request) -> web.StreamResponse:
        self._landing.scraped()
        return await self._scrape_sender.send(request, partial(self._exposition_body, request))

    async def _exposition_body(self, request: web.Request) -> Body:
        """Return the edition, with the exporter's own series as they are now."""
        format_ = preferred_format(request.headers.get("Accept", ""))
        own = self._own_series(format_)
        headers = {"Content-Type": CONTENT_TYPES[format_], "Vary": "Accept, Accept-Encoding"}
        rendered_scrape = self._publisher.rendered_scrape
        if rendered_scrape is None:
            return Body(headers, [own])
        if not takes_gzip(request.headers.get("Accept-Encoding", "")):
            return Body(headers, [*rendered_scrape.plain(format_), own])
        headers["Content-Encoding"] = "gzip"
        return Body(headers, await rendered_scrape.gzipped(format_, own))

    def _own_series(self, format_: Format) -> bytes:
        is_text = format_ is Format.TEXT
        return (generate_latest if is_text else generate_openmetrics)(self._metrics.registry)

    async def _instances(self, request: web.Request) -> web.StreamResponse:
        try:
            wanted = instances.parse_filter(request.query)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        return await self._sender.send(request, partial(self._instances_body, wanted))

    async def _instances_body(self, wanted: Filter) -> Body:
        async with self._one_list_at_a_time:
            # Looked at in the thread: 100,000 instances would hold the loop.
            seen = (
                (scrape_target.row, scrape_target.last_failure)
                for scrape_target in self._scrape_targets(wanted)
            )
            now_s = self._clock.unix_s()
            body = await asyncio.to_thread(instances.to_json, seen, wanted, now_s=now_s)
        return Body({"Content-Type": "application/json"}, [body], own_bytes=len(body))

    def _scrape_targets(self, wanted: Filter) -> Sequence[ScrapeTarget]:
        """Return where to look for what is wanted; one instance need not be searched for."""
        scrape_targets = self._poller.scrape_targets
        if wanted.id is None:
            return tuple(scrape_targets.values())
        return [scrape_targets[wanted.id]] if wanted.id in scrape_targets else ()

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="The exporter runs.\n")

    async def _ready(self, _: web.Request) -> web.Response:
        never_read = [
            f"inventory source {state.source} was never read: {state.last_error}"
            for state in self._sources()
            if not state.last_success_s
        ]
        if self._publisher.rendered_scrape is not None:
            lines = ["Every instance that is known has been polled.", *never_read]
            return web.Response(text="\n".join([*lines, ""]))
        helps = ["--inventory.allow-partial true publishes the fleet without it"]
        unended = ["the first whole cycle over the fleet has not ended"]
        reasons = [*never_read, *helps] if never_read else unended
        return web.Response(text="Not ready: " + "\n".join([*reasons, ""]), status=503)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add security headers, unless the web configuration sets them."""
    for name, text in HEADERS.items():
        response.headers.setdefault(name, text)


@contextmanager
def _refused(host: str, port: int) -> Iterator[None]:
    """Translate the error of an address that cannot be listened at."""
    try:
        yield
    except OSError as error:
        what = f"cannot listen on {host_port_text(host, port)}: {os_reason(error)}"
        raise ExporterError(f"{what}; choose another --web.listen-address") from error


def preferred_format(accept: str) -> Format:
    """Return OpenMetrics for scrapers whose Accept header takes the version that we write."""
    is_taken = any(
        name == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0"
        for name, parameters in taken(accept)
    )
    return Format.OPENMETRICS if is_taken else Format.TEXT


ANY = "*"
OPEN_PATHS = ("/-/healthy", "/-/ready")
"""Probes ask under any name; there is nothing to be read."""
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
"""Nobody can register names that end so; Ollama takes the same."""
MAX_LOGGED = 10
"""Refused names that are logged, each once."""
HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:/@]*))(?::\d*)?")


class HostCheck:
    """Takes requests to addresses, to local names and to those that are allowed."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._always = {socket.gethostname().lower()}
        self._logged: set[str] = set()
        self.allow(allowed)

    def allow(self, names: Iterable[str]) -> None:
        """Take requests to these names, and to those that always work, and no others."""
        self._allowed = {*self._always, *names}

    def listen_at(self, host: str) -> None:
        """Take requests to the name that we listen at, always."""
        self._always.add(host.lower())
        self._allowed.add(host.lower())

    def protect(
        self,
        app: web.Application,
        *,
        is_needed: Callable[[], bool],
        on_refusal: Callable[[], object],
    ) -> None:
        """Let the application answer requests to our names only, while that is needed."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            hosts = request.headers.getall("Host", [])
            if request.path in OPEN_PATHS or not is_needed() or all(map(self.is_ours, hosts)):
                return await handler(request)
            on_refusal()
            return web.Response(status=403, text=self._refusal(", ".join(hosts)))

        app.middlewares.append(check)

    def is_ours(self, host: str) -> bool:
        """Return whether a Host header names us."""
        match = HOST.fullmatch(host.strip().lower())
        if ANY in self._allowed or match is None:
            return ANY in self._allowed
        name = (match[1] or match[2] or "").rstrip(".")
        return (
            "." not in name
            or name in self._allowed
            or name.endswith(LOCAL_SUFFIXES)
            or is_address(name)
        )

    def _refusal(self, host: str) -> str:
        helps = "--web.allowed-hosts NAME allows a further name, without its port"
        if host not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(host)
            log.warning("request refused host=%s: %s", shown(host), helps)
        return f"The exporter does not answer as {shown(host)}: {helps}.\n"
