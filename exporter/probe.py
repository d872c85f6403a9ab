"""Answer /probe?target=…: poll one instance of the inventory now, as blackbox_exporter does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from exporter.exposition import Format, assemble, instance_chunks
from exporter.inventory.checks import shown
from exporter.steps import batched, run_in_steps

if TYPE_CHECKING:
    from collections.abc import Generator

    from exporter.poller import Poller
    from exporter.scrape_target import ScrapeTarget
    from ollama_fleet.clock import Clock

MAX_PROBES = 10
"""At once; each takes a connection of its own, for poll.metrics-timeout at most."""
RETRY_AFTER_S = 1
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OUTCOME = """\
# HELP probe_success 1 if the instance is healthy by this poll.
# TYPE probe_success gauge
probe_success {success}
# HELP probe_duration_seconds Duration of this poll.
# TYPE probe_duration_seconds gauge
probe_duration_seconds {duration_s:.6f}
"""
"""The names that alerts and boards for blackbox_exporter know."""


class Prober:
    """Polls instances of the inventory when asked; what the regular polls know stays as it is."""

    def __init__(self, poller: Poller, clock: Clock) -> None:
        self._poller = poller
        self._clock = clock
        self._n_running = 0

    def add_to(self, app: web.Application) -> None:
        """Add the route to an application."""
        app.add_routes([web.get("/probe", self._probe)])

    async def _probe(self, request: web.Request) -> web.Response:
        text = request.query.get("target", "")
        if not text:
            return web.Response(status=400, text="target is missing: /probe?target=ID-or-URL\n")
        scrape_target = await self._found(text)
        if scrape_target is None:
            words = f"No instance of the inventory has the id or URL {shown(text)}.\n"
            return web.Response(status=404, text=words)
        if self._n_running >= MAX_PROBES:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            words = f"{MAX_PROBES} probes run already. Try again later.\n"
            return web.Response(status=503, headers=headers, text=words)
        self._n_running += 1
        try:
            body = await self._polled(scrape_target)
        finally:
            self._n_running -= 1
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _found(self, text: str) -> ScrapeTarget | None:
        if (known := self._poller.scrape_targets.get(text)) is not None:
            return known
        found, _ = await run_in_steps(self._search(text.rstrip("/")))
        return found

    def _search(self, url: str) -> Generator[None, None, ScrapeTarget | None]:
        for some in batched(tuple(self._poller.scrape_targets.values())):
            for scrape_target in some:
                if scrape_target.target.url == url:
                    return scrape_target
            yield
        return None

    async def _polled(self, scrape_target: ScrapeTarget) -> bytes:
        started_s = self._clock.monotonic_s()
        row = await scrape_target.probe()
        duration_s = self._clock.monotonic_s() - started_s
        now_s = self._clock.unix_s()
        exposition = assemble(instance_chunks([row], now_s=now_s), now_s)
        outcome = OUTCOME.format(success=int(row.is_up is True), duration_s=duration_s)
        return b"".join([*exposition.parts(Format.TEXT), outcome.encode()])
