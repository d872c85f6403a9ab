"""Serve the upstream list, from which gateways choose: /upstreams."""

from __future__ import annotations

import asyncio
import gzip
import math
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING

from aiohttp import ETag, web

from exporter.errors import PollError
from exporter.instances import engine_of
from exporter.model import Status
from exporter.responses import Body, takes_gzip
from exporter.selfmetrics import LeftOut
from exporter.steps import batched, run_in_steps
from ollama_fleet.http_server import etag_of
from ollama_fleet.upstreams import JSON, PATH, UpstreamList, ip_address

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from exporter.model import Target
    from exporter.poller import Poller
    from exporter.resolver import Resolver
    from exporter.responses import ResponseSender
    from exporter.selfmetrics import SelfMetrics
    from exporter.snapshot import Row
    from ollama_fleet.clock import Clock

GZIP_LEVEL = 1
LOOK_UP_S = 2.0
"""Names that take longer to resolve are left out until the next list."""


class RenderedList:
    """A list with its tag, compressed on first request."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.etag = etag_of(body)

    @cached_property
    def gzipped(self) -> bytes:
        """Return the list compressed."""
        return gzip.compress(self.body, GZIP_LEVEL, mtime=0)


class Upstreams:
    """Makes a list when somebody asks for it, at most once per poll interval."""

    def __init__(
        self,
        poller: Poller,
        resolver: Resolver,
        metrics: SelfMetrics,
        clock: Clock,
        sender: ResponseSender,
        *,
        max_age_s: Callable[[], float],
    ) -> None:
        self._poller = poller
        self._resolver = resolver
        self._metrics = metrics
        self._clock = clock
        self._sender = sender
        self._max_age_s = max_age_s
        self._rendered = RenderedList(b"")
        self._made_at_s = -math.inf
        self._making = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Serve the list."""
        app.router.add_get(PATH, self._get)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if not self._poller.has_seen_all.is_set() or self._poller.is_stale:
            reason = "No whole poll cycle over the fleet has ended lately; see /-/ready.\n"
            return web.Response(status=503, text=reason)
        rendered = await self._current()
        if any(tag.value in (rendered.etag, "*") for tag in request.if_none_match or ()):
            response = web.Response(status=304)
            response.etag = ETag(rendered.etag)
            return response
        is_gzip = takes_gzip(request.headers.get("Accept-Encoding", ""))
        return await self._sender.send(request, partial(_body, rendered, is_gzip=is_gzip))

    async def _current(self) -> RenderedList:
        async with self._making:
            if self._clock.monotonic_s() - self._made_at_s >= self._max_age_s():
                self._made_at_s = self._clock.monotonic_s()
                rows, _ = await run_in_steps(self._poller.rows())
                await self._look_up({row.target.host for row in rows})
                body, _ = await run_in_steps(self._list_steps(rows))
                if body != self._rendered.body:
                    self._rendered = await asyncio.to_thread(RenderedList, body)
            return self._rendered

    async def _look_up(self, hosts: set[str]) -> None:
        """Have the addresses of names at hand: polls over kept connections need none."""
        deadline_s = asyncio.get_running_loop().time() + LOOK_UP_S
        names = [host for host in hosts if ip_address(host) is None]
        # The first loop starts all look-ups, the second waits for them.
        for name in [name for name in names if self._resolver.known(name) is None]:
            with suppress(PollError):
                await self._resolver.resolve(name, deadline_s)

    def _list_steps(self, rows: Sequence[Row]) -> Generator[None, None, bytes]:
        """List the healthy instances in steps, and count those that cannot be listed."""
        upstreams, left_out = UpstreamList(), dict.fromkeys(LeftOut, 0)
        for some in batched(rows):
            for row in some:
                if row.status is not Status.HEALTHY:
                    continue
                address = self._address(row.target)
                if isinstance(address, LeftOut):
                    left_out[address] += 1
                else:
                    _add(upstreams, address, row)
            yield
        self._metrics.set_upstreams(len(upstreams), left_out)
        return upstreams.encode()

    def _address(self, target: Target) -> str | LeftOut:
        if target.tls:
            return LeftOut.HTTPS
        if target.path:
            return LeftOut.PATH
        address = ip_address(target.host) or self._resolver.known(target.host)
        return address or LeftOut.UNRESOLVED


def _add(upstreams: UpstreamList, address: str, row: Row) -> None:
    target, counters = row.target, row.counters
    loaded = counters.loaded
    if loaded is None:  # such a server has in memory what it serves
        served = () if row.reading is None else row.reading.verdict.values.models
        loaded = served or (counters.model,)
    upstreams.add(
        target.id,
        address,
        target.port,
        node=target.node,
        engine=engine_of(row),
        loaded=loaded,
        installed=counters.installed or (),
        developer=target.developer,
    )


async def _body(rendered: RenderedList, *, is_gzip: bool) -> Body:
    headers = {"Content-Type": JSON, "ETag": f'"{rendered.etag}"', "Vary": "Accept-Encoding"}
    if not is_gzip:
        return Body(headers, [rendered.body])
    body = await asyncio.to_thread(lambda: rendered.gzipped)
    return Body({**headers, "Content-Encoding": "gzip"}, [body])
