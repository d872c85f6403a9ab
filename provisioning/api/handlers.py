"""Answer requests: check them within bounds, read the inventory, change the fleet."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import ETag, web
from aiohttp.http import HttpProcessingError

from ollama_fleet.clock import Clock
from ollama_fleet.http_server import etag_of
from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.tables import count_text
from ollama_fleet.urls import is_address
from provisioning.api import commands, inventory, routes
from provisioning.api.commands import ANY, Commands, check_name, plan_for
from provisioning.api.inventory import Inventory, InventoryBuilder, node_documents
from provisioning.api.routes import (
    AGE_HEADER,
    FILTERS,
    JSON,
    MAX_SPEC_BYTES,
    OPERATIONS,
    AssignRequest,
    DeleteOrphansRequest,
    Operation,
    ReloadDocument,
    ScaleRequest,
)
from provisioning.cache import Cache
from provisioning.errors import (
    BadRequestError,
    NotFoundError,
    OutdatedError,
    SpecError,
    StoreUnavailableError,
)
from provisioning.metrics import CONTENT_TYPE, Metrics
from provisioning.model import Instance
from provisioning.plan import Plan
from provisioning.spec.document import checked_fleet
from provisioning.spec.values import text_fault
from provisioning.store.base import View

WITHIN_S = 60.0
"""So long a body may take to come whole."""
TAGS = re.compile(r'"[!#-~]*"(?:[ \t]*,[ \t]*"[!#-~]*")*')
"""One or more strong ETags."""
VERSION = re.compile(r'"(0|[1-9][0-9]{0,18})"')

BodyT = TypeVar("BodyT")


# Checks


class MisdirectedError(web.HTTPClientError):
    """The request is for another server."""

    status_code = HTTPStatus.MISDIRECTED_REQUEST


def check_host(request: web.Request, own_names: Collection[str]) -> None:
    """Refuse a request for a host that is not ours.

    A foreign web page may give its own name our address, and so have a browser ask us for it.
    An address as a host cannot be had that way.
    """
    given = request.headers.get("Host")
    if given is None:
        return  # no browser
    host = _host(given)
    if host != "localhost" and host not in own_names and not is_address(host):
        raise MisdirectedError(
            text=f"no host of ours is called {given[:255]!a}; ask by address, or give the name as "
            "the provisioner's --web.external-url"
        )


def _host(given: str) -> str:
    try:
        return urlsplit(f"//{given}").hostname or ""
    except ValueError:
        return ""


def check_query(operation: Operation, request: web.Request) -> None:
    """Refuse what the operation does not know.

    Raises:
        BadRequestError: A parameter or its value is unknown, or it is there twice.
    """
    known = {one.name: one for one in operation.parameters if one.where == "query"}
    for name in request.query:
        if name not in known:
            near = did_you_mean(name, known)
            raise BadRequestError(f"unknown parameter {name!r} of {operation.path}{near}")
        values = request.query.getall(name)
        if len(values) > 1 and not known[name].is_repeatable:
            raise BadRequestError(f"parameter {name} is given {len(values)} times; give it once")
        choices = known[name].choices
        for value in values:
            if choices and value not in choices:
                seen = f"must be one of {', '.join(choices)}, got {value!r}"
                raise BadRequestError(f"parameter {name} {seen}")
            if not re.fullmatch(known[name].pattern or ".*", value, re.DOTALL):
                seen = f"must match {known[name].pattern}, got {value[:80]!a}"
                raise BadRequestError(f"parameter {name} {seen}")


def check_body(operation: Operation, request: web.Request) -> None:
    """Refuse a body that is too large or no JSON, before it is read."""
    _check_size(request.content_length or 0, operation.max_body_bytes)
    if operation.body is None and request.can_read_body:
        raise BadRequestError(f"{operation.method} {operation.path} takes no body")
    if operation.body is not None and request.content_type != JSON:
        raise web.HTTPUnsupportedMediaType(
            text=f"the body must be {JSON}, got {request.content_type}"
        )


async def body_of(request: web.Request, *, max_bytes: int) -> bytes:
    """Return the body; it may come in pieces, without its length said before."""
    try:
        async with asyncio.timeout(WITHIN_S):
            return await _whole(request, max_bytes)
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(
            text=f"the body did not come whole within {WITHIN_S:g} s"
        ) from error


async def _whole(request: web.Request, max_bytes: int) -> bytes:
    body = bytearray()
    try:
        async for piece in request.content.iter_any():
            _check_size(len(body) + len(piece), max_bytes)
            body += piece
    # Whoever has left is answered as well, for the count of requests.
    except (web.RequestPayloadError, HttpProcessingError, OSError) as error:
        raise BadRequestError("the body did not come whole, or not as its headers say") from error
    return bytes(body)


def _check_size(n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise web.HTTPRequestEntityTooLarge(max_bytes, n_bytes)


def decoded(body: bytes, kind: type[BodyT]) -> BodyT:
    """Return what a request's body says.

    Raises:
        BadRequestError: The body is no JSON.
        SpecError: It does not have the request's schema.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise SpecError("the request", [str(error)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the body is no JSON: {error}") from error


