"""Units that exist in memory only: as many as one likes, with any fault one likes.

In:   a World, the name of a node, the name of a fleet.
Out:  a Runtime for that node and fleet, and a Prober for all units of the world.
Fails with LastingError, NoRoomError, TransientError, NodeUnreachableError, as real ones do.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence

from provisioning.clock import wait_at_most
from provisioning.errors import (
    LastingError,
    NodeUnreachableError,
    NoRoomError,
    TransientError,
)
from provisioning.model import FoundUnit, Probe, RequestsPage, Unit, UnitState, WarmUp
from provisioning.runtime.world import KILLED, NEVER_S, Held, World

LONGEST_WAIT_S = 3600.0


class SimulatedRuntime:
    """See `base.Runtime`."""

    def __init__(self, world: World, node: str, fleet: str) -> None:
        self._world = world
        self._clock = world.clock
        self._node = world.node(node)
        self._fleet = fleet

    async def start(self, unit: Unit) -> None:
        """Make the unit and start it; do nothing where it runs already."""
        self._reach()
        behaviour = self._world.behaviour_of(unit)
        if behaviour.cannot_start:
            raise LastingError(
                f"start of {unit.name} on {self._node.name}: there is no image {unit.image!r}"
            )
        held = self._node.held.get((self._fleet, unit.name))
        if held is None:
            held = self._node.held[self._fleet, unit.name] = Held(unit, behaviour, self._node)
        async with held.lock:
            if held.look(self._clock.monotonic_s()).state is not UnitState.RUNNING:
                await self._make(held)

    async def remove(self, name: str, *, grace_s: float) -> None:
        """Ask the unit to end, kill it after the grace, and remove all that it leaves."""
        self._reach()
        held = self._node.held.get((self._fleet, name))
        if held is None:
            return
        async with held.lock:
            is_running = held.look(self._clock.monotonic_s()).state is UnitState.RUNNING
            if is_running:
                behaviour = held.behaviour
                stop_s = grace_s if behaviour.ignores_sigterm else min(grace_s, behaviour.stop_s)
                await self._clock.sleep(stop_s)
            self._let_go(held)

    async def units(self) -> tuple[FoundUnit, ...]:
        """Return all units of this fleet, whoever made them, sorted by name."""
        self._reach()
        now_s = self._clock.monotonic_s()
        found = [
            held.look(now_s) for (fleet, _), held in self._node.held.items() if fleet == self._fleet
        ]
        return tuple(sorted(found, key=lambda one: one.name))

    async def changes(self) -> AsyncIterator[str]:
        """Yield the name of each unit that has ended."""
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
        """Return nothing: simulated units write no log."""
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
        """Let a unit run, or fail to; a cancelled try leaves it CREATED."""
        unit, behaviour = held.unit, held.behaviour
        dice = self._world.dice(unit)
        self._node.held[self._fleet, unit.name] = held
        held.state, held.ends_at_s, held.is_ill = UnitState.CREATED, NEVER_S, False
        await self._clock.sleep(behaviour.start_s * dice.uniform(0.5, 1.5))
        if not self._node.is_reachable:
            raise NodeUnreachableError(f"node {self._node.name} does not answer (simulated)")
        if dice.random() < behaviour.failure_ratio:
            self._let_go(held)
            raise TransientError(f"start of {unit.name} on {self._node.name}: bad luck (simulated)")
        if self._world.is_taken(unit.host, unit.port, by_others_than=held):
            self._let_go(held)
            raise NoRoomError(
                f"start of {unit.name} on {self._node.name}: port {unit.port} of {unit.host} is "
                f"taken"
            )
        self._run(held, dice)

    def _run(self, held: Held, dice: random.Random) -> None:
        behaviour, now_s = held.behaviour, self._clock.monotonic_s()
        self._world.at_address[held.unit.host, held.unit.port] = held
        held.state = UnitState.RUNNING
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
        """Remove all traces of a unit."""
        unit = held.unit
        if self._node.held.get((self._fleet, unit.name)) is held:
            del self._node.held[self._fleet, unit.name]
        held.state = UnitState.CREATED
        if self._world.at_address.get((unit.host, unit.port)) is held:
            del self._world.at_address[unit.host, unit.port]


class SimulatedProber:
    """See `base.Prober`."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def ask(self, host: str, port: int, probe: Probe) -> str:
        """Return why an instance is not healthy, in words; empty: it is."""
        held = self._reached(host, port)
        if held is None:
            return f"GET http://{host}:{port}{probe.path}: connection refused (simulated)"
        if not held.is_healthy(self._world.clock.monotonic_s()):
            return f"GET http://{host}:{port}{probe.path}: status 503 (simulated)"
        return ""

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
        """Return the unit that listens there, if its node lets it be reached."""
        held = self._world.at_address.get((host, port))
        if held is None or not held.node.is_reachable:
            return None
        return held


def _varied(mean_s: float, dice: random.Random) -> float:
    return dice.expovariate(1 / mean_s) if 0 < mean_s < NEVER_S else mean_s
