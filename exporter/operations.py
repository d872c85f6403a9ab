"""Answer POST /-/reload and GET /config."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import web

from exporter.config import effective
from exporter.errors import InputError
from ollama_fleet.tokens import TokenFileError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exporter.config import Config
    from exporter.websecurity import Guard
    from ollama_fleet.tokens import Tokens

log = logging.getLogger("exporter.web")

CLOSED = (
    "POST /-/reload is off: set web.token-file, or ask for passwords or certificates of clients "
    "with web.config.file. SIGHUP reloads as well.\n"
)


class Operations:
    """What operators ask of a running exporter."""

    def __init__(
        self,
        reread: Callable[[], Awaitable[str]],
        config: Callable[[], Config],
        *,
        tokens: Tokens | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._reread = reread
        self._config = config
        self._tokens = tokens
        self._guard = guard

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application."""
        app.add_routes([web.post("/-/reload", self._reload), web.get("/config", self._settings)])

    async def _settings(self, _: web.Request) -> web.Response:
        return web.json_response({"settings": effective(self._config())})

    async def _reload(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        try:
            done = await self._reread()
        except InputError as error:
            text = f"Not reloaded; the settings in force stay: {error}\n"
            return web.Response(status=500, text=text)
        return web.Response(text=f"Reloaded: {done}\n")

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a client that may not reload; None to one that may."""
        if "Origin" in request.headers:  # a form of another site, in a browser that has a password
            return web.Response(status=403, text="Browsers may not reload the exporter.\n")
        if self._guard is not None and self._guard.knows_clients:
            return None
        if self._tokens is None:
            return web.Response(status=403, text=CLOSED)
        try:
            holder = self._tokens.holder(request.headers.get("Authorization", ""))
        except TokenFileError as error:
            log.error("reload refused: %s", error)
            return web.Response(status=503, text="The token file cannot be read.\n")
        if holder is not None:
            return None
        text = (
            "POST /-/reload needs 'Authorization: Bearer TOKEN' with a token of web.token-file.\n"
        )
        return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"}, text=text)
