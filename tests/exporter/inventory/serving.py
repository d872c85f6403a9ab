"""An inventory server on loopback whose next answers a test sets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Answer:
    """What the server says until told otherwise."""

    body: bytes = b"[]"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = None
    hangs_before_s: float = 0.0
    closes_after_bytes: int | None = None


@dataclass
class InventoryServer:
    """Answers every GET with `answer`, or as that decides; remembers each request's headers."""

    answer: Answer | Callable[[web.Request], Answer] = field(default_factory=Answer)
    requests: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/instances"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        answer = self.answer if isinstance(self.answer, Answer) else self.answer(request)
        self.requests.append(dict(request.headers))
        self.paths.append(request.path_qs)
        if answer.hangs_before_s:
            await asyncio.sleep(answer.hangs_before_s)
        headers = dict(answer.headers)
        if answer.etag is not None:
            headers["ETag"] = answer.etag
            if request.headers.get("If-None-Match") == answer.etag:
                return web.Response(status=304, headers=headers)
        if answer.closes_after_bytes is not None:
            return await self._break_off(request, answer)
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    async def _break_off(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(answer.body))})
        await response.prepare(request)
        await response.write(answer.body[: answer.closes_after_bytes])
        assert request.transport is not None
        request.transport.close()
        return response
