"""Every operation of the API, the schemas of its documents, and their OpenAPI description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ollama_fleet import upstreams
from provisioning.model import ContainerState, Fleet, Phase, Reason
from provisioning.plan import Plan

AGE_HEADER = "Inventory-Age-Seconds"
"""How old what an answer tells is."""
NOT_LEADING = "urn:ollama-fleet:not-leading"
"""Type of the problem that another provisioner leads, or none: nothing was changed."""

PROBLEM_TYPES = (
    f"`{NOT_LEADING}`: this provisioner does not lead, so it has changed nothing; `leader` is the "
    "one that does, where there is one. `about:blank`: the status says which kind it is."
)


class State(StrEnum):
    """State of an instance in the exporter's inventory."""

    RUNNING = "running"
    PROVISIONING = "provisioning"
    DRAINING = "draining"


STATE_BY_PHASE: Mapping[Phase, State] = {
    Phase.STARTING: State.PROVISIONING,
    Phase.RUNNING: State.RUNNING,
    # A failed one is meant to run: it has to count as not healthy.
    Phase.FAILED: State.RUNNING,
    Phase.DRAINING: State.DRAINING,
    Phase.STOPPING: State.DRAINING,
}


class HealthCheck(StrEnum):
    """What decides whether an instance is healthy, as the exporter's inventory has it."""

    POLL = "poll"
    CANARY = "canary"


HAS_STARTED = frozenset({Phase.RUNNING, Phase.DRAINING, Phase.STOPPING})
"""Phases of an instance whose container was healthy; one that failed has none."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An instance as the exporter's inventory has it: no other keys than these."""

    id: str
    url: str
    """Empty: the address of its node is not known."""
    node: str
    model: str = ""
    engine: str = "auto"
    state: State
    developer: str = ""
    started: float | None = None
    """When its container was first healthy, in seconds since 1970; None: it was not, or is gone."""
    health: HealthCheck = HealthCheck.POLL
    labels: Mapping[str, str] = {}
    """Its pool, and the labels of its node."""


class Details(Entry, frozen=True, omit_defaults=False, kw_only=True):
    """An instance with all that the provisioner knows of it."""

    pool: str
    port: int
    phase: Phase
    phase_since_s: float
    """When it entered its phase."""
    generation: int
    workload: str
    """Digest of what it runs."""
    reason: Reason | None = None
    fault: str = ""
    n_failures: int = 0
    retry_at_s: float = 0.0
    is_replace_asked: bool = False


class HistoryLine(msgspec.Struct, frozen=True):
    """Something that happened to an instance."""

    at_s: float
    what: str
    detail: str
    generation: int


class InstanceDocument(Details, frozen=True, omit_defaults=False, kw_only=True):
    """An instance with its history, oldest first."""

    log: str = ""
    """The path, on its node, of what it writes; empty: it has none, or its node is not listed."""
    history: tuple[HistoryLine, ...]


class EventDocument(HistoryLine, frozen=True, kw_only=True):
    """The same, with the instance's id."""

    id: str


class NodeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the leader knows it, and what the records place on it."""

    name: str
    runtime: str
    """Empty, as are CPUs and memory: the specification does not list it any more."""
    is_listed: bool
    is_cordoned: bool
    is_asked: bool
    """Whether it was asked yet, since this provisioner leads."""
    is_reachable: bool
    """Whether it answered when it was asked last."""
    heard_s: float
    """When it last answered; 0: never, since this provisioner leads."""
    fault: str
    """Why it does not answer, or is not asked; empty: it answers."""
    n_instances: int
    """Failed ones aside: those have no container."""
    n_failed: int
    cpus_used: float
    cpus: float
    memory_used_bytes: int
    memory_bytes: int


class OrphanDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A container or process of the fleet that the store has no record of."""

    node: str
    name: str
    instance_id: str
    generation: int
    state: ContainerState


class SdGroup(msgspec.Struct, frozen=True):
    """One target of Prometheus's HTTP service discovery."""

    targets: tuple[str, ...]
    labels: Mapping[str, str]


class AssignRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who gets the instance."""

    developer: Annotated[str, Meta(min_length=1, max_length=256)]


MAX_COUNT = 1_000_000


class ScaleRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many instances the pool is to have."""

    count: Annotated[int, Meta(ge=0, le=MAX_COUNT)]


class DeleteOrphansRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many orphans the caller has seen; if there are more or less, none is deleted."""

    count: Annotated[int, Meta(ge=0, le=MAX_COUNT)]


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong, as RFC 9457 has it."""

    type: Annotated[str, Meta(description=PROBLEM_TYPES)]
    title: str
    status: int
    detail: str
    problems: tuple[str, ...] = ()
    """Of a specification: all that is wrong with it."""
    leader: str = ""
    """URL of the provisioner that leads, where this one does not."""


class ReloadDocument(msgspec.Struct, frozen=True):
    """What a reload read."""

    changed: tuple[str, ...]
    """Options whose files hold something else than when they were last read."""


