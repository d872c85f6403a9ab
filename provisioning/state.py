"""What is observed: the room that is taken, the containers and processes, orphans; pure."""

from __future__ import annotations

import signal
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from provisioning.actions import StateSnapshot
from provisioning.model import (
    ContainerState,
    Fleet,
    Instance,
    Limits,
    Node,
    NodeReport,
    ObservedContainer,
    Phase,
)

SLACK = 1e-9
"""CPUs are fractions; their sums are not exact."""


class Size(msgspec.Struct, frozen=True):
    """What a container holds of its node."""

    cpus: float
    memory_bytes: int

    def or_more(self, other: Size) -> Size:
        """Return what is enough for either."""
        return Size(max(self.cpus, other.cpus), max(self.memory_bytes, other.memory_bytes))


def size_of(instance: Instance) -> Size:
    """Return what an instance's container holds of its node."""
    return Size(instance.cpus, instance.memory_bytes)


def largest_size(fleet: Fleet) -> Size:
    """Return a size that no container made by this specification exceeds."""
    workloads = [pool.workload for pool in fleet.pools]
    return Size(
        max((workload.cpus for workload in workloads), default=0.0),
        max((workload.memory_bytes for workload in workloads), default=0),
    )


class Load:
    """What some containers hold together."""

    def __init__(self) -> None:
        self.cpus = 0.0
        self.memory_bytes = 0
        self.n_containers = 0

    def add(self, size: Size, *, n: int = 1) -> None:
        """Count n more containers, or less where n is negative."""
        self.cpus += n * size.cpus
        self.memory_bytes += n * size.memory_bytes
        self.n_containers += n


class Usage:
    """What is used of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.held = Load()
        self.failed = Load()
        """What its failed instances would hold."""
        self.n_by_pool: Counter[str] = Counter()
        self.ports: set[int] = set()

    def count(self, instance: Instance, *, n: int = 1) -> None:
        """Count an instance, or no more where n is -1; its port aside."""
        if instance.phase is Phase.FAILED:
            self.failed.add(size_of(instance), n=n)
        else:
            self.held.add(size_of(instance), n=n)
            self.n_by_pool[instance.pool] += n

    def has_room(self, size: Size) -> bool:
        """Say whether one more container fits."""
        node, held = self.node, self.held
        return (
            held.cpus + size.cpus <= node.cpus + SLACK
            and held.memory_bytes + size.memory_bytes <= node.memory_bytes
            and (not node.max_instances or held.n_containers < node.max_instances)
        )

    @property
    def share(self) -> float:
        """Return the used share of what is scarcest, failed instances counted in; from 0 up."""
        node, held, failed = self.node, self.held, self.failed
        n_containers = held.n_containers + failed.n_containers
        return max(
            (held.cpus + failed.cpus) / max(node.cpus, SLACK),
            (held.memory_bytes + failed.memory_bytes) / max(node.memory_bytes, 1),
            n_containers / node.max_instances if node.max_instances else 0.0,
        )

    def is_free(self, port: int) -> bool:
        """Say whether the port is one of the node's, and no record claims it."""
        return self.node.first_port <= port <= self.node.last_port and port not in self.ports

    def free_port(self, seed: str, *, avoided: int = 0) -> int | None:
        """Return a port that no record claims; None: all are taken.

        The search begins where the seed says, not at the first port: what is just being stopped,
        or is held by a container without a record, is then seldom hit. The avoided port is the last
        choice.
        """
        node = self.node
        n_ports = node.last_port - node.first_port + 1
        start = zlib.crc32(seed.encode())
        for n in range(n_ports):
            port = node.first_port + (start - node.first_port + n) % n_ports
            if port not in self.ports and port != avoided:
                return port
        return avoided if self.is_free(avoided) else None


class NodeState(Enum):
    """How a node is, as far as it can be said."""

    REACHABLE = auto()
    SILENT = auto()
    """It does not answer, but may come back soon: nothing is done about it."""
    LOST = auto()
    """It has not answered for the grace period, or was never asked for as long."""


