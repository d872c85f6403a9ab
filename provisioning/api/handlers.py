"""Answer requests: those that read and those that change the fleet."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from aiohttp import ETag, web

from ollama_fleet.clock import Clock
from ollama_fleet.tables import count_text
from provisioning.api import inventory, routes
from provisioning.api.auth import Audit
from provisioning.api.commands import (
    Answer,
    Answers,
    Commands,
    Orphans,
    Reports,
    Source,
    check_name,
    plan_for,
)
from provisioning.api.errors import BadRequestError, UnknownError
from provisioning.api.inventory import Directory, Feed, Inventory, Message, node_documents
from provisioning.api.requests import body_of, check_body, check_query, expected_version, status_of
from provisioning.api.routes import (
    AGE_HEADER,
    EVENTS,
    FILTERS,
    JSON,
    MAX_SPEC_BYTES,
    OPERATIONS,
    AssignOrder,
    DeleteOrphansOrder,
    Operation,
    ScaleOrder,
)
from provisioning.errors import ProvisionerError, SpecError, StoreUnavailableError
from provisioning.metrics import CONTENT_TYPE, Metrics
from provisioning.model import Instance
from provisioning.plan import Plan
from provisioning.spec import checked_fleet
from provisioning.spec.words import text_fault
from provisioning.store.base import View

LOOK_S = 1.0
"""So often it is seen whether a client has left: it holds a place of the few that there are."""
HEARTBEAT_S = 15.0
"""A comment is sent so often, so that dead connections are noticed."""


class Reads:
    """One object per API."""

    def __init__(
        self,
        source: Source,
        directory: Directory,
        feed: Feed,
        metrics: Metrics,
        clock: Clock,
        *,
        reports: Reports,
        orphans: Orphans,
        fleet: str,
        version: str,
    ) -> None:
        self._reports = reports
        self._orphans = orphans
        self._fleet = fleet
        self._one_at_a_time = asyncio.Lock()
        self._source = source
        self._directory = directory
        self._feed = feed
        self._metrics = metrics
        self._clock = clock
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
        return self._tagged(request, body, inventory.etag_of(body))

    async def instance(self, request: web.Request) -> web.Response:
        """Return one instance with its history."""
        id_ = request.match_info["id"]
        row = self._inventory().rows.get(id_)
        if row is None:
            raise UnknownError(f"there is no instance {id_!r}; list them all to see")
        return self._aged(json_of(self._directory.document_of(row.stored.instance)))

    async def changes(self, request: web.Request) -> web.StreamResponse:
        """Send what changes for as long as the client listens and keeps up."""
        self._inventory()
        known = _revision(request.headers.get("Last-Event-ID"))
        with self._feed.subscribed(drop=_dropping(request), known=known) as subscription:
            response = web.StreamResponse(headers={"Cache-Control": "no-store"})
            response.content_type = EVENTS
            await response.prepare(request)
            with suppress(ConnectionResetError):  # whoever has heard enough just leaves
                await self._send_all(request, response, subscription.pending)
        return response

    async def _send_all(
        self, request: web.Request, response: web.StreamResponse, pending: asyncio.Queue[Message]
    ) -> None:
        quiet_s = 0.0
        while not _has_left(request):
            try:
                message = await asyncio.wait_for(pending.get(), LOOK_S)
            except TimeoutError:
                quiet_s += LOOK_S
                if quiet_s < HEARTBEAT_S:
                    continue
                await response.write(b": still here\n\n")
            else:
                await response.write(event_of(message))
            quiet_s = 0.0

    async def spec(self, request: web.Request) -> web.Response:
        """Return the specification in force."""
        spec = self._view().spec
        if spec is None:
            raise UnknownError("there is no specification yet; apply one first")
        return self._tagged(request, spec.text.encode(), str(spec.version))

    async def plan(self, request: web.Request) -> web.Response:
        """Return what a specification would change.

        A large one takes a second: one at a time, and nobody else waits.
        """
        view = self._view()
        body = await body_of(request, max_bytes=MAX_SPEC_BYTES)
        async with self._one_at_a_time:
            planned = await asyncio.to_thread(_planned, view, body, self._fleet)
        return self._aged(json_of(planned))

    async def nodes(self, _request: web.Request) -> web.Response:
        """Return how each node is, if we lead: nobody else asks them."""
        rows = self._inventory().rows.values()
        reports = await self._reports()
        instances = (row.stored.instance for row in rows)
        documents = node_documents(self._directory.fleet, instances, reports)
        return self._aged(json_of(documents))

    async def orphans(self, _request: web.Request) -> web.Response:
        """Return what runs without a record, if we lead."""
        self._view()
        return self._aged(json_of(await self._orphans.all()))

    async def sd(self, request: web.Request) -> web.Response:
        """Return the instances for Prometheus."""
        rows = inventory.filtered(self._inventory().rows.values(), filters_of(request))
        return self._aged(json_of(list(inventory.sd_groups(rows))))

    async def metrics(self, _request: web.Request) -> web.Response:
        """Return the provisioner's own series."""
        if self._source.view is not None:
            current = self._inventory()
            self._metrics.set_instances(row.stored.instance for row in current.rows.values())
        fleet = self._directory.fleet
        self._metrics.wanted_instances.set(sum(pool.count for pool in fleet.pools) if fleet else 0)
        self._metrics.view_timestamp_s.set(self._source.as_of_s)
        self._metrics.api_streams.set(self._feed.n_streams)
        self._metrics.api_dropped_streams.set(self._feed.n_dropped)
        return web.Response(body=self._metrics.page(), headers={"Content-Type": CONTENT_TYPE})

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
        view = self._source.view
        if view is None:
            raise StoreUnavailableError(
                "nothing is known of the fleet yet: the store could not be read since the start; "
                "see the provisioner's log"
            )
        return view

    def _inventory(self) -> Inventory:
        return self._directory.inventory_of(self._view())

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
        """Say how long ago what is told was known to be so."""
        age_s = max(0.0, self._clock.unix_s() - self._source.as_of_s)
        response.headers[AGE_HEADER] = f"{age_s:.1f}"
        return response


