"""The control API: inventory, faults, and the instances that a provisioner starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType

import msgspec
from aiohttp import ETag, web

from ollama_fleet.tokens import TokenFileError, Tokens
from provisioning.simulator.errors import (
    FaultError,
    InventoryError,
    ListenError,
    NodeGoneError,
    PlaceTakenError,
    SimulationError,
    StartOrderError,
    UnknownFaultError,
)
from provisioning.simulator.faults import read_fault
from provisioning.simulator.fleet import ActiveFault, Fleet
from provisioning.simulator.hosting import ContainerHost, StartOrder
from provisioning.simulator.inventory import PublishedInventory
from provisioning.simulator.wire import NDJSON

OPTION = "--control.token-file"


def default_path() -> Path:
    """Return the default path of the token, in the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "ollama-fleet" / "simulate.token"


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STATUS_BY_ERROR: Mapping[type[Exception], HTTPStatus] = MappingProxyType(
    {
        FaultError: HTTPStatus.BAD_REQUEST,
        StartOrderError: HTTPStatus.BAD_REQUEST,
        UnknownFaultError: HTTPStatus.NOT_FOUND,
        PlaceTakenError: HTTPStatus.CONFLICT,
        InventoryError: HTTPStatus.INTERNAL_SERVER_ERROR,
        NodeGoneError: HTTPStatus.SERVICE_UNAVAILABLE,
        TokenFileError: HTTPStatus.SERVICE_UNAVAILABLE,
    }
)


def json_answer(value: object, *, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    """Return a value as JSON."""
    return web.Response(
        status=status, body=msgspec.json.encode(value), content_type="application/json"
    )


def check_token(request: web.Request, tokens: Tokens) -> None:
    """Let a request with the token pass, or raise HTTPUnauthorized."""
    if tokens.holder(request.headers.get("Authorization", "")) is None:
        raise web.HTTPUnauthorized(
            headers={"WWW-Authenticate": "Bearer"},
            text=f"writing needs 'Authorization: Bearer TOKEN'; it is in {tokens.path}",
        )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem document."""
    try:
        return await handler(request)
    except (SimulationError, TokenFileError) as error:
        every = error.problems if isinstance(error, FaultError) else None
        return _problem(STATUS_BY_ERROR[type(error)], str(error), problems=every)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        response = _problem(HTTPStatus(error.status), error.text or error.reason)
        for name in ("Allow", "WWW-Authenticate"):
            if name in error.headers:
                response.headers[name] = error.headers[name]
        return response


def _problem(
    status: HTTPStatus, detail: str, *, problems: Sequence[str] | None = None
) -> web.Response:
    document = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
    } | ({} if problems is None else {"problems": problems})
    return web.Response(
        status=status,
        body=msgspec.json.encode(document),
        content_type="application/problem+json",
    )


class ContainerRoutes:
    """The handlers."""

    def __init__(self, host: ContainerHost, tokens: Tokens) -> None:
        self._host = host
        self._tokens = tokens

    def add_to(self, app: web.Application) -> None:
        """Serve the containers as a part of an application."""
        app.add_routes(
            [
                web.get("/nodes/{node}/containers", self.containers),
                web.put("/nodes/{node}/containers/{name}", self.start),
                web.delete("/nodes/{node}/containers/{name}", self.remove),
                web.get("/nodes/{node}/changes", self.changes),
            ]
        )
        app.on_shutdown.append(self._shut_down)

    async def containers(self, request: web.Request) -> web.Response:
        """Return the node's containers."""
        node, fleet = request.match_info["node"], request.query.get("fleet")
        return json_answer(self._host.containers(node, fleet=fleet))

    async def start(self, request: web.Request) -> web.Response:
        """Start the container in the body."""
        check_token(request, self._tokens)
        order = _order(await request.read())
        self._host.start(request.match_info["node"], request.match_info["name"], order)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def remove(self, request: web.Request) -> web.Response:
        """End the container."""
        check_token(request, self._tokens)
        node, name = request.match_info["node"], request.match_info["name"]
        self._host.remove(node, name, fleet=_fleet(request))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def changes(self, request: web.Request) -> web.StreamResponse:
        """Stream the names of containers that end, until the node is gone or the process stops."""
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


def _order(body: bytes) -> StartOrder:
    try:
        return msgspec.json.decode(body, type=StartOrder)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text=f"expected a container to start: {error}") from error


def _fleet(request: web.Request) -> str:
    fleet = request.query.get("fleet")
    if fleet is None:
        raise web.HTTPBadRequest(text="whose container is it? Add ?fleet=NAME, as in its order")
    return fleet


MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of a fault: room for 100,000 ids."""
SHUTDOWN_S = 0.5


class Control:
    """The handlers of the control API."""

    def __init__(
        self,
        fleet: Fleet,
        inventory: PublishedInventory,
        tokens: Tokens,
        *,
        containers: ContainerRoutes | None = None,
    ) -> None:
        self._fleet = fleet
        self._inventory = inventory
        self._tokens = tokens
        self._containers = containers

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
        if self._containers is not None:
            self._containers.add_to(app)
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
        check_token(request, self._tokens)
        active = self._fleet.inject(read_fault(_object(await request.read())))
        ids = [self._fleet.states[index].instance.id for index in sorted(active.indices)]
        return json_answer(active.as_json() | {"instance_ids": ids}, status=HTTPStatus.CREATED)

    async def heal_all(self, request: web.Request) -> web.Response:
        """Heal all faults; return those that ended."""
        check_token(request, self._tokens)
        return _healed(self._fleet.heal())

    async def heal(self, request: web.Request) -> web.Response:
        """Heal one fault; return it."""
        check_token(request, self._tokens)
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
