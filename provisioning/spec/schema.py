"""The specification of a fleet: the one model of what people write, what is stored and what runs.

Documents have each attribute without its unit: `memory: 8GiB` is `memory_bytes`, `every: 7d` is
`every_s`, `cordoned: true` is `is_cordoned`. Rules between pools and nodes are in `validate`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from provisioning.spec.defaults import DEFAULT_ENGINE, ENGINES, Engine, Preset
from provisioning.spec.values import (
    DAY_S,
    GIB,
    Argument,
    AtLeastOne,
    Count,
    Cpus,
    Developer,
    Duration,
    EngineName,
    FleetName,
    Folder,
    Host,
    HttpPath,
    Labels,
    ModelName,
    NodeName,
    PlainText,
    PoolName,
    Port,
    Share,
    Size,
    Text,
    Timeout,
    Variables,
    by_name,
)

MAX_NODES = 100_000
MAX_POOLS = 10_000
DIGEST_DIGITS = 12


UNIT = re.compile(r"^(?:is|n)_|_(?:s|bytes|ratio)$")


def key_of(attribute: str) -> str:
    """Return the key of an attribute in documents: `interval` of `interval_s`."""
    return UNIT.sub("", attribute)


class Section(BaseModel):
    """A part of the specification; unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=key_of,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, which are validated."""
        return type(self)(
            **{name: getattr(self, name) for name in type(self).model_fields} | changes
        )


class RuntimeKind(StrEnum):
    """How a node runs instances."""

    CONTAINERD = "containerd"
    PROCESS = "process"
    SIMULATED = "simulated"


class PlacementStrategy(StrEnum):
    """Which of the nodes that have room gets an instance."""

    SPREAD = "spread"
    """The one with the smallest used share."""
    BINPACK = "binpack"
    """The fullest one, so that others stay empty."""


class Node(Section):
    """A machine that runs instances."""

    name: NodeName
    runtime: RuntimeKind
    address: Host = "127.0.0.1"
    """Where its instances listen and are reached."""
    endpoint: str = Field("", validate_default=True)
    """Of containerd: `unix:///run/…` or `https://host:port`; of a simulation: `http://…`."""
    cpus: Cpus
    memory_bytes: Size
    max_instances: Count = 0
    """0: as many as CPUs, memory and ports allow."""
    first_port: Port = 20_000
    last_port: Port = Field(29_999, validate_default=True)
    labels: Labels = {}
    """Pools select nodes by them."""
    is_cordoned: Annotated[bool, Field(strict=True)] = False
    """Nothing new is placed on it; what it has is moved away."""

    @field_validator("endpoint")
    @classmethod
    def _fits_the_runtime(cls, endpoint: str, info: ValidationInfo) -> str:
        match info.data.get("runtime"):
            case RuntimeKind.CONTAINERD if not endpoint.startswith(("unix:///", "https://")):
                helps = "such as unix:///run/containerd/containerd.sock or https://node:port"
                raise ValueError(f"must say where containerd listens, {helps}, got {endpoint!r}")
            case RuntimeKind.PROCESS if endpoint:
                raise ValueError("means nothing to runtime process; leave it out")
            case RuntimeKind.SIMULATED if endpoint and not endpoint.startswith("http://"):
                helps = "such as http://127.0.0.1:11451; leave it out to simulate in memory"
                message = f"must be the control API of `ollama-fleet simulate`, {helps}"
                raise ValueError(f"{message}, got {endpoint!r}")
        return endpoint

    @field_validator("last_port")
    @classmethod
    def _ascends(cls, last_port: int, info: ValidationInfo) -> int:
        first_port = info.data.get("first_port", 1)
        if last_port < first_port:
            raise ValueError(f"must not be less than first_port, {first_port}, got {last_port}")
        return last_port


class Canary(Section):
    """A tiny generation now and then: what only answers its health check may not generate."""

    period_s: Timeout = 300.0
    timeout_s: Timeout = 15.0
    """More than the longest wait behind the requests of others: stock Ollama does not say that it
    is busy."""
    n_failures: AtLeastOne = 2
    """This many in a row make a running instance unhealthy."""


class Probe(Section):
    """How to see over HTTP that an instance is healthy: it answers 200."""

    path: HttpPath = "/health"
    interval_s: Timeout = 10.0
    timeout_s: Timeout = 2.0
    n_failures: AtLeastOne = 3
    """This many in a row make a running instance unhealthy."""
    canary: Canary | None = None


def _json_body(body: object) -> object:
    return json.dumps(body) if isinstance(body, dict) else body


class WarmUp(Section):
    """A request that loads the model before the first user waits for it; it must answer 200."""

    path: HttpPath
    body: Annotated[str, BeforeValidator(_json_body)] = ""
    """JSON, sent by POST, which documents may write as a mapping; empty: a GET."""
    timeout_s: Duration = 300.0
    """0: as long as the whole warm-up may take; see `Limits`."""


class Mount(Section):
    """A folder of the node that containers see, read-only."""

    source: Folder
    target: Folder


UNWRITTEN = "@"
"""How the parts of a place begin that no document has."""
LIST, TEXT = "@list", "@text"
Requests = Annotated[
    Annotated[Preset, Tag(TEXT)] | Annotated[tuple[WarmUp, ...], Tag(LIST)],
    Discriminator(lambda given: LIST if isinstance(given, list | tuple) else TEXT),
]


class Workload(Section):
    """What every instance of a pool runs; its digest tells whether an instance is up to date."""

    model: ModelName
    engine: EngineName = DEFAULT_ENGINE
    """What the exporter calls the kind of server."""
    image: PlainText = ""
    """For containers."""
    command: tuple[Argument, ...] = ()
    """Arguments may hold placeholders such as {port}."""
    environment: Variables = {}
    """Values may hold the same."""
    mounts: tuple[Mount, ...] = ()
    cpus: Cpus = 2.0
    memory_bytes: Size = 8 * GIB
    probe: Probe = Field(Probe(), alias="health")
    warm_up: Requests = ()

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if command and not command[0]:
            raise ValueError("must name a program")
        return command

    @field_validator("mounts")
    @classmethod
    def _targets_differ(cls, mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
        refuse_repeated([mount.target for mount in mounts])
        return mounts

    @field_validator("probe")
    @classmethod
    def _can_be_asked(cls, probe: Probe, info: ValidationInfo) -> Probe:
        engine = info.data.get("engine", DEFAULT_ENGINE)
        if probe.canary and not ENGINES[engine].canary_path:
            known = ", ".join(name for name, one in ENGINES.items() if one.canary_path)
            raise ValueError(f"engine {engine} has no canary, only {known}; leave it out")
        return probe

    @field_validator("warm_up")
    @classmethod
    def _is_known(cls, warm_up: Requests, info: ValidationInfo) -> Requests:
        engine = info.data.get("engine", DEFAULT_ENGINE)
        if isinstance(warm_up, Preset) and warm_up not in ENGINES[engine].presets:
            raise ValueError(
                f"engine {engine} has no warm-up `{warm_up}`; list its requests, or `none`"
            )
        return warm_up

    @field_serializer("environment")
    def _with_dropped(self, environment: Mapping[str, str]) -> dict[str, str | None]:
        """Write the defaults of the engine that are not set without a value."""
        dropped = ENGINES.get(self.engine, Engine()).environment.keys() - environment.keys()
        return {**environment, **dict.fromkeys(sorted(dropped))}

    @cached_property
    def digest(self) -> str:
        """Return a short text that is equal for all workloads that run alike.

        To change how health is seen or how instances are warmed up replaces nothing that runs.
        """
        running = self.model_dump_json(exclude={"probe", "warm_up"})
        return hashlib.sha256(running.encode()).hexdigest()[:DIGEST_DIGITS]

    @property
    def warm_up_requests(self) -> tuple[WarmUp, ...]:
        """Return the requests of the warm-up, in their order."""
        return requests_of(self.warm_up, self.model)


def requests_of(warm_up: Preset | tuple[WarmUp, ...], model: str) -> tuple[WarmUp, ...]:
    """Return the requests of a warm-up, which may have a name."""
    if not isinstance(warm_up, Preset):
        return warm_up
    # Not streamed: a stream answers 200 before it is known whether the pull succeeds.
    pull = WarmUp(path="/api/pull", body=json.dumps({"model": model, "stream": False}), timeout_s=0)
    body = json.dumps({"model": model, "stream": False, "keep_alive": -1})
    load = WarmUp(path="/api/generate", body=body, timeout_s=0)
    return {Preset.PULL: (pull, load), Preset.LOAD: (load,), Preset.NONE: ()}[warm_up]


class Placement(Section):
    """On which nodes a pool's instances may be."""

    strategy: PlacementStrategy = PlacementStrategy.SPREAD
    max_per_node: Count = 0
    """Instances of the pool; 0: no limit."""
    selector: Annotated[dict[Text, Text], AfterValidator(by_name)] = {}
    """Labels that a node must have, all of them."""


