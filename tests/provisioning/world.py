"""A node whose instances are imagined, in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from ollama_fleet.canary_outcome import CanaryOutcome
from ollama_fleet.clock import Clock, wait_at_most
from provisioning.errors import (
    NodeUnreachableError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.model import (
    Canary,
    ContainerSpec,
    ContainerState,
    ObservedContainer,
    Probe,
    RequestsPage,
    WarmUp,
)
from provisioning.runtime.base import CanaryResult

NEVER_S = float("inf")
KILLED = -9


class Behaviour(msgspec.Struct, frozen=True):
    """How containers of an image behave; ratios are 0 to 1."""

    start_s: float = 0.0
    """Mean time that it takes to make a container; it varies from half to one and a half of it."""
    healthy_after_s: float = 0.0
    """Mean time from then on until it is healthy; it varies exponentially."""
    failure_ratio: float = 0.0
    """Of tries to start."""
    hang_ratio: float = 0.0
    """Of tries after which it runs, but never gets healthy."""
    ends_after_s: float = NEVER_S
    exit_status: int = 0
    out_of_memory_after_s: float = NEVER_S
    """Mean; it varies exponentially."""
    stop_s: float = 0.0
    ignores_sigterm: bool = False
    cannot_start: bool = False
    """No try will ever go well."""
    warm_up_s: float = 0.0


class Held:
    """A container on a node."""

    def __init__(self, container: ContainerSpec, behaviour: Behaviour, node: SimulatedNode) -> None:
        self.container = container
        self.node = node
        self.behaviour = behaviour
        self.state = ContainerState.CREATED
        self.healthy_at_s = NEVER_S
        self.ends_at_s = NEVER_S
        self.exit_status: int | None = None
        self.is_out_of_memory = False
        self.is_ill = False
        self.is_frozen = False
        """It answers its health check, and generates nothing."""
        self.lock = asyncio.Lock()

    def look(self, now_s: float) -> ObservedContainer:
        """Return what the runtime says about it now."""
        is_over = self.state is ContainerState.RUNNING and now_s >= self.ends_at_s
        state = ContainerState.EXITED if is_over else self.state
        has_ended = state is ContainerState.EXITED
        return ObservedContainer(
            self.container.name,
            self.container.instance_id,
            self.container.generation,
            state,
            self.exit_status if has_ended else None,
            has_ended and self.is_out_of_memory,
        )

    def is_healthy(self, now_s: float) -> bool:
        """Say whether it answers its health check with 200."""
        is_running = self.state is ContainerState.RUNNING and now_s < self.ends_at_s
        return is_running and now_s >= self.healthy_at_s and not self.is_ill

    def end(self, at_s: float, exit_status: int | None, *, is_out_of_memory: bool = False) -> None:
        """Let it end at a moment."""
        self.ends_at_s = at_s
        self.exit_status = exit_status
        self.is_out_of_memory = is_out_of_memory


class SimulatedNode:
    """A machine with containers of any fleet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: dict[tuple[str, str], Held] = {}
        """By fleet and name of the container."""
        self.is_reachable = True
        self.has_endings = asyncio.Event()
        """Set when some container will end that would not have ended before."""

    def tell_of_endings(self) -> None:
        """Wake whoever waits for containers to end."""
        self.has_endings.set()
        self.has_endings = asyncio.Event()


