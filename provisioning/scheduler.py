"""Choose nodes and ports for instances within the fleet's limits and disruption budget; pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import cached_property

import msgspec

from provisioning.actions import (
    Action,
    CreateInstance,
    Drain,
    GarbageCollect,
    Reschedule,
    Start,
    StateSnapshot,
    Stop,
)
from provisioning.model import (
    Fleet,
    Instance,
    InventoryEntry,
    Limits,
    Node,
    Phase,
    PlacementStrategy,
    Pool,
    Reason,
)
from provisioning.state import NodeState, ObservedState, Size, Usage, orphan_policy
from provisioning.workload import instance_id, inventory_entry_of

LARGEST_SHARE = 0.5
"""Of the fleet's operations that one of several nodes may have: it may be one where all hang."""
OPERATIONS_PER_CPU = 3
"""Making containers is bound by the CPU: more at once only makes each slower."""


class Priority(IntEnum):
    """What an operation is for; the later ones may hang, so they have a smaller share."""

    HEALING = 0
    """A removal, or a start of what was healthy with this workload."""
    NEW = 1
    """A start of what was never healthy: its model may have to come from a registry that hangs."""
    RETRY = 2
    """A start of what could not be started the last time."""


SHARES = {Priority.HEALING: 1.0, Priority.NEW: 0.9, Priority.RETRY: 0.5}
"""Of the operations, over the fleet and on a node, that a claim and those after it may have: what
was healthy must not wait until the time of starts that hang is up."""


def priority_of(instance: Instance, digest: str) -> Priority:
    """Return what the start of an instance's next container is.

    By the digest of what that is to run.
    """
    if instance.n_failures > 0:
        return Priority.RETRY
    is_known = instance.has_served and instance.workload == digest
    return Priority.HEALING if is_known else Priority.NEW


def operations_on(node: Node, limits: Limits) -> int:
    """Return how many operations may be under way on a node at once."""
    if limits.operations_per_node:
        return limits.operations_per_node
    return max(1, math.ceil(OPERATIONS_PER_CPU * node.cpus))


class OperationSlots:
    """The starts and stops that may still be begun; changes as actions are decided."""

    def __init__(self, fleet: Fleet, busy: Iterable[tuple[str, Priority]]) -> None:
        """Take the operations under way, each with its node."""
        share = LARGEST_SHARE if len(fleet.nodes) > 1 else 1.0
        most = max(1, math.floor(share * fleet.limits.operations))
        self._limit_by_node = {
            node.name: min(most, operations_on(node, fleet.limits)) for node in fleet.nodes
        }
        self._n_free = {
            priority: share_of(priority, fleet.limits.operations) for priority in Priority
        }
        self._n_on = {priority: Counter[str]() for priority in Priority}
        for node, priority in busy:
            self._count(node, priority)

    def is_full(self, priority: Priority) -> bool:
        """Say whether no more operations of the kind may be begun on any node."""
        return any(self._n_free[one] <= 0 for one in _counted_as(priority))

    def has_free(self, node: str, priority: Priority) -> bool:
        """Say whether one more operation may be begun on a node."""
        limit = self._limit_by_node.get(node, OPERATIONS_PER_CPU)
        return not self.is_full(priority) and all(
            self._n_on[one][node] < share_of(one, limit) for one in _counted_as(priority)
        )

    def take(self, node: str, priority: Priority) -> bool:
        """Count one more operation on a node; say whether it may be begun."""
        is_free = self.has_free(node, priority)
        if is_free:
            self._count(node, priority)
        return is_free

    def _count(self, node: str, priority: Priority) -> None:
        for one in _counted_as(priority):
            self._n_free[one] -= 1
            self._n_on[one][node] += 1


def _counted_as(priority: Priority) -> tuple[Priority, ...]:
    """Return the priorities out of whose share an operation is: a retry is a start, too."""
    return tuple(Priority)[: priority + 1]


