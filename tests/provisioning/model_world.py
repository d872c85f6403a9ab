"""A fleet in a few dictionaries: what decide's actions do to it, without any waiting."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from provisioning.actions import (
    Action,
    CreateInstance,
    DeleteRecord,
    Drain,
    GarbageCollect,
    Reschedule,
    Start,
    StateSnapshot,
    Stop,
    Unhealthy,
)
from provisioning.budget import allowed_down
from provisioning.lifecycle import Outcome, Result, begin, finish_start, finish_stop
from provisioning.model import (
    FOR_GOOD,
    ContainerState,
    Fleet,
    Instance,
    NodeReport,
    ObservedContainer,
    Phase,
    Pool,
    Reason,
    container_name,
)
from provisioning.reconcile import decide
from provisioning.scheduler import operations_on
from provisioning.state import largest_size, size_of
from provisioning.store.base import StoredInstance
from tests.provisioning.node_faults import (
    UNHEARD,
    Fault,
    outcome_of_removal,
    outcome_of_start,
)

STEP_S = 7.0
MODELS = ("llama3", "small", "large")
FAILURES = (Result.FAILED, Result.PERMANENT, Result.RESOURCE_EXHAUSTED, Result.UNREACHABLE)


@dataclass
class Held:
    """A container that exists on a node, and what it holds of it."""

    found: ObservedContainer
    cpus: float
    memory_bytes: int
    port: int
    is_healthy: bool = True


@dataclass
class Operation:
    """What is under way: about an instance, or a garbage collection."""

    node: str
    container: str
    id: str = ""
    is_start: bool = False


@dataclass
class World:
    """Records, containers, and operations under way."""

    fleet: Fleet
    dice: random.Random
    now_s: float
    records: dict[str, Instance] = field(default_factory=dict)
    containers: dict[str, dict[str, Held]] = field(default_factory=dict)
    """By node, then by container."""
    faults: dict[str, Fault] = field(default_factory=dict)
    """What is wrong with nodes, by their names."""
    operations: list[Operation] = field(default_factory=list)
    heard_s: dict[str, float] = field(default_factory=dict)
    is_wild: bool = True
    are_orphans_deletable: bool = False
    """Whether a person has ordered to delete all orphans."""

    def __post_init__(self) -> None:
        self.watching_since_s = self.now_s
        for node in self.fleet.nodes:
            self.containers.setdefault(node.name, {})
        self.last_seen: dict[str, tuple[ObservedContainer, ...]] = {}
        self.unasked: set[str] = set()
        """Nodes that have not said anything yet since the last take-over, not even a fault."""

    def step(self) -> tuple[Action, ...]:
        """Let time pass, end some operations, decide, and begin what was decided."""
        self.now_s += STEP_S
        self._end_operations()
        if not self.is_wild or self.dice.random() < 0.5:
            self.unasked.clear()
        seen = self.observe()
        actions = decide(self.fleet, seen, self.now_s)
        check(self, seen, actions)
        for action in actions:
            self._begin(action)
        return actions

    def observe(self) -> StateSnapshot:
        """Return what a provisioner sees of the world now."""
        for name, held in self.containers.items():
            if not self.is_unheard(name) and name not in self.unasked:
                self.heard_s[name] = self.now_s
                self.last_seen[name] = tuple(one.found for one in held.values())
        return StateSnapshot(
            stored={id_: StoredInstance(one, 1) for id_, one in self.records.items()},
            reports={name: self._report(name) for name in self.containers},
            watching_since_s=self.watching_since_s,
            unhealthy={
                id_: Unhealthy(self.now_s, "no answer")
                for id_, one in self.records.items()
                if one.phase is Phase.RUNNING and not self._answers(one)
            },
            working=frozenset(one.id for one in self.operations if one.id),
            starting=frozenset(one.id for one in self.operations if one.is_start),
            collecting=frozenset(
                (one.node, one.container) for one in self.operations if not one.id
            ),
            deletable_orphans=frozenset(
                (node, held.found.name)
                for node, containers in self.containers.items()
                for held in containers.values()
                if self.are_orphans_deletable
            ),
        )

    def _report(self, name: str) -> NodeReport:
        return NodeReport(
            name,
            self.heard_s.get(name, 0.0),
            self.last_seen.get(name, ()),
            "cannot connect" if self.is_unheard(name) and name not in self.unasked else "",
        )

    def _answers(self, instance: Instance) -> bool:
        held = self.containers.get(instance.node, {}).get(instance.container)
        return (
            held is not None
            and held.is_healthy
            and held.found.state is ContainerState.RUNNING
            and self.faults.get(instance.node) is not Fault.LOST
        )

    def is_unheard(self, node: str) -> bool:
        """Say whether a node does not answer."""
        return self.faults.get(node) in UNHEARD

    def _begin(self, action: Action) -> None:
        if isinstance(action, GarbageCollect):
            self.operations.append(Operation(action.node, action.container))
            return
        id_ = action.instance.id if isinstance(action, CreateInstance) else action.id
        if isinstance(action, DeleteRecord):
            del self.records[id_]
            return
        record = begin(action, self.records.get(id_), now_s=self.now_s)
        assert record is not None
        self.records[id_] = record
        if isinstance(action, CreateInstance | Start | Reschedule):
            self._hold(record)
            self.operations.append(Operation(record.node, record.container, id_, is_start=True))
        elif isinstance(action, Stop):
            # A start that is called off leaves what it has made; the removal is to end that too.
            self.operations = [one for one in self.operations if one.id != id_]
            self.operations.append(Operation(record.node, record.container, id_))

    def _hold(self, record: Instance) -> None:
        if self.is_unheard(record.node) or record.container in self.containers[record.node]:
            return
        self.containers[record.node][record.container] = Held(
            ObservedContainer(
                record.container, record.id, record.generation, ContainerState.RUNNING
            ),
            record.cpus,
            record.memory_bytes,
            record.port,
        )

    def _end_operations(self) -> None:
        going_on = []
        for operation in self.operations:
            if self.is_wild and self.dice.random() < 0.4:
                going_on.append(operation)
            elif operation.is_start:
                self._end_start(operation)
            else:
                self._end_removal(operation)
        self.operations = going_on

    def _end_start(self, operation: Operation) -> None:
        fault = self.faults.get(operation.node)
        outcome = outcome_of_start(fault, self.dice) or self._outcome()
        held = self.containers[operation.node]
        if outcome.result is Result.DONE:
            self._hold(self.records[operation.id])
            one = held[operation.container]
            one.is_healthy = True
            one.found = ObservedContainer(
                operation.container, operation.id, one.found.generation, ContainerState.RUNNING
            )
        elif outcome.result is not Result.UNREACHABLE and self.dice.random() < 0.9:
            held.pop(operation.container, None)  # now and then the clean-up fails as well
        record = self.records[operation.id]
        self.records[operation.id] = finish_start(
            record,
            outcome,
            limits=self.fleet.limits,
            now_s=self.now_s,
        )

    def _end_removal(self, operation: Operation) -> None:
        outcome = outcome_of_removal(self.faults.get(operation.node)) or self._outcome()
        if outcome.result is Result.DONE:
            self.containers[operation.node].pop(operation.container, None)
        if not operation.id:
            return
        record = finish_stop(
            self.records[operation.id], outcome, limits=self.fleet.limits, now_s=self.now_s
        )
        if record is None:
            del self.records[operation.id]
        else:
            self.records[operation.id] = record

    def _outcome(self) -> Outcome:
        if self.is_wild and self.dice.random() < 0.3:
            return Outcome(self.dice.choice(FAILURES), "bad luck")
        return Outcome(Result.DONE)

    def shake(self) -> None:
        """Let one thing go wrong, or come right again."""
        dice = self.dice
        kind = dice.randrange(9)
        names = sorted(self.containers)
        held = [one for containers in self.containers.values() for one in containers.values()]
        if kind == 0:
            self.faults[dice.choice(names)] = dice.choice(tuple(Fault))
        elif kind in (1, 2) and self.faults:
            del self.faults[dice.choice(sorted(self.faults))]
        elif kind == 3 and held:
            one = dice.choice(held)
            one.found = ObservedContainer(
                one.found.name,
                one.found.instance_id,
                one.found.generation,
                ContainerState.EXITED,
                137,
            )
        elif kind == 4 and held:
            dice.choice(held).is_healthy = False
        elif kind == 5:
            self.now_s += dice.choice((60.0, 200.0, 3600.0, 86_400.0))
        elif kind == 6:
            self.operations.clear()  # another provisioner takes over
            self._forget_reports()
        elif kind == 7:
            node = dice.choice(names)
            containers = self.containers[node]
            if containers:
                del containers[dice.choice(sorted(containers))]
        elif kind == 8:
            self.fleet = self.fleet.replace(pools=tuple(map(self._respecified, self.fleet.pools)))

    def _forget_reports(self) -> None:
        """Know nothing of nodes; those that are slow to answer are not heard at once."""
        self.watching_since_s = self.now_s
        self.heard_s.clear()
        self.last_seen.clear()
        self.unasked = {name for name in sorted(self.containers) if self.dice.random() < 0.5}

    def _respecified(self, pool: Pool) -> Pool:
        """Return a pool of another count or workload, or as it was: a rollback."""
        model = self.dice.choice(MODELS)
        workload = pool.workload.replace(model=model)
        return pool.replace(count=self.dice.randrange(9), workload=workload)

    def calm(self, lasting: Mapping[str, Fault]) -> None:
        """From now on nothing goes wrong any more, but for what is wrong with nodes for good."""
        self.is_wild = False
        self.faults = dict(lasting)


def check(world: World, seen: StateSnapshot, actions: Sequence[Action]) -> None:
    """Assert what decide promises about every single reconcile."""
    check_one_action_each(seen, actions)
    check_operations(world, [action for action in actions if not cancels_start(seen, action)])
    check_room(world, actions)
    check_lost(world, seen, actions)
    check_orphans(world, seen, actions)
    check_names(world, actions)
    for pool in world.fleet.pools:
        check_kills(world, pool, seen, actions)


def cancels_start(seen: StateSnapshot, action: Action) -> bool:
    """Say whether an action turns a start that goes on into a stop; it needs no further operation.

    Only what is of no use is called off.
    """
    if not isinstance(action, Stop) or action.id not in seen.starting:
        return False
    assert action.reason in (Reason.SCALED_DOWN, Reason.CHANGED)
    assert seen.stored[action.id].instance.phase is Phase.STARTING
    return True


def subjects(actions: Sequence[Action]) -> list[str]:
    """Return the instances whose containers the actions change."""
    return [
        action.instance.id if isinstance(action, CreateInstance) else action.id
        for action in actions
        if isinstance(action, CreateInstance | Start | Reschedule | Stop | DeleteRecord)
    ]


def check_one_action_each(seen: StateSnapshot, actions: Sequence[Action]) -> None:
    """No instance gets two orders, or one while another is carried out."""
    ids = subjects(actions)
    assert len(ids) == len(set(ids))
    cancelled = set(subjects([action for action in actions if cancels_start(seen, action)]))
    assert not (seen.working - cancelled) & set(ids)
    for action in actions:
        if isinstance(action, GarbageCollect):
            assert (action.node, action.container) not in seen.collecting
            stored = seen.stored.get(action.container.rsplit(".", 1)[0])
            if stored and stored.instance.phase is not Phase.FAILED:
                assert (action.node, action.container) != (
                    stored.instance.node,
                    stored.instance.container,
                )
        if isinstance(action, CreateInstance):
            assert action.instance.id not in seen.stored


def check_operations(world: World, actions: Sequence[Action]) -> None:
    """Never more operations at once than the limits allow, unless there were more before."""
    begun = [node for action in actions if (node := operation_node(world, action))]
    limits = world.fleet.limits
    if begun:
        assert len(world.operations) + len(begun) <= limits.operations
    busy = Counter(one.node for one in world.operations)
    allowed = {node.name: operations_on(node, limits) for node in world.fleet.nodes}
    for name, n_begun in Counter(begun).items():
        assert busy[name] + n_begun <= allowed.get(name, 3)


def operation_node(world: World, action: Action) -> str:
    """Return the node on which an action begins an operation; empty: it begins none."""
    match action:
        case CreateInstance():
            return action.instance.node
        case Reschedule() | GarbageCollect():
            return action.node
        case Start() | Stop():
            return world.records[action.id].node
        case _:
            return ""


def check_room(world: World, actions: Sequence[Action]) -> None:
    """A node that gets an instance has room for it, everything counted that is there."""
    records = dict(world.records)
    targets = set()
    for action in actions:
        if isinstance(action, CreateInstance | Reschedule):
            id_ = action.instance.id if isinstance(action, CreateInstance) else action.id
            record = begin(action, records.get(id_), now_s=world.now_s)
            assert record is not None
            records[id_] = record
            targets.add(record.node)
            assert is_port_of(world, record)
            # A store takes no port twice in one commit, though it were given back by the first.
            old = [one for one in world.records.values() if one.id != id_]
            assert (record.node, record.port) not in [(one.node, one.port) for one in old]
    for name in targets:
        assert not world.is_unheard(name)
        check_node(world, name, records)


def check_lost(world: World, seen: StateSnapshot, actions: Sequence[Action]) -> None:
    """What still answers is not taken for lost, however long its node is silent."""
    for action in actions:
        if isinstance(action, Reschedule) and action.reason is Reason.NODE_LOST:
            is_running = world.records[action.id].phase is Phase.RUNNING
            assert not is_running or action.id in seen.unhealthy


def check_orphans(world: World, seen: StateSnapshot, actions: Sequence[Action]) -> None:
    """A store that knows less than half of what runs is doubted, until a person orders otherwise.

    So is any as long as not all nodes were asked what runs.
    """
    running = [
        container
        for report in seen.reports.values()
        for container in report.containers
        if container.state is ContainerState.RUNNING
    ]
    orphans = {container.name for container in running if is_orphan(seen, container)}
    is_doubted = len(orphans) > len(seen.stored) or bool(world.unasked)
    if is_doubted and not world.are_orphans_deletable:
        assert not [action for action in actions if isinstance(action, CreateInstance)]
        assert not orphans & {
            action.container for action in actions if isinstance(action, GarbageCollect)
        }


def is_orphan(seen: StateSnapshot, container: ObservedContainer) -> bool:
    """Say whether no record tells of a container: its instance has none, or an older one."""
    stored = seen.stored.get(container.instance_id)
    return stored is None or container.generation > stored.instance.generation


def check_names(world: World, actions: Sequence[Action]) -> None:
    """No container is made whose name another one has elsewhere on a node that answers."""
    heard = {
        node: containers
        for node, containers in world.last_seen.items()
        if not world.is_unheard(node)
    }
    for action in actions:
        if isinstance(action, Start | Reschedule):
            record = begin(action, world.records[action.id], now_s=world.now_s)
            assert record is not None
            elsewhere = (containers for node, containers in heard.items() if node != record.node)
            assert record.container not in {
                container.name for containers in elsewhere for container in containers
            }


def check_node(world: World, name: str, records: dict[str, Instance]) -> None:
    node = {node.name: node for node in world.fleet.nodes}[name]
    here = [one for one in records.values() if one.node == name]
    counted = {one.container: (one.cpus, one.memory_bytes) for one in here if has_container(one)}
    for container, held in world.containers[name].items():
        if held.found.state is not ContainerState.EXITED:
            counted.setdefault(container, known_size(world, held))
    assert not node.is_cordoned
    assert sum(cpus for cpus, _ in counted.values()) <= node.cpus + 1e-6
    assert sum(memory for _, memory in counted.values()) <= node.memory_bytes
    assert not node.max_instances or len(counted) <= node.max_instances
    ports = [one.port for one in here]
    assert len(ports) == len(set(ports))


def known_size(world: World, held: Held) -> tuple[float, int]:
    """Return what a container holds.

    As far as anybody can know it once its record tells of another.
    """
    largest = largest_size(world.fleet)
    if record := world.records.get(held.found.instance_id):
        largest = largest.or_more(size_of(record))
    return min(held.cpus, largest.cpus), min(held.memory_bytes, largest.memory_bytes)


def is_port_of(world: World, instance: Instance) -> bool:
    (node,) = [node for node in world.fleet.nodes if node.name == instance.node]
    return node.first_port <= instance.port <= node.last_port


def has_container(instance: Instance) -> bool:
    return instance.phase is not Phase.FAILED


def check_kills(world: World, pool: Pool, seen: StateSnapshot, actions: Sequence[Action]) -> None:
    """By our own doing, never more are down than allowed, nor more on their way than wanted."""
    records = [one for one in world.records.values() if one.pool == pool.name]
    staying = [one for one in records if not (one.reason in FOR_GOOD and is_leaving(one))]
    n_surplus = max(0, len(staying) - pool.count)
    moving = [one for one in staying if is_moving(one)][n_surplus:]
    replaced = {
        action.id: action.reason
        for action in actions
        if isinstance(action, Drain | Stop)
        and world.records[action.id].phase is Phase.RUNNING
        and world.records[action.id].pool == pool.name
        and action.reason not in (Reason.SCALED_DOWN, Reason.EXITED)
    }
    unhealthy = [id_ for id_, reason in replaced.items() if reason is Reason.UNHEALTHY]
    healthy = [id_ for id_ in replaced if id_ not in unhealthy]
    assert set(unhealthy) <= set(seen.unhealthy)
    assert not set(healthy) & set(seen.unhealthy)
    allowed = allowed_down(pool, world.fleet.limits)
    n_moving = sum(is_moving(one) for one in staying)
    if unhealthy:
        # What cannot be removed may stay for ever, and keeps no other one unhealthy.
        n_stuck = sum(is_stuck(one) for one in staying)
        assert max(0, n_moving - n_stuck - n_surplus) + len(unhealthy) <= allowed
    if healthy:
        down = [
            one
            for one in staying
            if not is_moving(one)
            and (one.phase is Phase.FAILED or one.id in seen.unhealthy)
            and one.id not in unhealthy
        ]
        assert len(moving) + len(replaced) <= max(
            pool.rotation.at_once, len(unhealthy) + len(moving)
        )
        assert max(0, len(down) + n_moving - n_surplus) + len(replaced) <= allowed


def is_leaving(instance: Instance) -> bool:
    return instance.phase in (Phase.DRAINING, Phase.STOPPING)


def is_moving(instance: Instance) -> bool:
    return is_leaving(instance) or (instance.phase is Phase.STARTING and instance.generation > 1)


def is_stuck(instance: Instance) -> bool:
    return instance.n_stop_tries > 0


def orphan(id_: str, generation: int, port: int) -> Held:
    """Return a container without a record."""
    return Held(
        ObservedContainer(container_name(id_, generation), id_, generation, ContainerState.RUNNING),
        1.0,
        1,
        port,
    )
