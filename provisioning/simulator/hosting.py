"""Instances that a provisioner starts and stops, on nodes with one address each."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import msgspec

from ollama_fleet.suggestions import did_you_mean
from provisioning.simulator.errors import NodeGoneError, PlaceTakenError, StartOrderError
from provisioning.simulator.faults import Kind
from provisioning.simulator.fleet import ENDS_PROCESS, Fleet
from provisioning.simulator.spec import (
    FIRST,
    MODELS,
    FleetSpec,
    Hardware,
    Instance,
    Layout,
    Mode,
    Model,
    address_of,
    dealt,
    hosted_instance,
)

MAX_NODES = 65_536
MODEL_BY_NAME: Mapping[str, Model] = MappingProxyType({model.name: model for model in MODELS})


class StartOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a container is to be."""

    fleet: str
    instance_id: str
    generation: int
    host: str
    port: int
    model: str
    engine: str = ""
    """`fleet` or `ollama`; another one means what the host's --mode says."""


class InstanceFactory:
    """Reads orders for one fleet."""

    def __init__(self, spec: FleetSpec, layout: Layout) -> None:
        self._spec = spec
        self._layout = layout
        self._dealing = dealt(dict(spec.hardware))
        self._hardware: list[Hardware] = []
        """By number of a node's address; as far as it was needed."""

    def instance_of(self, node: str, order: StartOrder) -> Instance:
        """Return the instance that is meant; equal orders give equal instances.

        Raises:
            StartOrderError: There can be no such instance here.
        """
        number, ports = _number_of(order.host), self._layout.ports
        if order.port not in ports:
            raise StartOrderError(
                f"port {order.port} is not among {ports[0]} to {ports[-1]}, where containers are "
                "hosted; order another, or start with a wider range (--host-containers)"
            )
        mode = _mode_of(order.engine, self._spec.mode)
        return hosted_instance(
            self._spec,
            instance_id=order.instance_id,
            index=self._layout.index_of(order.host, order.port),
            number=number,
            port=order.port,
            node=node,
            hardware=Hardware.GPU if mode is Mode.OLLAMA else self._hardware_of(number),
            mode=mode,
            model=_model_of(order.model),
        )

    def _hardware_of(self, number: int) -> Hardware:
        while len(self._hardware) <= number:
            self._hardware.append(next(self._dealing))
        return self._hardware[number]


def _number_of(host: str) -> int:
    """Return the number of a node's address, counted from 0."""
    try:
        number = int(ipaddress.IPv4Address(host)) - FIRST
    except ValueError:
        number = -1
    if not 0 <= number < MAX_NODES:
        raise StartOrderError(
            f"host {host!r} is no address of a hosted node: give each node its own from "
            f"{address_of(0)} to {address_of(MAX_NODES - 1)}"
        )
    return number


def _mode_of(engine: str, default: Mode) -> Mode:
    return Mode(engine) if engine in {*Mode} else default


def _model_of(name: str) -> Model:
    if name in MODEL_BY_NAME:
        return MODEL_BY_NAME[name]
    known = ", ".join(MODEL_BY_NAME)
    meant = did_you_mean(name, MODEL_BY_NAME)
    raise StartOrderError(f"simulated instances have no model {name!r}; they have {known}{meant}")


SIGKILL_STATUS = -9
OUT_OF_MEMORY = frozenset({Kind.OOM_KILL, Kind.OOM_RESTART, Kind.RUNNER_OOM})


class ContainerState(StrEnum):
    """Whether a container's process lives."""

    RUNNING = "running"
    EXITED = "exited"


class ContainerStatus(msgspec.Struct, frozen=True):
    """What is said about a container."""

    name: str
    fleet: str
    instance_id: str
    generation: int
    host: str
    port: int
    model: str
    engine: str
    state: ContainerState
    exit_status: int | None
    """Negative for a signal; None: it runs."""
    is_out_of_memory: bool


@dataclass(frozen=True, slots=True)
class HostedContainer:
    """A container and the index of its instance."""

    name: str
    node: str
    order: StartOrder
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """A client that watches the containers of a fleet on a node."""

    fleet: str
    names: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    """Of containers that have ended or run out of memory; None: nothing more will come."""


