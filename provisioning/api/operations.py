"""Every operation of the API, once: the router and the OpenAPI description are made of this.

In:   nothing.
Out:  Operations. What carries one out is the handler of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from provisioning.api.forms import (
    AssignOrder,
    DeleteOrphansOrder,
    Details,
    Entry,
    InstanceDocument,
    NodeDocument,
    OrphanDocument,
    ScaleOrder,
    SdGroup,
    State,
)
from provisioning.model import Fleet, Phase
from provisioning.plan import Plan

JSON = "application/json"
TEXT = "text/plain"
EVENTS = "text/event-stream"
MAX_ORDER_BYTES = 16_384
MAX_SPEC_BYTES = 16_000_000
"""Of a specification: room for 100,000 developers and 10,000 nodes."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path, the query or the headers."""

    name: str
    where: str
    """`path`, `query` or `header`."""
    meaning: str
    choices: tuple[str, ...] = ()
    """The values that there are; empty: any text."""
    is_repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path."""

    name: str
    method: str
    path: str
    summary: str
    answer: Any
    """Type of the good answer's JSON, or several; a text: only its media type is fixed."""
    parameters: tuple[Parameter, ...] = ()
    order: Any = None
    """Type of the request's JSON; None: it has no body."""
    status: HTTPStatus = HTTPStatus.OK
    failures: tuple[HTTPStatus, ...] = ()
    is_write: bool = False
    """It needs a token, and a leader."""
    is_private: bool = False
    """It needs a token: it shows what not everybody may know, or costs much to answer."""

    @property
    def media_type(self) -> str:
        """Return the media type of the good answer."""
        return self.answer if isinstance(self.answer, str) else JSON

    @property
    def needs_token(self) -> bool:
        """Say whether only holders of a token may ask."""
        return self.is_write or self.is_private

    @property
    def max_body_bytes(self) -> int:
        """Return how large a request may be."""
        return MAX_SPEC_BYTES if self.order is Fleet else MAX_ORDER_BYTES


def _filter(name: str, meaning: str, choices: tuple[str, ...] = ()) -> Parameter:
    return Parameter(name, "query", f"{meaning}; repeat it for several.", choices, True)


FILTERS = (
    _filter("developer", "Only instances of this developer"),
    _filter("model", "Only instances with this model"),
    _filter("node", "Only instances on this node"),
    _filter("phase", "Only instances in this phase", tuple(Phase)),
    _filter("pool", "Only instances of this pool"),
    _filter("state", "Only instances in this state", tuple(State)),
)
DETAILS = Parameter("details", "query", "1: everything that is known of each instance.", ("0", "1"))
ID = Parameter("id", "path", "Id of an instance.")
POOL = Parameter("name", "path", "Name of a pool.")
IF_NONE_MATCH = Parameter("If-None-Match", "header", "ETag of the answer that is known already.")
IF_MATCH = Parameter("If-Match", "header", "ETag of the specification that has to be in force.")
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key", "header", "Of this request: with the same key it is carried out once."
)
LAST_EVENT_ID = Parameter("Last-Event-ID", "header", "Revision of the last event that was had.")

NOT_MODIFIED = HTTPStatus.NOT_MODIFIED
BAD_REQUEST = HTTPStatus.BAD_REQUEST
NOT_FOUND = HTTPStatus.NOT_FOUND
CONFLICT = HTTPStatus.CONFLICT
PRECONDITION_FAILED = HTTPStatus.PRECONDITION_FAILED
UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE
WRITE_FAILURES = (HTTPStatus.UNAUTHORIZED, CONFLICT, UNAVAILABLE)
BODY_FAILURES = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


def _order(
    name: str,
    summary: str,
    *,
    order: Any = None,
    status: HTTPStatus = HTTPStatus.ACCEPTED,
) -> Operation:
    return Operation(
        name,
        "POST",
        f"/instances/{{id}}/{name}",
        summary,
        InstanceDocument,
        (ID, IDEMPOTENCY_KEY),
        order,
        status,
        (BAD_REQUEST, NOT_FOUND, *WRITE_FAILURES, *BODY_FAILURES),
        is_write=True,
    )