def share_of(priority: Priority, n_operations: int) -> int:
    """Return how many of the operations a priority and those after it may have together."""
    return max(min(1, n_operations), math.floor(SHARES[priority] * n_operations + 1e-9))


class Binding(msgspec.Struct, frozen=True):
    """A place for an instance."""

    node: str
    port: int


def is_eligible(node: Node | None, pool: Pool) -> bool:
    """Say whether the pool's instances may be on the node, room or not."""
    if node is None or node.is_cordoned:
        return False
    return pool.placement.selector.items() <= node.labels.items()


class Capacity:
    """What is used of each node that answers; changes as actions are decided."""

    def __init__(
        self,
        fleet: Fleet,
        instances: Iterable[Instance],
        unwanted: Iterable[tuple[str, Size]],
        *,
        reachable: frozenset[str],
        may_begin: Callable[[str, Priority], bool],
    ) -> None:
        """Take what says whether one more operation may be begun on a node."""
        self._usage = {node.name: Usage(node) for node in fleet.nodes if node.name in reachable}
        self._may_begin = may_begin
        self._full: set[str] = set()
        """Pools without room on any node, as long as nothing is released."""
        for instance in instances:
            self.reserve(instance)
        for node, size in unwanted:
            if usage := self._usage.get(node):
                usage.held.add(size)

    def reserve(self, instance: Instance) -> None:
        """Count an instance where it is placed."""
        if usage := self._usage.get(instance.node):
            usage.ports.add(instance.port)
            usage.count(instance)

    def keep_port(self, instance: Instance) -> None:
        """Keep a released port from others for now: a store makes one change a port."""
        if usage := self._usage.get(instance.node):
            usage.ports.add(instance.port)

    def release(self, instance: Instance) -> None:
        """Count an instance no more, so that it may be placed again."""
        if usage := self._usage.get(instance.node):
            usage.ports.discard(instance.port)
            usage.count(instance, n=-1)
            self._full.clear()

    def is_full(self, pool: Pool, instance: Instance) -> bool:
        """Say whether it is known that there is no room for an instance of the pool.

        One that holds room where the pool may be can have that at least.
        """
        usage = self._usage.get(instance.node)
        has_own = usage is not None and is_eligible(usage.node, pool)
        return pool.name in self._full and (not has_own or instance.phase is Phase.FAILED)

    def binding(self, pool: Pool, instance_id: str) -> Binding | None:
        """Return a place for a new instance; None: there is no room."""
        if pool.name in self._full:
            return None
        return _first_free(self._ranked(pool, Priority.NEW), instance_id)

    def binding_again(self, pool: Pool, instance: Instance, priority: Priority) -> Binding | None:
        """Return a place for an instance's next generation; None: there is no room.

        It stays where it is if it can, except after a failed start: then it goes first where none
        has failed yet, stays only where there is no other place, and gets another port. The
        instance must have been released.
        """
        ranked = self._ranked(pool, priority)
        here = [usage for usage in ranked if usage.node.name == instance.node]
        elsewhere = [usage for usage in ranked if usage.node.name != instance.node]
        if instance.n_failures:
            elsewhere.sort(key=lambda usage: usage.node.name in instance.failed_on)
            # Another process may have the port, and those beside it, on other nodes too.
            seed = f"{instance.id} {instance.n_failures}"
            return _first_free(elsewhere + here, seed, avoided=instance.port)
        if here and here[0].is_free(instance.port):
            return Binding(instance.node, instance.port)
        return _first_free(here + elsewhere, instance.id)

    def _ranked(self, pool: Pool, priority: Priority) -> list[Usage]:
        """Return the nodes that have room for one more of the pool, the best one first.

        Where an operation may begin now comes first.
        """
        workload = pool.workload
        size = Size(workload.cpus, workload.memory_bytes)
        limit = pool.placement.max_per_node
        fitting = [
            usage
            for usage in self._usage.values()
            if is_eligible(usage.node, pool)
            and usage.has_room(size)
            and (not limit or usage.n_by_pool[pool.name] < limit)
        ]
        if not fitting:
            self._full.add(pool.name)
        sign = -1.0 if pool.placement.strategy is PlacementStrategy.BINPACK else 1.0
        return sorted(
            fitting,
            key=lambda usage: (
                not self._may_begin(usage.node.name, priority),
                sign * usage.share,
                usage.node.name,
            ),
        )