class World:
    """All nodes and containers, and the faults that are upon them."""

    def __init__(
        self,
        clock: Clock,
        *,
        seed: int = 0,
        behaviour: Behaviour | None = None,
        by_image: Mapping[str, Behaviour] | None = None,
    ) -> None:
        self.clock = clock
        self._seed = seed
        self._behaviour = behaviour or Behaviour()
        self._by_image = dict(by_image or {})
        self._nodes: dict[str, SimulatedNode] = {}
        self._tries: dict[str, int] = {}
        self.n_canaries = 0
        self.at_address: dict[tuple[str, int], Held | None] = {}
        """Who listens there; None: a stranger."""

    def __repr__(self) -> str:
        n_containers = sum(len(node.held) for node in self._nodes.values())
        return f"<World of {len(self._nodes)} nodes, {n_containers:,} containers>"

    def node(self, name: str) -> SimulatedNode:
        """Return a node; it is there as soon as it is asked for."""
        return self._nodes.setdefault(name, SimulatedNode(name))

    def held(self, container: str) -> Held:
        """Return a container, wherever it is.

        Raises:
            KeyError: There is none.
        """
        for node in self._nodes.values():
            for (_, name), held in node.held.items():
                if name == container:
                    return held
        raise KeyError(container)

    def containers(self, node: str) -> tuple[ContainerSpec, ...]:
        """Return the containers on a node that have not ended."""
        now_s = self.clock.monotonic_s()
        return tuple(
            held.container
            for held in self.node(node).held.values()
            if held.look(now_s).state is not ContainerState.EXITED
        )

    def behave(self, behaviour: Behaviour, *, image: str | None = None) -> None:
        """Let what is started from now on behave otherwise; without an image, all that has none."""
        if image is None:
            self._behaviour = behaviour
        else:
            self._by_image[image] = behaviour

    def silence(self, node: str) -> None:
        """Let a node, and its containers, answer nobody."""
        self.node(node).is_reachable = False

    def restore(self, node: str) -> None:
        """Let a silenced node answer again; its containers have gone on all the time."""
        self.node(node).is_reachable = True

    def kill(self, container: str, *, is_out_of_memory: bool = False) -> None:
        """End a container by force, now."""
        held = self.held(container)
        held.end(self.clock.monotonic_s(), KILLED, is_out_of_memory=is_out_of_memory)
        held.node.tell_of_endings()

    def sicken(self, container: str) -> None:
        """Let a container run on, but not answer its health check any more."""
        self.held(container).is_ill = True

    def take_port(self, host: str, port: int) -> None:
        """Let a stranger listen there."""
        self.at_address[host, port] = None

    def is_taken(self, host: str, port: int, *, by_others_than: Held) -> bool:
        """Say whether a stranger, or another container that runs, listens there."""
        holder = self.at_address.get((host, port), by_others_than)
        if holder is None:
            return True
        has_ended = holder.look(self.clock.monotonic_s()).state is ContainerState.EXITED
        return holder is not by_others_than and not has_ended

    def behaviour_of(self, container: ContainerSpec) -> Behaviour:
        """Return how a container behaves."""
        return self._by_image.get(container.image, self._behaviour)

    def dice(self, container: ContainerSpec) -> random.Random:
        """Return the dice of the next try to start a container."""
        n_tries = self._tries[container.name] = self._tries.get(container.name, 0) + 1
        return random.Random(f"{self._seed} {container.name} {n_tries}")  # noqa: S311


LONGEST_WAIT_S = 3600.0


class SimulatedRuntime:
    """See `base.Runtime`."""

    def __init__(self, world: World, node: str, fleet: str) -> None:
        self._world = world
        self._clock = world.clock
        self._node = world.node(node)
        self._fleet = fleet

    async def start(self, container: ContainerSpec) -> None:
        """Make the container and start it; do nothing where it runs already."""
        self._reach()
        behaviour = self._world.behaviour_of(container)
        if behaviour.cannot_start:
            raise PermanentError(
                f"start of {container.name} on {self._node.name}: there is no image "
                f"{container.image!r}"
            )
        held = self._node.held.get((self._fleet, container.name))
        if held is None:
            held = self._node.held[self._fleet, container.name] = Held(
                container, behaviour, self._node
            )
        async with held.lock:
            if held.look(self._clock.monotonic_s()).state is not ContainerState.RUNNING:
                await self._make(held)

    async def remove(self, name: str, *, grace_s: float) -> None:
        """Ask the container to end, kill it after the grace, and remove all that it leaves."""
        self._reach()
        held = self._node.held.get((self._fleet, name))
        if held is None:
            return
        async with held.lock:
            is_running = held.look(self._clock.monotonic_s()).state is ContainerState.RUNNING
            if is_running:
                behaviour = held.behaviour
                stop_s = grace_s if behaviour.ignores_sigterm else min(grace_s, behaviour.stop_s)
                await self._clock.sleep(stop_s)
            self._let_go(held)

    async def containers(self) -> tuple[ObservedContainer, ...]:
        """Return all containers of this fleet, whoever made them, sorted by name."""
        self._reach()
        now_s = self._clock.monotonic_s()
        found = [
            held.look(now_s) for (fleet, _), held in self._node.held.items() if fleet == self._fleet
        ]
        return tuple(sorted(found, key=lambda one: one.name))

    async def changes(self) -> AsyncIterator[str]:
        """Yield the name of each container that has ended."""
        told = {name: ends_at_s for name, ends_at_s in self._endings() if self._is_past(ends_at_s)}
        while True:
            has_endings = self._node.has_endings
            for name, ends_at_s in self._endings():
                if self._is_past(ends_at_s) and told.get(name) != ends_at_s:
                    told[name] = ends_at_s
                    yield name
            ahead = [at_s for _, at_s in self._endings() if not self._is_past(at_s)]
            next_s = min(ahead, default=NEVER_S) - self._clock.monotonic_s()
            await wait_at_most(has_endings, self._clock, min(LONGEST_WAIT_S, next_s))

    def log_of(self, _instance_id: str) -> str:
        """Return nothing: simulated containers write no log."""
        return ""

    async def close(self) -> None:
        """Do nothing: the world goes on."""

    def _endings(self) -> list[tuple[str, float]]:
        return [
            (name, held.ends_at_s)
            for (fleet, name), held in self._node.held.items()
            if fleet == self._fleet and held.ends_at_s != NEVER_S
        ]

    def _is_past(self, at_s: float) -> bool:
        return at_s <= self._clock.monotonic_s()

    def _reach(self) -> None:
        if not self._node.is_reachable:
            raise NodeUnreachableError(f"node {self._node.name} does not answer (simulated)")

    async def _make(self, held: Held) -> None:
        """Let a container run, or fail to; a cancelled try leaves it CREATED."""
        container, behaviour = held.container, held.behaviour
        dice = self._world.dice(container)
        self._node.held[self._fleet, container.name] = held
        held.state, held.ends_at_s, held.is_ill = ContainerState.CREATED, NEVER_S, False
        await self._clock.sleep(behaviour.start_s * dice.uniform(0.5, 1.5))
        if not self._node.is_reachable:
            raise NodeUnreachableError(f"node {self._node.name} does not answer (simulated)")
        if dice.random() < behaviour.failure_ratio:
            self._let_go(held)
            raise TransientError(
                f"start of {container.name} on {self._node.name}: bad luck (simulated)"
            )
        if self._world.is_taken(container.host, container.port, by_others_than=held):
            self._let_go(held)
            raise ResourceExhaustedError(
                f"start of {container.name} on {self._node.name}: port {container.port} of "
                f"{container.host} is "
                f"taken"
            )
        self._run(held, dice)

    def _run(self, held: Held, dice: random.Random) -> None:
        behaviour, now_s = held.behaviour, self._clock.monotonic_s()
        self._world.at_address[held.container.host, held.container.port] = held
        held.state = ContainerState.RUNNING
        is_hanging = dice.random() < behaviour.hang_ratio
        held.healthy_at_s = (
            NEVER_S if is_hanging else now_s + _varied(behaviour.healthy_after_s, dice)
        )
        oom_after_s = _varied(behaviour.out_of_memory_after_s, dice)
        if oom_after_s < behaviour.ends_after_s:
            held.end(now_s + oom_after_s, KILLED, is_out_of_memory=True)
        elif behaviour.ends_after_s < NEVER_S:
            held.end(now_s + behaviour.ends_after_s, behaviour.exit_status)
        if held.ends_at_s < NEVER_S:
            self._node.tell_of_endings()

    def _let_go(self, held: Held) -> None:
        """Remove all traces of a container."""
        container = held.container
        if self._node.held.get((self._fleet, container.name)) is held:
            del self._node.held[self._fleet, container.name]
        held.state = ContainerState.CREATED
        if self._world.at_address.get((container.host, container.port)) is held:
            del self._world.at_address[container.host, container.port]