def _planned(view: View, body: bytes, name: str) -> Plan:
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


def event_of(message: Message) -> bytes:
    """Return a message as a server-sent event."""
    kind = b"snapshot" if message.is_whole else b"change"
    changed = b",".join(message.changed)
    removed = msgspec.json.encode(message.removed)
    data = b'{"instances":[%b],"removed":%b}' % (changed, removed)
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (message.revision, kind, data)


def _revision(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 20:
        raise BadRequestError(f"Last-Event-ID must be a revision, got {text!r}")
    return int(text)


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _dropping(request: web.Request) -> Callable[[], None]:
    """Return what closes the request's connection, also while something is being sent."""

    def drop() -> None:
        if request.transport is not None:
            request.transport.abort()

    return drop


MAX_KEY_CHARACTERS = 200

OrderT = TypeVar("OrderT")
Carry = Callable[[web.Request, bytes], Awaitable[Any]]


class Writes:
    """One object per API."""

    def __init__(
        self,
        commands: Commands,
        orphans: Orphans,
        directory: Directory,
        audit: Audit,
        answers: Answers,
    ) -> None:
        self._commands = commands
        self._orphans = orphans
        self._directory = directory
        self._audit = audit
        self._answers = answers
        self._carry_by_name: Mapping[str, Carry] = {
            "assign": self._assign,
            "release": self._release,
            "drain": self._drain,
            "replace": self._replace,
            "scale": self._scale,
            "put_spec": self._put_spec,
            "delete_orphans": self._delete_orphans,
        }

    async def carry_out(self, operation: Operation, request: web.Request, who: str) -> web.Response:
        """Carry out a write of the one who asks for it, and record it."""
        body = b""
        status, fault = HTTPStatus.INTERNAL_SERVER_ERROR, "an error of the provisioner itself"
        try:
            check_query(operation, request)
            check_body(operation, request)
            body = await body_of(request, max_bytes=operation.max_body_bytes)
            answer = await self._once(operation, request, body, who)
            status, fault = operation.status, ""
        except ProvisionerError as error:
            status, fault = status_of(error), str(error)
            raise
        except web.HTTPException as error:
            status, fault = HTTPStatus(error.status), error.text or error.reason
            raise
        finally:
            await self._audit.note(operation, request, status, body=body, who=who, fault=fault)
        return web.Response(status=answer.status, body=answer.body, content_type=JSON)

    async def _once(
        self, operation: Operation, request: web.Request, body: bytes, who: str
    ) -> Answer:
        async def answer() -> Answer:
            result = await self._carry_by_name[operation.name](request, body)
            return Answer(operation.status.value, msgspec.json.encode(result))

        key = request.headers.get("Idempotency-Key")
        if key is None:
            return await answer()
        if not 0 < len(key) <= MAX_KEY_CHARACTERS:
            limit = f"1 to {MAX_KEY_CHARACTERS} characters long"
            raise BadRequestError(f"Idempotency-Key must be {limit}, got {len(key):,}")
        asked = "\n".join((who, request.method, request.path, request.headers.get("If-Match", "")))
        digest = hashlib.sha256(asked.encode(errors="surrogateescape") + b"\n" + body).digest()
        return await self._answers.once(key, digest, answer)

    async def _assign(self, request: web.Request, body: bytes) -> Any:
        order = decoded(body, AssignOrder)
        if fault := text_fault(order.developer):
            raise SpecError("the order", [f"developer {fault}"])
        return self._told(await self._commands.assign(request.match_info["id"], order.developer))

    async def _release(self, request: web.Request, _body: bytes) -> Any:
        return self._told(await self._commands.release(request.match_info["id"]))

    async def _drain(self, request: web.Request, _body: bytes) -> Any:
        return self._told(await self._commands.drain(request.match_info["id"]))

    async def _replace(self, request: web.Request, _body: bytes) -> Any:
        return self._told(await self._commands.replace(request.match_info["id"]))

    async def _scale(self, request: web.Request, body: bytes) -> Any:
        order = decoded(body, ScaleOrder)
        expected = expected_version(request)
        return await self._commands.scale(request.match_info["name"], order.count, expected)

    async def _put_spec(self, request: web.Request, body: bytes) -> Any:
        fleet = await asyncio.to_thread(checked_fleet, body)
        return await self._commands.put_spec(fleet, expected_version(request))

    async def _delete_orphans(self, _request: web.Request, body: bytes) -> Any:
        return await self._orphans.delete(decoded(body, DeleteOrphansOrder).count)

    def _told(self, instance: Instance) -> Any:
        return self._directory.document_of(instance)


def decoded(body: bytes, kind: type[OrderT]) -> OrderT:
    """Return an order.

    Raises:
        BadRequestError: The body is no JSON.
        SpecError: It is not what was to be ordered.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise SpecError("the order", [str(error)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the body is no JSON: {error}") from error
