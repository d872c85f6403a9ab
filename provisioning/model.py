"""The words of the domain: instances, containers and the specification of a fleet."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from provisioning.spec.defaults import RequestsPage
from provisioning.spec.schema import (
    Canary,
    Fleet,
    Limits,
    Mount,
    Node,
    Placement,
    PlacementStrategy,
    Pool,
    Probe,
    Rotation,
    RuntimeKind,
    WarmUp,
    Workload,
)
from provisioning.spec.values import DAY_S

__all__ = [
    "DAY_S",
    "FOR_GOOD",
    "TERMINATING",
    "Canary",
    "ContainerSpec",
    "ContainerState",
    "Event",
    "Fleet",
    "Instance",
    "InventoryEntry",
    "Limits",
    "Mount",
    "Node",
    "NodeReport",
    "ObservedContainer",
    "Phase",
    "Placement",
    "PlacementStrategy",
    "Pool",
    "Probe",
    "Reason",
    "RequestsPage",
    "Rotation",
    "RuntimeKind",
    "WarmUp",
    "Workload",
    "container_name",
]


class Phase(StrEnum):
    """Where in its life an instance is, as the store keeps it."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and these are counted all the time

    STARTING = "starting"
    """It is placed; its container is being made, or made and not healthy yet."""
    RUNNING = "running"
    DRAINING = "draining"
    """It serves what it has begun, gets nothing new, and will be stopped."""
    STOPPING = "stopping"
    """Its container is being removed; then it starts again, or is gone for good."""
    FAILED = "failed"
    """It could not be started; see its fault, and when it is tried again."""


class Reason(StrEnum):
    """Why an instance is drained and stopped."""

    ROTATED = "rotated"
    CHANGED = "changed"
    """The specification asks for another workload."""
    REPLACED = "replaced"
    """A person asked for it."""
    DRAINED = "drained"
    """A person asked for it at once, whatever the limits."""
    UNHEALTHY = "unhealthy"
    EXITED = "exited"
    OUT_OF_MEMORY = "out_of_memory"
    """The kernel killed a process of its container, the first one or another; more memory helps."""
    NODE_LOST = "node_lost"
    NODE_REMOVED = "node_removed"
    SCALED_DOWN = "scaled_down"


TERMINATING = frozenset({Phase.DRAINING, Phase.STOPPING})
"""Phases on the way to a stop; what follows depends on the reason."""
FOR_GOOD = frozenset({Reason.SCALED_DOWN})
"""After these an instance does not start again."""


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One line of an instance's history."""

    at_s: float
    what: str
    """`started`, `failed`, `rotated`, … as in `lifecycle`: a Reason, or what has ended."""
    detail: str = ""
    generation: int = 0


class InventoryEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the inventory says of an instance's container, as of when that was ordered.

    The specification may have another workload since, or the node no more.
    """

    model: str = ""
    """Empty: the record is of a release that did not write it."""
    engine: str = ""
    address: str = ""
    """Of its node."""
    labels: tuple[tuple[str, str], ...] = ()
    """Of its node, sorted by name."""


class Instance(msgspec.Struct, frozen=True, omit_defaults=True):
    """One instance: a place in a pool that outlives the containers which fill it.

    One a generation.
    """

    id: str
    pool: str
    node: str
    port: int
    """Unique among the instances of a node; the store sees to it."""
    generation: int
    """Grows by one with each container that is made for the instance; the first is 1."""
    phase: Phase
    phase_since_s: float
    """When it entered its phase."""
    workload: str
    """Digest of what it runs; differs from the pool's once the specification has changed."""
    started_s: float = 0.0
    """When this generation was first healthy; 0: never."""
    reason: Reason | None = None
    """While it drains or stops: why."""
    developer: str = ""
    n_failures: int = 0
    """Starts in a row that failed, each after all its tries."""
    failed_on: tuple[str, ...] = ()
    """The nodes of those starts, the latest last."""
    retry_at_s: float = 0.0
    """While failed: when it is tried again."""
    fault: str = ""
    """The last error, in words; empty once it runs."""
    is_replace_asked: bool = False
    history: tuple[Event, ...] = ()
    """The latest events, oldest first; see `lifecycle.MAX_EVENTS`."""
    cpus: float = 0.0
    """What its container holds of its node: the workload's.

    As it was when the container was ordered.
    """
    memory_bytes: int = 0
    inventory_entry: InventoryEntry = InventoryEntry()
    has_served: bool = False
    """It was healthy with this workload, on this node or another one."""
    n_stop_tries: int = 0
    """Tries to remove this generation's container that have failed."""

    @property
    def container(self) -> str:
        """Return the name of this generation's container.

        No two containers of a fleet share one.
        """
        return container_name(self.id, self.generation)


def container_name(instance_id: str, generation: int) -> str:
    """Return the name of a container, fit for containerd: at most 76 of letters, digits, `.-_`."""
    return f"{instance_id}.{generation}"


class ContainerSpec(msgspec.Struct, frozen=True):
    """An order to a runtime: one generation of one instance, all its placeholders filled in."""

    name: str
    fleet: str
    instance_id: str
    generation: int
    pool: str
    host: str
    """The address to listen on and to be reached at."""
    port: int
    image: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    mounts: tuple[tuple[str, str], ...]
    cpus: float
    memory_bytes: int
    archive: str = ""
    """An OCI archive of the image on this machine, for where the image is missing."""
    model: str = ""
    """For simulated containers; real ones learn it from command, environment or warm-up."""
    engine: str = ""
    """For simulated containers: which server they pretend to be."""


class ContainerState(StrEnum):
    """What a runtime says about a container."""

    CREATED = "created"
    """Made, never started: whoever was making it died."""
    RUNNING = "running"
    EXITED = "exited"


class ObservedContainer(msgspec.Struct, frozen=True):
    """A container that a runtime has, by its own account."""

    name: str
    instance_id: str
    generation: int
    state: ContainerState
    exit_status: int | None = None
    """Negative for a signal; None: it runs, or nobody knows."""
    is_out_of_memory: bool = False
    """The kernel has killed a process of it for lack of memory, and it runs on or has ended so."""


class NodeReport(msgspec.Struct, frozen=True):
    """What was last heard of a node."""

    node: str
    at_s: float
    """When it last answered; 0: never yet."""
    containers: tuple[ObservedContainer, ...] = ()
    """As of then; only those that carry this fleet's name."""
    fault: str = ""
    """Why it does not answer now; empty: it does."""

    @property
    def is_asked(self) -> bool:
        """Say whether it was asked yet."""
        return bool(self.fault) or self.at_s > 0

    @property
    def is_reachable(self) -> bool:
        """Say whether it answered the last time it was asked."""
        return not self.fault and self.at_s > 0