class SimulatedProber:
    """See `base.Prober`."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def probe(self, host: str, port: int, probe: Probe) -> str:
        """Return why an instance is not healthy, in words; empty: it is."""
        held = self._reached(host, port)
        if held is None:
            return f"GET http://{host}:{port}{probe.path}: connection refused (simulated)"
        if not held.is_healthy(self._world.clock.monotonic_s()):
            return f"GET http://{host}:{port}{probe.path}: status 503 (simulated)"
        return ""

    async def generate(
        self, host: str, port: int, canary: Canary, *, engine: str, model: str
    ) -> CanaryResult:
        """Return after the canary's time that an instance stalls which is frozen."""
        self._world.n_canaries += 1
        held = self._reached(host, port)
        if held is not None and held.is_frozen:
            await self._world.clock.sleep(canary.timeout_s)
            fault = f"canary stalled: no answer within {canary.timeout_s:g} s (simulated)"
            return CanaryResult(CanaryOutcome.STALLED, fault)
        if held is None:
            fault = f"canary failed: {host}:{port}: connection refused"
            return CanaryResult(CanaryOutcome.ERROR, fault)
        return CanaryResult(CanaryOutcome.OK)

    async def is_idle(self, host: str, port: int, page: RequestsPage) -> bool:
        """Say no: these take no requests, and so count none."""
        return False

    async def warm_up(
        self, host: str, port: int, requests: Sequence[WarmUp], *, store: str = ""
    ) -> None:
        """Take the time that loading the model takes, once for each request."""
        for request in requests:
            held = self._reached(host, port)
            if held is None:
                raise TransientError(
                    f"warm-up by http://{host}:{port}{request.path}: connection refused (simulated)"
                )
            await self._world.clock.sleep(held.behaviour.warm_up_s)

    def _reached(self, host: str, port: int) -> Held | None:
        """Return the container that listens there, if its node lets it be reached."""
        held = self._world.at_address.get((host, port))
        if held is None or not held.node.is_reachable:
            return None
        return held


def _varied(mean_s: float, dice: random.Random) -> float:
    return dice.expovariate(1 / mean_s) if 0 < mean_s < NEVER_S else mean_s