class ObservedState:
    """A fleet's nodes and containers at one moment."""

    def __init__(self, desired: Fleet, observed: StateSnapshot, *, now_s: float) -> None:
        self.observed = observed
        self.now_s = now_s
        self._desired = desired
        self._node_names = frozenset(node.name for node in desired.nodes)
        self.states = {
            name: self._state(observed.reports.get(name))
            for name in {*self._node_names, *observed.reports}
        }
        self.current: dict[str, ObservedContainer] = {}
        """The container of each instance's present generation, by instance id."""
        self.unwanted: list[tuple[str, ObservedContainer]] = []
        """Containers that no record wants, with their nodes: leftovers, and orphans."""
        for report in observed.reports.values():
            self._sort(report)

    @property
    def reachable(self) -> frozenset[str]:
        """Return the names of the nodes that answer."""
        return frozenset(
            name for name, state in self.states.items() if state is NodeState.REACHABLE
        )

    def node_state(self, node: str) -> NodeState:
        """Return how a node is."""
        return self.states.get(node) or self._state(None)

    def is_listed(self, node: str) -> bool:
        """Say whether the specification has the node."""
        return node in self._node_names

    def ending(self, instance: Instance) -> str:
        """Say in words how the container of a running instance has ended; empty: it has not."""
        if self.is_outdated(instance.node, instance):
            return ""
        container = self.current.get(instance.id)
        if container is None:
            return "its container is gone; how it ended is not known"
        return ending_words(container)

    def is_out_of_memory(self, instance: Instance) -> bool:
        """Say whether the kernel killed a process of an instance's container for lack of memory."""
        container = self.current.get(instance.id)
        is_hit = container is not None and container.is_out_of_memory
        return is_hit and not self.is_outdated(instance.node, instance)

    def unwanted_sizes(self) -> Iterator[tuple[str, Size]]:
        """Yield the nodes and sizes of containers that no record wants: an upper guess."""
        largest = largest_size(self._desired)
        for node, container in self.unwanted:
            if container.state is not ContainerState.EXITED:
                stored = self.observed.stored.get(container.instance_id)
                yield node, largest.or_more(size_of(stored.instance)) if stored else largest

    def generations(self) -> dict[str, int]:
        """Return the newest generation of each instance that has a container anywhere."""
        newest: dict[str, int] = {}
        for report in self.observed.reports.values():
            for container in report.containers:
                newest[container.instance_id] = max(
                    newest.get(container.instance_id, 0), container.generation
                )
        return newest

    def is_outdated(self, node: str, instance: Instance) -> bool:
        """Say whether a node was asked before an instance's last change, such as an earlier try."""
        return self.observed.reports[node].at_s < instance.phase_since_s

    def _state(self, report: NodeReport | None) -> NodeState:
        limits, watching_since_s = self._desired.limits, self.observed.watching_since_s
        return node_state(report, limits, watching_since_s=watching_since_s, now_s=self.now_s)

    def _sort(self, report: NodeReport) -> None:
        for container in report.containers:
            stored = self.observed.stored.get(container.instance_id)
            is_going = (report.node, container.name) in self.observed.collecting
            if stored and not is_going and _is_wanted(container, stored.instance, report.node):
                self.current[container.instance_id] = container
            else:
                self.unwanted.append((report.node, container))


def node_state(
    report: NodeReport | None, limits: Limits, *, watching_since_s: float, now_s: float
) -> NodeState:
    """Return how a node is; before `watching_since_s`, its silence says nothing."""
    if report is not None and report.is_reachable:
        return NodeState.REACHABLE
    heard_s = max(watching_since_s, report.at_s if report else 0.0)
    return NodeState.LOST if now_s - heard_s >= limits.node_grace_s else NodeState.SILENT


def lost_nodes(desired: Fleet, observed: StateSnapshot, *, now_s: float) -> frozenset[str]:
    """Return the nodes that do not answer for longer than their grace."""
    limits, watching_since_s = desired.limits, observed.watching_since_s
    return frozenset(
        name
        for name, report in observed.reports.items()
        if report.fault
        and node_state(report, limits, watching_since_s=watching_since_s, now_s=now_s)
        is NodeState.LOST
    )