def expected_version(request: web.Request) -> int | None:
    """Return the version that If-Match names, or ANY; None: it is not there.

    Raises:
        BadRequestError: It names none; to take it for absent would be to write unguarded.
        OutdatedError: It names one that was never in force, or several.
    """
    given = ", ".join(request.headers.getall("If-Match", ())).strip()
    if "If-Match" not in request.headers:
        return None
    if given == "*":
        return ANY
    if not TAGS.fullmatch(given):
        raise BadRequestError(
            "If-Match must be the ETag that GET /spec gave, in its quotes and without the W/ that "
            f'a compressing proxy puts before it, such as "7", or *, got {given[:80]!a}'
        )
    version = VERSION.fullmatch(given)
    if version is None:
        raise OutdatedError("If-Match must be the ETag that GET /spec gave")
    return int(version[1])


# Reads


class Reads:
    """One object per API; a method for each operation that changes nothing."""

    def __init__(
        self,
        cache: Cache,
        builder: InventoryBuilder,
        commands: Commands,
        metrics: Metrics,
        clock: Clock,
        *,
        fleet: str,
        version: str,
        reload: Callable[[], ReloadDocument],
    ) -> None:
        self._cache = cache
        self._reload = reload
        self._builder = builder
        self._commands = commands
        self._metrics = metrics
        self._clock = clock
        self._fleet = fleet
        self._description = msgspec.json.encode(routes.description(OPERATIONS, version=version))

    async def instances(self, request: web.Request) -> web.Response:
        """Return the inventory, or 304 to a client that has this one already."""
        current = self._inventory()
        wanted = filters_of(request)
        has_details = request.query.get("details") == "1"
        if not wanted and not has_details:
            return self._tagged(request, current.body, current.etag)
        rows = inventory.filtered(current.rows.values(), wanted)
        if has_details:
            body = inventory.listed(row.details_json for row in rows)
        else:
            body = inventory.listed(row.entry_json for row in rows if row.details.url)
        return self._tagged(request, body, etag_of(body))

    async def instance(self, request: web.Request) -> web.Response:
        """Return one instance with its history."""
        id_ = request.match_info["id"]
        row = self._inventory().rows.get(id_)
        if row is None:
            raise NotFoundError(f"there is no instance {id_!r}; list them all to see")
        return self._aged(json_of(self._builder.document_of(row.stored.instance)))

    async def reload(self, _: web.Request) -> web.Response:
        """Read files again, and return what changed."""
        return json_of(self._reload())

    async def events(self, request: web.Request) -> web.Response:
        """Return what has happened to instances lately; of 10,000 it takes a while to find."""
        since_s = float(request.query.get("since", "0"))
        rows = inventory.filtered(self._inventory().rows.values(), filters_of(request))
        found = await asyncio.to_thread(inventory.latest_events, rows, since_s)
        return self._aged(json_of(found))

    async def spec(self, request: web.Request) -> web.Response:
        """Return the specification in force."""
        spec = self._view().spec
        if spec is None:
            raise NotFoundError("there is no specification yet; apply one first")
        return self._tagged(request, spec.text.encode(), str(spec.version))

    async def plan(self, request: web.Request) -> web.Response:
        """Return what a specification would change; a large one takes a second."""
        view = self._view()
        body = await body_of(request, max_bytes=MAX_SPEC_BYTES)
        return self._aged(json_of(await asyncio.to_thread(_plan, view, body, self._fleet)))

    async def nodes(self, _request: web.Request) -> web.Response:
        """Return how each node is, if we lead: nobody else asks them."""
        rows = self._inventory().rows.values()
        reports = await self._commands.node_reports()
        instances = (row.stored.instance for row in rows)
        return self._aged(json_of(node_documents(self._builder.fleet, instances, reports)))

    async def orphans(self, _request: web.Request) -> web.Response:
        """Return what runs without a record, if we lead."""
        self._view()
        return self._aged(json_of(await self._commands.orphans()))

    async def sd(self, request: web.Request) -> web.Response:
        """Return the instances for Prometheus."""
        rows = inventory.filtered(self._inventory().rows.values(), filters_of(request))
        return self._aged(json_of(list(inventory.sd_groups(rows))))

    async def upstreams(self, request: web.Request) -> web.Response:
        """Return the instances that a gateway may use, or 304 to one that has this list."""
        body = self._inventory().upstreams
        return self._tagged(request, body, etag_of(body))

    async def metrics(self, _request: web.Request) -> web.Response:
        """Return the provisioner's own series."""
        if self._cache.view is not None:
            current = self._inventory()
            self._metrics.upstreams_left_out.set(current.n_left_out)
            self._metrics.set_instances(row.stored.instance for row in current.rows.values())
        fleet = self._builder.fleet
        self._metrics.wanted_instances.set(sum(pool.count for pool in fleet.pools) if fleet else 0)
        self._metrics.view_timestamp_s.set(self._cache.as_of_s)
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def healthy(self, _request: web.Request) -> web.Response:
        """Answer as long as the process lives."""
        return web.Response(text="ok\n")

    async def ready(self, _request: web.Request) -> web.Response:
        """Answer 200 once the fleet is known."""
        known = self._inventory()
        count = count_text(len(known.rows), "instance")
        text = f"The fleet is known: {count}, as of revision {known.revision}.\n"
        return self._aged(web.Response(text=text))

    async def openapi(self, _request: web.Request) -> web.Response:
        """Return the description of the API."""
        return web.Response(body=self._description, content_type=JSON)

    def _view(self) -> View:
        view = self._cache.view
        if view is None:
            raise StoreUnavailableError(
                "nothing is known of the fleet yet: the store could not be read since the start; "
                "see the provisioner's log"
            )
        return view

    def _inventory(self) -> Inventory:
        return self._builder.inventory_of(self._view())

    def _tagged(self, request: web.Request, body: bytes, etag: str) -> web.Response:
        """Return a body, or 304 to a client that knows its tag."""
        known = request.if_none_match or ()
        is_known = any(tag.value in (etag, "*") for tag in known)
        response = (
            web.Response(status=HTTPStatus.NOT_MODIFIED)
            if is_known
            else web.Response(body=body, content_type=JSON)
        )
        response.etag = ETag(etag)
        return self._aged(response)

    def _aged(self, response: web.Response) -> web.Response:
        """Say how old the data is."""
        age_s = max(0.0, self._clock.unix_s() - self._cache.as_of_s)
        response.headers[AGE_HEADER] = f"{age_s:.1f}"
        return response