OPERATIONS = (
    Operation(
        "instances",
        "GET",
        "/instances",
        "The inventory: what the exporter and load tests find the instances by.",
        (list[Entry], list[Details]),
        (*FILTERS, DETAILS, IF_NONE_MATCH),
        failures=(NOT_MODIFIED, BAD_REQUEST, UNAVAILABLE),
    ),
    Operation(
        "changes",
        "GET",
        "/instances/changes",
        "Server-sent events: `snapshot` with all instances, then `change` with what is different.",
        EVENTS,
        (LAST_EVENT_ID,),
        failures=(BAD_REQUEST, UNAVAILABLE),
    ),
    Operation(
        "instance",
        "GET",
        "/instances/{id}",
        "One instance with its history.",
        InstanceDocument,
        (ID,),
        failures=(BAD_REQUEST, NOT_FOUND, UNAVAILABLE),
    ),
    _order(
        "assign",
        "Give the instance to a developer; the pool lists them from now on.",
        order=AssignOrder,
        status=HTTPStatus.OK,
    ),
    _order(
        "release",
        "Take the instance from its developer; the pool does not list them any more.",
        status=HTTPStatus.OK,
    ),
    _order("drain", "Let the instance end what it has begun, now; then it starts afresh."),
    _order("replace", "Replace the instance by a fresh one when the fleet's limits allow it."),
    Operation(
        "nodes",
        "GET",
        "/nodes",
        "How each node is: whether it answers, since when not and why, and what it holds.",
        list[NodeDocument],
        failures=(BAD_REQUEST, UNAVAILABLE),
    ),
    Operation(
        "orphans",
        "GET",
        "/orphans",
        "The orphans: containers and processes of the fleet without a record in the store.",
        list[OrphanDocument],
        failures=(BAD_REQUEST, CONFLICT, UNAVAILABLE),
    ),
    Operation(
        "delete_orphans",
        "POST",
        "/orphans/delete",
        "Delete all orphans, if they are as many as the order says.",
        list[OrphanDocument],
        (IDEMPOTENCY_KEY,),
        DeleteOrphansOrder,
        HTTPStatus.ACCEPTED,
        (BAD_REQUEST, *WRITE_FAILURES, *BODY_FAILURES),
        is_write=True,
    ),
    Operation(
        "scale",
        "POST",
        "/pools/{name}/scale",
        "Change how many instances a pool has.",
        Plan,
        (POOL, IF_MATCH, IDEMPOTENCY_KEY),
        ScaleOrder,
        HTTPStatus.ACCEPTED,
        (BAD_REQUEST, NOT_FOUND, PRECONDITION_FAILED, *WRITE_FAILURES, *BODY_FAILURES),
        is_write=True,
    ),
    Operation(
        "spec",
        "GET",
        "/spec",
        "The specification in force, every default written out.",
        Fleet,
        (IF_NONE_MATCH,),
        failures=(NOT_MODIFIED, BAD_REQUEST, HTTPStatus.UNAUTHORIZED, NOT_FOUND, UNAVAILABLE),
        is_private=True,
    ),
    Operation(
        "put_spec",
        "PUT",
        "/spec",
        "Put a specification in force.",
        Plan,
        (IF_MATCH, IDEMPOTENCY_KEY),
        Fleet,
        HTTPStatus.ACCEPTED,
        (BAD_REQUEST, PRECONDITION_FAILED, *WRITE_FAILURES, *BODY_FAILURES),
        is_write=True,
    ),
    Operation(
        "plan",
        "POST",
        "/plan",
        "What a specification would change; nothing is changed.",
        Plan,
        (),
        Fleet,
        failures=(BAD_REQUEST, HTTPStatus.UNAUTHORIZED, CONFLICT, UNAVAILABLE, *BODY_FAILURES),
        is_private=True,
    ),
    Operation(
        "sd",
        "GET",
        "/sd",
        "The instances for Prometheus's HTTP service discovery.",
        list[SdGroup],
        FILTERS,
        failures=(BAD_REQUEST, UNAVAILABLE),
    ),
    Operation(
        "metrics", "GET", "/metrics", "The provisioner's own series.", TEXT, failures=(BAD_REQUEST,)
    ),
    Operation("healthy", "GET", "/-/healthy", "200 while it lives.", TEXT, failures=(BAD_REQUEST,)),
    Operation(
        "ready",
        "GET",
        "/-/ready",
        "200 once it knows the fleet.",
        TEXT,
        failures=(BAD_REQUEST, UNAVAILABLE),
    ),
    Operation(
        "openapi",
        "GET",
        "/openapi.json",
        "This description.",
        dict[str, Any],
        failures=(BAD_REQUEST,),
    ),
)