def _is_wanted(container: ObservedContainer, instance: Instance, node: str) -> bool:
    return (
        container.generation == instance.generation
        and node == instance.node
        and instance.phase is not Phase.FAILED
    )


KILLED_WORDS = "the kernel killed one of its processes: out of memory; raise the pool's `memory`"


def ending_words(container: ObservedContainer) -> str:
    """Say in words how a container has ended; empty: it runs."""
    if container.state is ContainerState.RUNNING:
        return ""
    if container.state is ContainerState.CREATED:
        return "its container was made, but does not run"
    memory = "; it ran out of memory" if container.is_out_of_memory else ""
    return f"its container has exited, status {_status_words(container.exit_status)}{memory}"


def _status_words(status: int | None) -> str:
    if status is None:
        return "not known"
    try:
        return f"{status} ({signal.Signals(-status).name})"
    except ValueError:  # it exited by itself, or the signal has no name
        return f"{status}"


MOST_DELETED = 10
"""Running orphans that are deleted unasked; more are no accident of one operation."""
LIST_COMMAND = "ollama-fleet provisioner orphans list"
DELETE_COMMAND = "ollama-fleet provisioner orphans delete"


class Orphan(NamedTuple):
    """A container or process without a record, or newer than its record."""

    node: str
    container: ObservedContainer

    @property
    def key(self) -> tuple[str, str]:
        """Return what tells it from all others."""
        return self.node, self.container.name


class OrphanPolicy(NamedTuple):
    """What becomes of the orphans."""

    n_refused: int
    """Running orphans that are kept until a person has them deleted."""
    kept: frozenset[tuple[str, str]]
    """Node and name of those that are not deleted now."""
    kept_ids: frozenset[str]
    """Their instances; some may have an older record."""
    may_place: bool
    """Whether instances may be made that have no record yet."""


def find_orphans(observed: StateSnapshot) -> tuple[Orphan, ...]:
    """Return the orphans on all nodes."""
    return tuple(
        Orphan(report.node, container)
        for report in observed.reports.values()
        for container in report.containers
        if not _is_recorded(container, observed)
    )


def orphan_policy(desired: Fleet, observed: StateSnapshot) -> OrphanPolicy:
    """Return what becomes of the orphans; those that a person gave up are deleted."""
    orphans = [one for one in find_orphans(observed) if one.key not in observed.deletable_orphans]
    n_running = sum(one.container.state is ContainerState.RUNNING for one in orphans)
    is_doubted = n_running > len(observed.stored)
    if not is_every_node_asked(desired, observed):
        return _keeping(orphans, n_refused=0, may_place=False)
    if is_doubted or n_running > MOST_DELETED:
        return _keeping(orphans, n_refused=n_running, may_place=not is_doubted)
    newer = [one for one in orphans if _is_newer_and_runs(one.container, observed)]
    return _keeping(newer, n_refused=len(newer), may_place=True)


def is_every_node_asked(desired: Fleet, observed: StateSnapshot) -> bool:
    """Say whether each node has answered once, or is known not to."""
    reports = (observed.reports.get(node.name) for node in desired.nodes)
    return all(report is not None and report.is_asked for report in reports)


def count_by_node(orphans: Sequence[Orphan]) -> dict[str, int]:
    """Return how many orphans each node has, sorted by name."""
    return dict(sorted(Counter(one.node for one in orphans).items()))


def _keeping(orphans: Sequence[Orphan], *, n_refused: int, may_place: bool) -> OrphanPolicy:
    return OrphanPolicy(
        n_refused=n_refused,
        kept=frozenset(one.key for one in orphans),
        kept_ids=frozenset(one.container.instance_id for one in orphans),
        may_place=may_place,
    )


def _is_newer_and_runs(container: ObservedContainer, observed: StateSnapshot) -> bool:
    """Say whether what runs here proves that its instance's record is old; of an orphan."""
    return container.state is ContainerState.RUNNING and container.instance_id in observed.stored


def _is_recorded(container: ObservedContainer, observed: StateSnapshot) -> bool:
    """Say whether a record tells of a container, or of one that came after it."""
    stored = observed.stored.get(container.instance_id)
    return stored is not None and container.generation <= stored.instance.generation