def _plan(view: View, body: bytes, name: str) -> Plan:
    fleet = checked_fleet(body)
    check_name(fleet, name)
    return plan_for(view, fleet)


def json_of(value: Any, *, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    """Return a value as a response."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type=JSON)


def filters_of(request: web.Request) -> Mapping[str, frozenset[str]]:
    """Return the wanted values by name of the filter."""
    names = {parameter.name for parameter in FILTERS} & request.query.keys()
    return {name: frozenset(request.query.getall(name)) for name in names}


# Writes


class Writes:
    """One object per API; a method for each operation that changes the fleet."""

    def __init__(self, commands: Commands, builder: InventoryBuilder, clock: Clock) -> None:
        self._commands = commands
        self._builder = builder
        self._clock = clock

    async def carry_out(self, operation: Operation, request: web.Request, body: bytes) -> Any:
        """Carry out a write; return its answer."""
        write: Callable[[web.Request, bytes], Awaitable[Any]] = getattr(self, operation.name)
        result = await write(request, body)
        return self._builder.document_of(result) if isinstance(result, Instance) else result

    async def assign(self, request: web.Request, body: bytes) -> Instance:
        """Give an instance to a developer, whom the pool lists from then on."""
        id_, developer = request.match_info["id"], decoded(body, AssignRequest).developer
        if fault := text_fault(developer):
            raise SpecError("the request", [f"developer {fault}"])
        return await self._commands.write(lambda view: commands.assign(view, id_, developer))

    async def release(self, request: web.Request, _body: bytes) -> Instance:
        """Take an instance from its developer, whom the pool then lists no more."""
        id_ = request.match_info["id"]
        return await self._commands.write(lambda view: commands.release(view, id_))

    async def drain(self, request: web.Request, _body: bytes) -> Instance:
        """Let an instance end what it has begun, now; then it starts afresh."""
        id_, now_s = request.match_info["id"], self._clock.unix_s()
        return await self._commands.write(lambda view: commands.drain(view, id_, now_s=now_s))

    async def replace(self, request: web.Request, _body: bytes) -> Instance:
        """Replace an instance by a fresh one as soon as the fleet's limits allow it."""
        id_ = request.match_info["id"]
        return await self._commands.write(lambda view: commands.replace(view, id_))

    async def scale(self, request: web.Request, body: bytes) -> Plan:
        """Change how many instances a pool has."""
        name, count = request.match_info["name"], decoded(body, ScaleRequest).count
        expected = expected_version(request)
        return await self._commands.write(lambda view: commands.scale(view, name, count, expected))

    async def put_spec(self, request: web.Request, body: bytes) -> Plan:
        """Put a specification in force."""
        fleet = await asyncio.to_thread(checked_fleet, body)
        return await self._commands.put_spec(fleet, expected_version(request))

    async def delete_orphans(self, _request: web.Request, body: bytes) -> Any:
        """Delete all orphans, if there are as many as the request says."""
        return await self._commands.delete_orphans(decoded(body, DeleteOrphansRequest).count)