JSON = "application/json"
TEXT = "text/plain"
MAX_BODY_BYTES = 16_384
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
    pattern: str = ""
    """What the whole value matches; empty: anything."""


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
SINCE = Parameter(
    "since",
    "query",
    "Only events after this time, in seconds since 1970.",
    pattern=r"^[0-9]{1,12}(\.[0-9]{1,9})?$",
)
DETAILS = Parameter("details", "query", "1: all fields of each instance.", ("0", "1"))
ID = Parameter("id", "path", "Id of an instance.")
POOL = Parameter("name", "path", "Name of a pool.")
IF_NONE_MATCH = Parameter("If-None-Match", "header", "ETag of the answer that the client has.")
IF_MATCH = Parameter("If-Match", "header", "ETag of the specification that must be active.")

BODY_FAILURES = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path."""

    name: str
    method: str = "GET"
    path: str
    summary: str
    answer: Any
    """Type of the good answer's JSON, or several; a text: only its media type is fixed."""
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    """Type of the request's JSON; None: it has no body."""
    status: HTTPStatus = HTTPStatus.OK
    also: tuple[HTTPStatus, ...] = ()
    """Failures that nothing else here implies."""
    is_write: bool = False
    """It changes the fleet: the leader alone does, and the audit log records it."""
    is_private: bool = False
    """It shows what not everybody may know, or costs much to answer."""

    @property
    def needs_token(self) -> bool:
        """Say whether only holders of a token may ask."""
        return self.is_write or self.is_private

    @property
    def max_body_bytes(self) -> int:
        """Return how large a request may be."""
        return MAX_SPEC_BYTES if self.body is Fleet else MAX_BODY_BYTES

    @property
    def failures(self) -> tuple[HTTPStatus, ...]:
        """Return the statuses of the answers that are not good."""
        names = {parameter.name for parameter in self.parameters}
        implied = (
            (HTTPStatus.NOT_MODIFIED, "If-None-Match" in names),
            (HTTPStatus.UNAUTHORIZED, self.needs_token),
            (HTTPStatus.NOT_FOUND, "{" in self.path),
            (HTTPStatus.CONFLICT, self.is_write),
            (HTTPStatus.PRECONDITION_FAILED, "If-Match" in names),
        )
        found = [status for status, is_implied in implied if is_implied]
        bodies = BODY_FAILURES if self.is_write or self.body else ()
        always = (HTTPStatus.BAD_REQUEST, HTTPStatus.SERVICE_UNAVAILABLE)
        return (*always, *found, *bodies, *self.also)


def _command(
    name: str, summary: str, *, body: Any = None, status: HTTPStatus = HTTPStatus.ACCEPTED
) -> Operation:
    return Operation(
        name=name,
        method="POST",
        path=f"/instances/{{id}}/{name}",
        summary=summary,
        answer=InstanceDocument,
        parameters=(ID,),
        body=body,
        status=status,
        is_write=True,
    )


