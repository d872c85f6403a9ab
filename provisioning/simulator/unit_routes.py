"""The part of the control API that a provisioner orders units by.

In:   a UnitHost and a Token.
Out:  routes; `{node}` and `{name}` are free words, a node exists once it is named.

    GET    /nodes/{node}/units[?fleet=F]       what is there: a list of UnitStatus
    PUT    /nodes/{node}/units/{name}          UnitOrder: start it; nothing where it runs already
    DELETE /nodes/{node}/units/{name}?fleet=F  end and forget it; nothing where there is none
    GET    /nodes/{node}/changes?fleet=F       a stream of {"name": ...}, one a line: units that
                                               have ended, or run out of memory

400: it can never be; 409: its port is taken; 503: the node does not answer, as a fault has it.
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus

import msgspec
from aiohttp import web

from provisioning.simulator.answers import check_token, json_answer
from provisioning.simulator.hosting import UnitHost
from provisioning.simulator.orders import UnitOrder
from provisioning.simulator.token import Token
from provisioning.simulator.wire import NDJSON


class UnitRoutes:
    """The handlers."""

    def __init__(self, host: UnitHost, token: Token) -> None:
        self._host = host
        self._token = token

    def add_to(self, app: web.Application) -> None:
        """Serve the units as a part of an application."""
        app.add_routes(
            [
                web.get("/nodes/{node}/units", self.units),
                web.put("/nodes/{node}/units/{name}", self.start),
                web.delete("/nodes/{node}/units/{name}", self.remove),
                web.get("/nodes/{node}/changes", self.changes),
            ]
        )
        app.on_shutdown.append(self._shut_down)

    async def units(self, request: web.Request) -> web.Response:
        """Return the node's units."""
        node, fleet = request.match_info["node"], request.query.get("fleet")
        return json_answer(self._host.units(node, fleet=fleet))

    async def start(self, request: web.Request) -> web.Response:
        """Start the unit in the body."""
        check_token(request, self._token)
        order = _order(await request.read())
        self._host.start(request.match_info["node"], request.match_info["name"], order)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def remove(self, request: web.Request) -> web.Response:
        """End the unit."""
        check_token(request, self._token)
        node, name = request.match_info["node"], request.match_info["name"]
        self._host.remove(node, name, fleet=_fleet(request))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def changes(self, request: web.Request) -> web.StreamResponse:
        """Stream the names of units that end, until the node is gone or the process stops."""
        with self._host.listening(request.match_info["node"], fleet=_fleet(request)) as names:
            response = web.StreamResponse(headers={"Content-Type": NDJSON})
            await response.prepare(request)
            # The client may hang up at any moment; there is nobody to tell that then.
            with contextlib.suppress(ConnectionResetError):
                await _write_all(response, names)
        return response

    async def _shut_down(self, _app: web.Application) -> None:
        self._host.close()


async def _write_all(response: web.StreamResponse, names: asyncio.Queue[str | None]) -> None:
    while (name := await names.get()) is not None:
        await response.write(msgspec.json.encode({"name": name}) + b"\n")


def _order(body: bytes) -> UnitOrder:
    try:
        return msgspec.json.decode(body, type=UnitOrder)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text=f"expected a unit to start: {error}") from error


def _fleet(request: web.Request) -> str:
    fleet = request.query.get("fleet")
    if fleet is None:
        raise web.HTTPBadRequest(text="whose unit is it? Add ?fleet=NAME, as in its order")
    return fleet
