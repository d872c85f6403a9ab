"""Build a simulated fleet, start it, and stop it in reverse."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ollama_fleet import descriptors
from ollama_fleet.tokens import Tokens
from provisioning.simulator.control import (
    OPTION,
    ContainerRoutes,
    Control,
    running_control,
)
from provisioning.simulator.faults import Fault
from provisioning.simulator.fleet import ActiveFault, Fleet
from provisioning.simulator.fleet_api import FleetRouter, Router
from provisioning.simulator.hosting import ContainerHost
from provisioning.simulator.inventory import PublishedInventory, entries
from provisioning.simulator.ollama import OllamaRouter
from provisioning.simulator.runner import TextGenerator
from provisioning.simulator.server import (
    BACKLOG,
    FleetServer,
    max_connections,
    open_listener,
    open_listeners,
)
from provisioning.simulator.spec import FleetSpec, Layout, Mode


@dataclass(frozen=True, slots=True)
class Hosting:
    """How containers are hosted."""

    ports: range
    """Of every node."""
    load_s: float
    """How long a container that was started answers that it is loading."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of `ollama-fleet simulate`."""

    spec: FleetSpec
    listen_port: int
    faults: tuple[Fault, ...]
    inventory_path: Path | None
    control_host: str
    control_port: int
    token_path: Path
    hosting: Hosting | None = None
    """None: the fleet is the spec's from the start; else empty until containers are ordered."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """A running fleet and where it is controlled."""

    running: RunningFleet
    control_url: str
    tokens: Tokens


class RunningFleet:
    """A fleet that listens: what there is to poll, and what can be done to it."""

    def __init__(
        self,
        fleet: Fleet,
        server: FleetServer,
        *,
        port: int,
        max_connections: int,
        host: ContainerHost | None = None,
    ) -> None:
        self.fleet = fleet
        self.host = host
        self.port = port
        """Of all instances, which differ by address; of hosted containers the first."""
        self.max_connections = max_connections
        """What the limit of open files leaves room for; new ones beyond it are reset."""
        self._server = server

    @property
    def inventory(self) -> list[dict[str, object]]:
        """Return one entry per listed instance: id, url, node, model, engine, state, ..."""
        return entries(self.fleet.spec, self.fleet.listed, self.port)

    @property
    def n_connections(self) -> int:
        """Return how many connections are open."""
        return self._server.n_connections

    @property
    def n_paused(self) -> int:
        """Return how many connections are read no further until their clients have caught up."""
        return self._server.n_paused

    @property
    def n_accepted(self) -> int:
        """Return how many connections instances accepted since the start."""
        return self._server.n_accepted

    def inject(self, fault: Fault | str, **parameters: object) -> ActiveFault:
        """Let a fault befall instances: `inject("kill", count=3)`, `inject("hang", ids=[...])`.

        Raises:
            FaultError: It cannot be read, or selects nothing.
        """
        return self.fleet.inject(fault, **parameters)

    def heal(self, fault_id: str | None = None) -> tuple[ActiveFault, ...]:
        """End one fault, or all; return those that ended.

        Raises:
            UnknownFaultError: No active fault has this id.
        """
        return self.fleet.heal(fault_id)

    def ids_of(self, active: ActiveFault) -> list[str]:
        """Return the ids of the instances that a fault befalls."""
        return [self.fleet.states[index].instance.id for index in sorted(active.indices)]


@asynccontextmanager
async def running_fleet(
    spec: FleetSpec,
    *,
    port: int = 0,
    faults: Sequence[Fault] = (),
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[RunningFleet]:
    """Run a fleet on the current event loop until the context ends."""
    fleet = Fleet(spec, clock=clock)
    for fault in faults:
        fleet.inject(fault)
    async with _serving(fleet, [open_listener(port)], Layout()) as running:
        yield running


@asynccontextmanager
async def running_host(
    spec: FleetSpec, hosting: Hosting, *, clock: Callable[[], float] = time.time
) -> AsyncIterator[RunningFleet]:
    """Run a fleet that is empty until its `host` starts instances; the spec gives the kind."""
    fleet = Fleet(spec, clock=clock, instances=())
    layout = Layout(hosting.ports.start, len(hosting.ports))
    host = ContainerHost(fleet, layout, load_s=hosting.load_s)
    descriptors.raise_limit()  # a port each is more than some limits begin with
    async with _serving(fleet, open_listeners(layout.ports), layout, host) as running:
        yield running


@asynccontextmanager
async def _serving(
    fleet: Fleet,
    listeners: Sequence[socket.socket],
    layout: Layout,
    host: ContainerHost | None = None,
) -> AsyncIterator[RunningFleet]:
    n_connections = max_connections(descriptors.raise_limit(), n_listeners=len(listeners))
    server = FleetServer(
        fleet,
        routers_of(fleet.spec),
        TextGenerator(fleet, time_scale=fleet.spec.time_scale),
        max_connections=n_connections,
        layout=layout,
    )
    port = listeners[0].getsockname()[1]
    try:
        await server.start(*listeners, backlog=BACKLOG)
        yield RunningFleet(fleet, server, port=port, max_connections=n_connections, host=host)
    finally:
        await server.stop()


@asynccontextmanager
async def running_simulation(settings: Settings) -> AsyncIterator[Simulation]:
    """Run a fleet with its inventory file and control API until the context ends."""
    tokens = Tokens(settings.token_path, option=OPTION)
    async with _running(settings) as running:
        inventory = PublishedInventory(
            running.fleet, port=running.port, path=settings.inventory_path
        )
        containers = None if running.host is None else ContainerRoutes(running.host, tokens)
        control = Control(running.fleet, inventory, tokens, containers=containers)
        async with running_control(
            control, host=settings.control_host, port=settings.control_port
        ) as url:
            yield Simulation(running, url, tokens)


def _running(settings: Settings) -> AbstractAsyncContextManager[RunningFleet]:
    if settings.hosting is not None:
        return running_host(settings.spec, settings.hosting)
    return running_fleet(settings.spec, port=settings.listen_port, faults=settings.faults)


def routers_of(spec: FleetSpec) -> Mapping[Mode, Router]:
    """Return what the instances of each mode serve."""
    return {Mode.FLEET: FleetRouter(spec), Mode.OLLAMA: OllamaRouter()}