def _first_free(usages: Sequence[Usage], seed: str, *, avoided: int = 0) -> Binding | None:
    for usage in usages:
        port = usage.free_port(seed, avoided=avoided)
        if port is not None:
            return Binding(usage.node.name, port)
    return None


CANCELLABLE = frozenset({Phase.STARTING, Phase.STOPPING})
"""STOPPING with a start under way: the Stop was written, but that answer of the store was lost."""


class Scheduler:
    """Turns what one reconcile asks for into actions, where slots and capacity allow it."""

    def __init__(self, desired: Fleet, observed: StateSnapshot, *, now_s: float) -> None:
        self.desired = desired
        self.observed = observed
        self.now_s = now_s
        self.state = ObservedState(desired, observed, now_s=now_s)
        self.orphans = orphan_policy(desired, observed)
        self.actions: list[Action] = []
        busy = [observed.stored[id_].instance for id_ in observed.working & observed.stored.keys()]
        removals = [(node, Priority.HEALING) for node, _ in observed.collecting]
        self._slots = OperationSlots(
            desired, [*((one.node, _priority_of_busy(one)) for one in busy), *removals]
        )

    @property
    def is_full(self) -> bool:
        """Say whether no further instance may be made now."""
        return self._slots.is_full(Priority.NEW)

    @cached_property
    def _capacity(self) -> Capacity:
        """What is used of the nodes; made only when something has to be placed."""
        return Capacity(
            self.desired,
            (stored.instance for stored in self.observed.stored.values()),
            self.state.unwanted_sizes(),
            reachable=self.state.reachable,
            may_begin=self._slots.has_free,
        )

    @cached_property
    def _node_by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.desired.nodes}

    @cached_property
    def _generations(self) -> dict[str, int]:
        return self.state.generations()

    @cached_property
    def _taken_ids(self) -> set[str]:
        # An id whose containers are still around must not begin again with generation 1.
        return {*self.observed.stored, *self._generations}

    @cached_property
    def _unwanted_names(self) -> frozenset[str]:
        """Containers that are being removed, or will be: their nodes answer."""
        reachable = self.state.reachable
        return frozenset(
            container.name for node, container in self.state.unwanted if node in reachable
        )

    def collect(self, node: str, container: str) -> bool:
        """Remove a container that nobody wants."""
        return container not in self.observed.backing_off and self._operate(
            node, GarbageCollect(node, container)
        )

    def stop(self, instance: Instance, reason: Reason, detail: str = "") -> bool:
        """Remove an instance's container."""
        if instance.container in self.observed.backing_off:
            return False
        return self._operate(instance.node, Stop(instance.id, reason, detail))

    def cancel_start(self, instance: Instance, reason: Reason) -> None:
        """Stop an instance that is being started, where its node answers.

        The start gives its operation to the stop: starts that hang never keep themselves alive.
        """
        is_begun = instance.id in self.observed.starting and instance.phase in CANCELLABLE
        is_reachable = self.state.node_state(instance.node) is NodeState.REACHABLE
        if is_begun and is_reachable:
            self.actions.append(Stop(instance.id, reason))

    def start(self, instance: Instance, pool: Pool) -> bool:
        """Go on with an instance's start.

        Unless a container of that name is still to be removed.
        """
        if instance.container in self._unwanted_names:
            return False
        start = Start(instance.id, self._inventory_entry(pool, instance.node))
        return self._operate(instance.node, start, priority_of(instance, instance.workload))

    def add(self, action: Action) -> None:
        """Add an action that takes no operation."""
        self.actions.append(action)

    def reschedule(self, instance: Instance, pool: Pool, reason: Reason | None = None) -> bool:
        """Begin an instance's next generation, where there is room."""
        priority = priority_of(instance, pool.workload.digest)
        if self._slots.is_full(priority):
            return False
        capacity = self._capacity
        if capacity.is_full(pool, instance):
            return False
        capacity.release(instance)
        binding = capacity.binding_again(pool, instance, priority)
        if binding is None or not self._slots.take(binding.node, priority):
            capacity.reserve(instance)
            return False
        workload = pool.workload
        action = Reschedule(
            id=instance.id,
            node=binding.node,
            port=binding.port,
            generation=max(instance.generation, self._generations.get(instance.id, 0)) + 1,
            workload=workload.digest,
            cpus=workload.cpus,
            memory_bytes=workload.memory_bytes,
            inventory_entry=self._inventory_entry(pool, binding.node),
            reason=reason,
        )
        self.actions.append(action)
        capacity.reserve(_moved(instance, pool, binding))
        capacity.keep_port(instance)
        return True

    def migrate(self, instance: Instance, pool: Pool) -> bool:
        """Drain an instance whose node it has to leave, where another one has room for it."""
        if not self.reserve_capacity(instance, pool):
            return False
        self.add(Drain(instance.id, Reason.NODE_REMOVED))
        return True

    def reserve_capacity(self, instance: Instance, pool: Pool) -> bool:
        """Reserve room elsewhere for an instance that leaves its node, if there is any.

        So that all who leave find room together; the place itself is chosen later.
        """
        binding = self._capacity.binding(pool, instance.id)
        if binding is None:
            return False
        self._capacity.reserve(_moved(instance, pool, binding))
        return True

    def create_instance(self, pool: Pool, number: int, developer: str) -> bool:
        """Make a new instance, where there is room."""
        if self.is_full:
            return False
        new_id = instance_id(pool.name, number)
        binding = self._capacity.binding(pool, new_id)
        if binding is None:
            return False
        instance = Instance(
            id=new_id,
            pool=pool.name,
            node=binding.node,
            port=binding.port,
            generation=1,
            phase=Phase.STARTING,
            phase_since_s=self.now_s,
            workload=pool.workload.digest,
            developer=developer,
            cpus=pool.workload.cpus,
            memory_bytes=pool.workload.memory_bytes,
            inventory_entry=self._inventory_entry(pool, binding.node),
        )
        if not self._operate(binding.node, CreateInstance(instance), Priority.NEW):
            return False
        self._capacity.reserve(instance)
        return True

    def free_number(self, pool: Pool, *, after: int) -> int:
        """Return the lowest number above `after` that no instance or container of the pool has."""
        number = after + 1
        while instance_id(pool.name, number) in self._taken_ids:
            number += 1
        return number

    def _inventory_entry(self, pool: Pool, node: str) -> InventoryEntry:
        return inventory_entry_of(pool.workload, self._node_by_name[node])

    def _operate(self, node: str, action: Action, priority: Priority = Priority.HEALING) -> bool:
        if not self._slots.take(node, priority):
            return False
        self.actions.append(action)
        return True


def _priority_of_busy(instance: Instance) -> Priority:
    is_start = instance.phase is Phase.STARTING
    return priority_of(instance, instance.workload) if is_start else Priority.HEALING


def _moved(instance: Instance, pool: Pool, binding: Binding) -> Instance:
    """Return an instance as it counts on the node that it is to have next."""
    return msgspec.structs.replace(
        instance,
        node=binding.node,
        port=binding.port,
        phase=Phase.STARTING,
        cpus=pool.workload.cpus,
        memory_bytes=pool.workload.memory_bytes,
    )