class Rotation(Section):
    """How instances are replaced by fresh ones, as leaks of memory ask for."""

    every_s: Duration = 7 * DAY_S
    """0: never."""
    at_once: AtLeastOne = 10
    """Instances of the pool that are replaced at the same time, at most."""
    drain_s: Duration = 60.0
    """How long an instance serves what it has begun before it is stopped."""
    warm_up_s: Duration = 60.0
    """Expected time to load the model; counted in the arithmetic of the rotation."""


WORKLOAD = "@workload"


class Pool(Section):
    """Instances that are all alike. Documents have the keys of the workload beside the others."""

    name: PoolName
    count: Count
    workload: Workload = Field(validation_alias=WORKLOAD)
    placement: Placement = Placement()
    rotation: Rotation = Rotation()
    developers: tuple[Developer, ...] = ()
    """Who gets an instance of the pool for themselves, one each."""
    archive: str = ""
    """Where the provisioner's machine has the image, for nodes that lack it; no part of the
    workload: to have it elsewhere changes nothing that runs."""

    @model_validator(mode="before")
    @classmethod
    def _gather_workload(cls, given: Any, info: ValidationInfo) -> Any:
        if not info.context or not isinstance(given, dict):
            return given
        keys = {key_of(name) for name in Workload.model_fields} - {"probe"} | {"health"}
        own = {key: value for key, value in given.items() if key not in keys}
        return {**own, WORKLOAD: {key: given[key] for key in given if key in keys}}

    @model_serializer(mode="wrap")
    def _spread_workload(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document = serialized(self)
        workload = document.pop("workload")
        return {"name": document.pop("name"), **workload, **document}

    @field_validator("developers")
    @classmethod
    def _differ(cls, developers: tuple[str, ...]) -> tuple[str, ...]:
        refuse_repeated(developers)
        return developers

    @field_validator("archive")
    @classmethod
    def _has_an_image(cls, archive: str, info: ValidationInfo) -> str:
        if archive and (not archive.startswith("/") or "\0" in archive):
            raise ValueError(f"must be an absolute path, got {archive!r}")
        workload = info.data.get("workload")
        if archive and workload is not None and not workload.image:
            raise ValueError("needs an `image`: the name that its image gets on the nodes")
        return archive


class Limits(Section):
    """How fast the fleet may be changed, and when to give up on something."""

    operations: AtLeastOne = 50
    """Instances started or removed at the same time, over the fleet."""
    operations_per_node: Count = 0
    """0: three for each of the node's CPUs."""
    unavailable_ratio: Share = 0.05
    """Share of a pool that may be down at once by our own doing; one instance always may."""
    start_timeout_s: Timeout = 30.0
    """From the order to the first healthy answer."""
    warm_up_timeout_s: Timeout = 1800.0
    """From then on, until its model is fetched and loaded; later the try has failed."""
    tries: AtLeastOne = 3
    backoff_base_s: Duration = 1.0
    backoff_cap_s: Duration = 30.0
    retry_failed_s: Duration = 600.0
    """After this time an instance whose tries are used up is tried again, elsewhere if possible."""
    node_grace_s: Duration = 120.0
    """A node that is silent for this long is gone: its instances are placed elsewhere."""
    stop_grace_s: Duration = 10.0
    """Between asking an instance to end and killing it."""


class Fleet(Section):
    """The whole specification. Names of nodes and of pools are unique."""

    name: FleetName
    nodes: Annotated[tuple[Node, ...], Field(max_length=MAX_NODES)]
    pools: Annotated[tuple[Pool, ...], Field(max_length=MAX_POOLS)]
    limits: Limits = Limits()


def refuse_repeated(names: list[str] | tuple[str, ...]) -> None:
    """Refuse a name that an earlier one equals.

    Raises:
        ValueError: There is one.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"holds {name!r} twice")
        seen.add(name)
