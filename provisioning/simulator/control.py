"""The control API: the inventory, and faults to be injected and healed, over HTTP.

In:   a Fleet, its PublishedInventory, a Token, and UnitRoutes where units are hosted.
Out:  an aiohttp application; `running_control` serves it.
Reads are free; writes need `Authorization: Bearer TOKEN`. Errors are told as `answers` says.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

import msgspec
from aiohttp import ETag, web

from provisioning.simulator.answers import check_token, json_answer, problems
from provisioning.simulator.errors import ListenError
from provisioning.simulator.faults import read_fault
from provisioning.simulator.fleet import ActiveFault, Fleet
from provisioning.simulator.inventory import PublishedInventory
from provisioning.simulator.token import Token
from provisioning.simulator.unit_routes import UnitRoutes

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of a fault: room for 100,000 ids."""
SHUTDOWN_S = 0.5


class Control:
    """The handlers of the control API."""

    def __init__(
        self,
        fleet: Fleet,
        inventory: PublishedInventory,
        token: Token,
        *,
        units: UnitRoutes | None = None,
    ) -> None:
        self._fleet = fleet
        self._inventory = inventory
        self._token = token
        self._units = units

    def application(self) -> web.Application:
        """Return the application with all its routes."""
        app = web.Application(middlewares=[problems], client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/-/healthy", self.healthy),
                web.get("/instances", self.instances),
                web.get("/faults", self.faults),
                web.post("/faults", self.inject),
                web.delete("/faults", self.heal_all),
                web.delete("/faults/{id}", self.heal),
            ]
        )
        if self._units is not None:
            self._units.add_to(app)
        return app

    async def healthy(self, _request: web.Request) -> web.Response:
        """Answer as long as the process lives."""
        return web.Response(text="ok\n")

    async def instances(self, request: web.Request) -> web.Response:
        """Return the inventory, or 304 to a client that has this one already."""
        current = self._inventory.current
        known = request.if_none_match or ()
        is_known = any(tag.value in {current.etag, "*"} for tag in known)
        response = (
            web.Response(status=HTTPStatus.NOT_MODIFIED)
            if is_known
            else web.Response(body=current.body, content_type="application/json")
        )
        response.etag = ETag(current.etag)
        return response

    async def faults(self, _request: web.Request) -> web.Response:
        """Return the active faults, oldest first."""
        return json_answer([active.as_json() for active in self._fleet.faults])

    async def inject(self, request: web.Request) -> web.Response:
        """Inject the fault in the body; return it with the ids that it befalls."""
        check_token(request, self._token)
        active = self._fleet.inject(read_fault(_object(await request.read())))
        ids = [self._fleet.states[index].instance.id for index in sorted(active.indices)]
        return json_answer(active.as_json() | {"instance_ids": ids}, status=HTTPStatus.CREATED)

    async def heal_all(self, request: web.Request) -> web.Response:
        """Heal all faults; return those that ended."""
        check_token(request, self._token)
        return _healed(self._fleet.heal())

    async def heal(self, request: web.Request) -> web.Response:
        """Heal one fault; return it."""
        check_token(request, self._token)
        return _healed(self._fleet.heal(request.match_info["id"]))


@asynccontextmanager
async def running_control(control: Control, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve the control API until the context ends; gives its base URL.

    Raises:
        ListenError: The address cannot be listened on.
    """
    # Streams would outlive clients that have hung up, were their handlers not cancelled.
    runner = web.AppRunner(
        control.application(),
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
        handle_signals=False,
        handler_cancellation=True,
    )
    await runner.setup()
    try:
        await _listen(runner, host, port)
        yield _url(runner.addresses[0])
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ListenError(
            f"cannot listen on {host}:{port} for the control API: {_reason(error)}; "
            "choose another with --control.listen-address, port 0 for any"
        ) from error


def _reason(error: OSError) -> str:
    """Return what the system says; the event loop's own words repeat the address."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _url(address: tuple[str, int] | Sequence[object]) -> str:
    host, port = address[0], address[1]
    return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"


def _object(body: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text=f"expected a JSON object: {error}") from error


def _healed(healed: Sequence[ActiveFault]) -> web.Response:
    return json_answer({"healed": [active.as_json() for active in healed]})