OPERATIONS = (
    Operation(
        name="instances",
        path="/instances",
        summary="The inventory of instances, for the exporter and load tests.",
        answer=(list[Entry], list[Details]),
        parameters=(*FILTERS, DETAILS, IF_NONE_MATCH),
    ),
    Operation(
        name="instance",
        path="/instances/{id}",
        summary="One instance with its history.",
        answer=InstanceDocument,
        parameters=(ID,),
    ),
    Operation(
        name="events",
        path="/events",
        summary="The latest events of all instances, oldest first; of removed instances none.",
        answer=list[EventDocument],
        parameters=(*FILTERS, SINCE),
    ),
    _command(
        "assign",
        "Assign the instance to a developer, and add them to the pool's developers.",
        body=AssignRequest,
        status=HTTPStatus.OK,
    ),
    _command(
        "release",
        "Unassign the instance, and remove its developer from the pool's developers.",
        status=HTTPStatus.OK,
    ),
    _command("drain", "Drain the instance now: it finishes its requests, then it is replaced."),
    _command("replace", "Replace the instance when the fleet's limits allow it."),
    Operation(
        name="nodes",
        path="/nodes",
        summary="The nodes: whether each answers, when it last did, its fault and its load.",
        answer=list[NodeDocument],
    ),
    Operation(
        name="orphans",
        path="/orphans",
        summary="The orphans: containers and processes of the fleet without a record in the store.",
        answer=list[OrphanDocument],
        also=(HTTPStatus.CONFLICT,),
    ),
    Operation(
        name="delete_orphans",
        method="POST",
        path="/orphans/delete",
        summary="Delete all orphans, if there are as many as the request's count.",
        answer=list[OrphanDocument],
        body=DeleteOrphansRequest,
        status=HTTPStatus.ACCEPTED,
        is_write=True,
    ),
    Operation(
        name="scale",
        method="POST",
        path="/pools/{name}/scale",
        summary="Change how many instances a pool has.",
        answer=Plan,
        parameters=(POOL, IF_MATCH),
        body=ScaleRequest,
        status=HTTPStatus.ACCEPTED,
        is_write=True,
    ),
    Operation(
        name="spec",
        path="/spec",
        summary="The active specification, with all defaults.",
        answer=Fleet,
        parameters=(IF_NONE_MATCH,),
        also=(HTTPStatus.NOT_FOUND,),
        is_private=True,
    ),
    Operation(
        name="put_spec",
        method="PUT",
        path="/spec",
        summary="Replace the active specification.",
        answer=Plan,
        parameters=(IF_MATCH,),
        body=Fleet,
        status=HTTPStatus.ACCEPTED,
        is_write=True,
    ),
    Operation(
        name="plan",
        method="POST",
        path="/plan",
        summary="Show what a specification would change; it changes nothing.",
        answer=Plan,
        body=Fleet,
        also=(HTTPStatus.CONFLICT,),
        is_private=True,
    ),
    Operation(
        name="sd",
        path="/sd",
        summary="The instances for Prometheus's HTTP service discovery.",
        answer=list[SdGroup],
        parameters=FILTERS,
    ),
    Operation(
        name="upstreams",
        path=upstreams.PATH,
        summary="The instances that a gateway may send requests to.",
        answer=upstreams.Document,
        parameters=(IF_NONE_MATCH,),
    ),
    Operation(
        name="reload",
        method="POST",
        path="/-/reload",
        summary="Read the token file again; refuse where another file has changed.",
        answer=ReloadDocument,
        also=(HTTPStatus.CONFLICT,),
        is_private=True,
    ),
    Operation(
        name="metrics", path="/metrics", summary="The provisioner's own series.", answer=TEXT
    ),
    Operation(
        name="healthy", path="/-/healthy", summary="200 while the process runs.", answer=TEXT
    ),
    Operation(name="ready", path="/-/ready", summary="200 once it knows the fleet.", answer=TEXT),
    Operation(
        name="openapi", path="/openapi.json", summary="This description.", answer=dict[str, Any]
    ),
)


PROBLEM = "application/problem+json"
REF_TEMPLATE = "#/components/schemas/{name}"
PYDANTIC_REF_TEMPLATE = REF_TEMPLATE.replace("name", "model")

Json = dict[str, Any]


def description(operations: Sequence[Operation], *, version: str) -> Json:
    """Return the document."""
    types = [
        kind
        for operation in operations
        for kind in (*_answers(operation), operation.body)
        if kind is not None
    ]
    fleet = Fleet.model_json_schema(mode="serialization", ref_template=PYDANTIC_REF_TEMPLATE)
    sections = fleet.pop("$defs")
    custom: dict[type, Json] = {Fleet: fleet}
    (*schemas, problem), components = msgspec.json.schema_components(
        [*types, ProblemDocument], ref_template=REF_TEMPLATE, schema_hook=custom.__getitem__
    )
    components |= sections
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, Json] = {}
    for operation in operations:
        item = _item(operation, schema_of, problem)
        paths.setdefault(operation.path, {})[operation.method.lower()] = item
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ollama-fleet provisioner",
            "version": version,
            "description": "What needs a bearer token says so. Writes go to the leader.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _item(operation: Operation, schema_of: Mapping[str, Json], problem: Json) -> Json:
    good: Json = {"description": operation.status.phrase}
    schemas = [schema_of[repr(kind)] for kind in _answers(operation)] or [{"type": "string"}]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    media_type = operation.answer if isinstance(operation.answer, str) else JSON
    good["content"] = {media_type: {"schema": schema}}
    item: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {str(operation.status.value): good}
        | {str(status.value): _failure(status, problem) for status in operation.failures},
    }
    if operation.parameters:
        item["parameters"] = [_parameter(one) for one in operation.parameters]
    if operation.body is not None:
        content = {JSON: {"schema": schema_of[repr(operation.body)]}}
        item["requestBody"] = {"required": True, "content": content}
    if operation.needs_token:
        item["security"] = [{"token": []}]
    return item


def _answers(operation: Operation) -> tuple[Any, ...]:
    """Return the types that a good answer may have; none where it is no JSON."""
    if isinstance(operation.answer, str):
        return ()
    return operation.answer if isinstance(operation.answer, tuple) else (operation.answer,)


def _failure(status: HTTPStatus, problem: Json) -> Json:
    if status is HTTPStatus.NOT_MODIFIED:
        return {"description": status.phrase}
    return {"description": status.phrase, "content": {PROBLEM: {"schema": problem}}}


def _parameter(parameter: Parameter) -> Json:
    one: Json = {"type": "string"}
    if parameter.choices:
        one["enum"] = list(parameter.choices)
    if parameter.where == "path":
        one["minLength"] = 1
    if parameter.pattern:
        one["pattern"] = parameter.pattern
    schema = {"type": "array", "items": one} if parameter.is_repeatable else one
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.where == "path",
        "description": parameter.meaning,
        "schema": schema,
    }