class ContainerHost:
    """All containers of all nodes."""

    def __init__(self, fleet: Fleet, layout: Layout, *, load_s: float) -> None:
        self._fleet = fleet
        self._orders = InstanceFactory(fleet.spec, layout)
        self._load_s = load_s
        self._containers_by_node: defaultdict[str, dict[tuple[str, str], HostedContainer]] = (
            defaultdict(dict)
        )
        """By fleet and name on each node."""
        self._container_by_index: dict[int, HostedContainer] = {}
        self._listeners_by_node: defaultdict[str, set[Listener]] = defaultdict(set)
        fleet.watch(self._changed)

    @property
    def n_listeners(self) -> int:
        """Return how many clients watch now."""
        return sum(map(len, self._listeners_by_node.values()))

    def start(self, node: str, name: str, order: StartOrder) -> None:
        """Start a container; do nothing where it runs already.

        Raises:
            StartOrderError: It can never run here.
            PlaceTakenError: Another container has its address and port.
            NodeGoneError: The node does not answer.
        """
        self._reach(node)
        instance = self._orders.instance_of(node, order)
        known = self._containers_by_node[node].get((order.fleet, name))
        if known is not None and self._status(known).state is ContainerState.RUNNING:
            return
        occupant = self._container_by_index.get(instance.index)
        if occupant is not None and occupant is not known:
            raise PlaceTakenError(
                f"cannot start {name} on {node}: port {order.port} of {order.host} is taken by "
                f"{occupant.name}; remove that one, or choose another port"
            )
        if known is not None:
            self._remove(known)
        self._add(HostedContainer(name, node, order, instance.index), instance)

    def remove(self, node: str, name: str, *, fleet: str) -> None:
        """End a container and forget it; do nothing where there is none.

        Raises:
            NodeGoneError: The node does not answer.
        """
        self._reach(node)
        container = self._containers_by_node.get(node, {}).get((fleet, name))
        if container is not None:
            self._remove(container)

    def containers(self, node: str, *, fleet: str | None = None) -> list[ContainerStatus]:
        """Return a node's containers, those of one fleet or all, sorted by name.

        Raises:
            NodeGoneError: The node does not answer.
        """
        self._reach(node)
        found = [
            self._status(container)
            for (of_fleet, _), container in self._containers_by_node.get(node, {}).items()
            if fleet in (None, of_fleet)
        ]
        return sorted(found, key=lambda status: (status.name, status.fleet))

    @contextmanager
    def listening(self, node: str, *, fleet: str) -> Iterator[asyncio.Queue[str | None]]:
        """Give the names of a fleet's containers that end or run out of memory, until None.

        Those that have ended already come first: whoever listens a moment late misses nothing.

        Raises:
            NodeGoneError: The node does not answer.
        """
        ended = [
            status.name
            for status in self.containers(node, fleet=fleet)
            if status.state is ContainerState.EXITED
        ]
        listener = Listener(fleet)
        for name in ended:
            listener.names.put_nowait(name)
        self._listeners_by_node[node].add(listener)
        try:
            yield listener.names
        finally:
            self._listeners_by_node[node].discard(listener)

    def close(self) -> None:
        """Tell all who listen that nothing more will come."""
        for node in tuple(self._listeners_by_node):
            self._dismiss(node)

    def _reach(self, node: str) -> None:
        if self._fleet.is_gone(node):
            raise NodeGoneError(f"node {node} does not answer: it has a node_gone fault")

    def _add(self, container: HostedContainer, instance: Instance) -> None:
        self._containers_by_node[container.node][container.order.fleet, container.name] = container
        self._container_by_index[container.index] = container
        self._fleet.begin(instance, load_s=self._load_s)

    def _remove(self, container: HostedContainer) -> None:
        del self._containers_by_node[container.node][container.order.fleet, container.name]
        del self._container_by_index[container.index]
        self._fleet.end(container.index)

    def _status(self, container: HostedContainer) -> ContainerStatus:
        state = self._fleet.states[container.index]
        trouble = self._fleet.trouble_of(state, self._fleet.clock())
        kinds = {upon.fault.kind for upon in (trouble, state.runner) if upon is not None}
        has_ended = not ENDS_PROCESS.isdisjoint(kinds)
        order = container.order
        return ContainerStatus(
            name=container.name,
            fleet=order.fleet,
            instance_id=order.instance_id,
            generation=order.generation,
            host=order.host,
            port=order.port,
            model=order.model,
            engine=order.engine,
            state=ContainerState.EXITED if has_ended else ContainerState.RUNNING,
            exit_status=SIGKILL_STATUS if has_ended else None,
            is_out_of_memory=not OUT_OF_MEMORY.isdisjoint(kinds),
        )

    def _changed(self, indices: frozenset[int]) -> None:
        """Tell those who listen what has become of containers."""
        for index in indices & self._container_by_index.keys():
            container = self._container_by_index[index]
            if self._fleet.is_gone(container.node):
                self._dismiss(container.node)
            else:
                self._tell(container)

    def _tell(self, container: HostedContainer) -> None:
        status = self._status(container)
        if status.state is ContainerState.EXITED or status.is_out_of_memory:
            for listener in self._listeners_by_node.get(container.node, ()):
                if listener.fleet == container.order.fleet:
                    listener.names.put_nowait(container.name)

    def _dismiss(self, node: str) -> None:
        for listener in self._listeners_by_node.pop(node, ()):
            listener.names.put_nowait(None)
