"""What is decided on, and the actions that can be decided."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from provisioning.model import Instance, InventoryEntry, NodeReport, Reason
from provisioning.store.base import StoredInstance


class Unhealthy(msgspec.Struct, frozen=True):
    """A running instance does not answer its health check."""

    since_s: float
    """When the first of the failures in a row was seen, by the monotonic clock."""
    fault: str


class StateSnapshot(msgspec.Struct, frozen=True):
    """All that is decided on, as of one moment."""

    stored: Mapping[str, StoredInstance]
    """By instance id."""
    reports: Mapping[str, NodeReport]
    """By node; a node that was never asked may be missing."""
    watching_since_s: float = 0.0
    """When this provisioner began to ask nodes: before that, silence says nothing."""
    unhealthy: Mapping[str, Unhealthy] = {}
    """Running instances that are unhealthy, by id."""
    working: frozenset[str] = frozenset()
    """Ids of instances that an operation of this provisioner is about now."""
    starting: frozenset[str] = frozenset()
    """Those of them that are being started: a Stop calls that off."""
    collecting: frozenset[tuple[str, str]] = frozenset()
    """Node and name of containers that are being removed without a record."""
    backing_off: frozenset[str] = frozenset()
    """Names of containers that could just not be removed, and are left alone for a while."""
    idle: frozenset[str] = frozenset()
    """Containers of draining instances that have no request under way."""
    deletable_orphans: frozenset[tuple[str, str]] = frozenset()
    """Node and name of orphans that a person has ordered to be deleted."""


class CreateInstance(msgspec.Struct, frozen=True):
    """Write a new instance, and start it."""

    instance: Instance

    @property
    def id(self) -> str:
        """Return the instance's id."""
        return self.instance.id


class Start(msgspec.Struct, frozen=True):
    """Go on with a start that nobody works on."""

    id: str
    inventory_entry: InventoryEntry
    """Of the container that is made now."""


class Reschedule(msgspec.Struct, frozen=True):
    """Begin the next generation of an instance without a container to stop: it failed, or is lost.

    What still runs is replaced by Drain or Stop, and then Start.
    """

    id: str
    node: str
    port: int
    generation: int
    workload: str
    cpus: float
    memory_bytes: int
    inventory_entry: InventoryEntry
    reason: Reason | None = None
    """None: it is tried again."""


class Drain(msgspec.Struct, frozen=True):
    """Let an instance end what it has begun; it is stopped later."""

    id: str
    reason: Reason


class Stop(msgspec.Struct, frozen=True):
    """Remove an instance's container.

    It starts again, or is gone for good. A start is cancelled.
    """

    id: str
    reason: Reason
    detail: str = ""


class DeleteRecord(msgspec.Struct, frozen=True):
    """Delete the record of an instance that is not wanted and has no container to be removed."""

    id: str


class AssignDeveloper(msgspec.Struct, frozen=True):
    """Give an instance to a developer; empty: to nobody."""

    id: str
    developer: str


class GarbageCollect(msgspec.Struct, frozen=True):
    """Remove a container that is ours and that no record wants."""

    node: str
    container: str

    @property
    def id(self) -> str:
        """Return nothing: it is about no instance."""
        return ""


Action = (
    CreateInstance
    | Start
    | Reschedule
    | Drain
    | Stop
    | DeleteRecord
    | AssignDeveloper
    | GarbageCollect
)
