"""The specification as a person writes it: its keys, their types and defaults."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from provisioning.model import Limits, Placement, Probe, Rotation, RuntimeKind, Spread, Workload
from provisioning.spec.amounts import parse_duration_s, parse_share, parse_size_bytes
from provisioning.spec.engines import Preset

RANGE = re.compile(r"\{([0-9]{1,6})\.\.([0-9]{1,6})\}", re.ASCII)
MAX_NODES = 10_000


def names_of(text: str, count: int | None) -> tuple[str, ...]:
    """Return the names that a name, with a range or beside a count, stands for."""
    if count is None:
        return expanded(text)
    if RANGE.search(text):
        raise ValueError("holds a range beside a count; give one or the other")
    if not 1 <= count <= MAX_NODES:
        raise ValueError(f"count must be from 1 to {MAX_NODES:,}, got {count:,}")
    width = len(str(count))
    return tuple(f"{text}-{number:0{width}}" for number in range(1, count + 1))


def expanded(text: str) -> tuple[str, ...]:
    """Return a text for each number of its range; zeros in front keep the width."""
    found = RANGE.search(text)
    if found is None:
        return (text,)
    if RANGE.search(text, found.end()):
        raise ValueError(f"holds more than one range: {text}")
    first, last = int(found[1]), int(found[2])
    if not first <= last < first + MAX_NODES:
        raise ValueError(f"range {found[0]} must ascend, and hold at most {MAX_NODES:,} numbers")
    width = len(found[1])
    before, after = text[: found.start()], text[found.end() :]
    return tuple(f"{before}{number:0{width}}{after}" for number in range(first, last + 1))


def aligned(text: str, n: int) -> tuple[str, ...]:
    """Return n texts: those of a range, which has to have n numbers, or n times the same."""
    texts = expanded(text)
    if RANGE.search(text) is None:
        return texts * n
    if len(texts) != n:
        raise ValueError(f"range stands for {len(texts):,} texts, the name for {n:,} nodes: {text}")
    return texts


LIST, MAPPING, TEXT = "@list", "@mapping", "@text"
MAX_COUNT = 1_000_000


def _kind(value: Any) -> str:
    """Return the tag of a value that may be a list, a mapping or a text."""
    if isinstance(value, list | tuple):
        return LIST
    return MAPPING if isinstance(value, dict | BaseModel) else TEXT


def _text(value: object) -> str:
    """Return a text or a number as a text; `yes` and `true` could mean two things."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a text or a number; put it in quotes")
    return str(value)


def _text_or_nothing(value: object) -> str | None:
    return None if value is None else _text(value)


Amount = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
Cpus = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Duration = Annotated[float, BeforeValidator(parse_duration_s)]
Port = Annotated[int, Field(strict=True, ge=1, le=65_535)]
Share = Annotated[float, BeforeValidator(parse_share)]
Size = Annotated[int, BeforeValidator(parse_size_bytes)]
Text = Annotated[str, BeforeValidator(_text)]
Texts = dict[Text, Text]
Variables = dict[Text, Annotated[str | None, BeforeValidator(_text_or_nothing)]]
"""A variable without a value is one that the engine sets by default, and is left out."""


class Section(BaseModel):
    """A part of the specification; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HealthForm(Section):
    """How to see that an instance is healthy; see `Probe`."""

    path: str | None = None
    interval: Duration = Probe().interval_s
    timeout: Duration = Probe().timeout_s
    failures: Amount = Probe().n_failures


class RequestForm(Section):
    """A request of the warm-up; a mapping as body is sent as JSON."""

    path: str
    body: Annotated[
        Annotated[str, Tag(TEXT)] | Annotated[dict[str, Any], Tag(MAPPING)], Discriminator(_kind)
    ] = ""
    timeout: Duration = 300.0


WarmUps = Annotated[
    Annotated[Preset, Tag(TEXT)] | Annotated[list[RequestForm], Tag(LIST)], Discriminator(_kind)
]


class MountForm(Section):
    """A folder of the node that containers see, read-only."""

    source: str
    target: str


class PlacementForm(Section):
    """Where a pool's instances may be."""

    strategy: Spread = Placement().strategy
    max_per_node: Amount = Placement().max_per_node
    selector: Texts = {}


class RotationForm(Section):
    """How instances are replaced by fresh ones."""

    every: Duration = Rotation().every_s
    at_once: Amount = Rotation().at_once
    drain: Duration = Rotation().drain_s
    warm_up: Duration = Rotation().warm_up_s


class DevelopersForm(Section):
    """Who gets an instance: the lines of a file, or so many with made-up names."""

    file: str | None = None
    count: Amount = 0
    prefix: str = "dev-"


class PoolForm(Section):
    """Instances that are all alike."""

    name: str
    model: str
    engine: str = "ollama"
    count: Amount
    image: str = ""
    archive: str = ""
    command: list[Text] | None = None
    environment: Variables = {}
    mounts: list[MountForm] = []
    cpus: Cpus = Workload("", "").cpus
    memory: Size = Workload("", "").memory_bytes
    health: HealthForm = HealthForm()
    warm_up: WarmUps | None = None
    placement: PlacementForm = PlacementForm()
    rotation: RotationForm = RotationForm()
    developers: Annotated[
        Annotated[list[Text], Tag(LIST)] | Annotated[DevelopersForm, Tag(MAPPING)],
        Discriminator(_kind),
    ] = []


class NodeForm(Section):
    """A machine, or several: `rack1-n{01..12}`, or a name and a count."""

    name: str
    count: Amount | None = None
    runtime: RuntimeKind
    address: str = "127.0.0.1"
    endpoint: str = ""
    cpus: Cpus
    memory: Size
    max_instances: Amount = 0
    first_port: Port = 20_000
    last_port: Port = 29_999
    labels: Texts = {}
    cordoned: Annotated[bool, Field(strict=True)] = False


class LimitsForm(Section):
    """How fast the fleet may be changed; see `Limits`."""

    operations: Amount = Limits().operations
    operations_per_node: Amount = Limits().operations_per_node
    unavailable: Share = Limits().unavailable_ratio
    start_timeout: Duration = Limits().start_timeout_s
    warm_up_timeout: Duration = Limits().warm_up_timeout_s
    tries: Amount = Limits().tries
    backoff_base: Duration = Limits().backoff_base_s
    backoff_cap: Duration = Limits().backoff_cap_s
    retry_failed: Duration = Limits().retry_failed_s
    node_grace: Duration = Limits().node_grace_s
    stop_grace: Duration = Limits().stop_grace_s


class FleetForm(Section):
    """The whole specification."""

    name: str
    nodes: list[NodeForm]
    pools: list[PoolForm]
    limits: LimitsForm = LimitsForm()
