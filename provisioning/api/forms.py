"""The documents that the API takes and gives.

Orders refuse unknown fields. Times are seconds since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from provisioning.model import Phase, Reason, UnitState

AGE_HEADER = "Inventory-Age-Seconds"
"""How old what an answer tells is."""
NOT_LEADING = "urn:ollama-fleet:not-leading"
"""Type of the problem that another provisioner leads, or none: nothing was changed."""

PROBLEM_TYPES = (
    f"`{NOT_LEADING}`: this provisioner does not lead, so it has changed nothing; `leader` is the "
    "one that does, where there is one. `about:blank`: the status says which kind it is."
)


class State(StrEnum):
    """What the exporter is told about an instance."""

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
    labels: Mapping[str, str] = {}
    """Its pool, and the labels of its node."""


class Details(Entry, frozen=True, omit_defaults=False, kw_only=True):
    """An instance with all that the provisioner knows of it."""

    pool: str
    port: int
    phase: Phase
    since_s: float
    """When it entered its phase."""
    generation: int
    workload: str
    """Digest of what it runs."""
    started_s: float = 0.0
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
    """Failed ones aside: those have no unit."""
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
    state: UnitState


class SdGroup(msgspec.Struct, frozen=True):
    """One target of Prometheus's HTTP service discovery."""

    targets: tuple[str, ...]
    labels: Mapping[str, str]


class AssignOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who gets the instance."""

    developer: Annotated[str, Meta(min_length=1, max_length=256)]


MAX_COUNT = 1_000_000


class ScaleOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many instances the pool is to have."""

    count: Annotated[int, Meta(ge=0, le=MAX_COUNT)]


class DeleteOrphansOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
