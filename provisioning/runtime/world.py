"""A world of nodes in memory, whose units start, fail, fall ill and run out of memory as told.

In:   a Clock, a seed, a Behaviour for each image; then faults, as tests and demonstrations ask.
Out:  what is where, and how it is. `simulated` makes it look like runtimes and instances.

What happens to a unit depends on the seed, its name and how often it was tried, not on what else is
going on: equal seeds give equal worlds. Nodes with one address share its ports, as on one machine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import msgspec

from provisioning.clock import Clock
from provisioning.model import FoundUnit, Unit, UnitState

NEVER_S = float("inf")
KILLED = -9


class Behaviour(msgspec.Struct, frozen=True):
    """How units of an image behave; ratios are 0 to 1."""

    start_s: float = 0.0
    """Mean time that it takes to make a unit; it varies from half to one and a half of it."""
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
    """A unit on a node."""

    def __init__(self, unit: Unit, behaviour: Behaviour, node: SimulatedNode) -> None:
        self.unit = unit
        self.node = node
        self.behaviour = behaviour
        self.state = UnitState.CREATED
        self.healthy_at_s = NEVER_S
        self.ends_at_s = NEVER_S
        self.exit_status: int | None = None
        self.is_out_of_memory = False
        self.is_ill = False
        self.lock = asyncio.Lock()

    def look(self, now_s: float) -> FoundUnit:
        """Return what the runtime says about it now."""
        is_over = self.state is UnitState.RUNNING and now_s >= self.ends_at_s
        state = UnitState.EXITED if is_over else self.state
        has_ended = state is UnitState.EXITED
        return FoundUnit(
            self.unit.name,
            self.unit.instance_id,
            self.unit.generation,
            state,
            self.exit_status if has_ended else None,
            has_ended and self.is_out_of_memory,
        )

    def is_healthy(self, now_s: float) -> bool:
        """Say whether it answers its health check with 200."""
        is_running = self.state is UnitState.RUNNING and now_s < self.ends_at_s
        return is_running and now_s >= self.healthy_at_s and not self.is_ill

    def end(self, at_s: float, exit_status: int | None, *, is_out_of_memory: bool = False) -> None:
        """Let it end at a moment."""
        self.ends_at_s = at_s
        self.exit_status = exit_status
        self.is_out_of_memory = is_out_of_memory


class SimulatedNode:
    """A machine with units of any fleet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: dict[tuple[str, str], Held] = {}
        """By fleet and name of the unit."""
        self.is_reachable = True
        self.has_endings = asyncio.Event()
        """Set when some unit will end that would not have ended before."""

    def tell_of_endings(self) -> None:
        """Wake whoever waits for units to end."""
        self.has_endings.set()
        self.has_endings = asyncio.Event()


class World:
    """All nodes and units, and the faults that are upon them."""

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
        self.at_address: dict[tuple[str, int], Held | None] = {}
        """Who listens there; None: a stranger."""

    def __repr__(self) -> str:
        n_units = sum(len(node.held) for node in self._nodes.values())
        return f"<World of {len(self._nodes)} nodes, {n_units:,} units>"

    def node(self, name: str) -> SimulatedNode:
        """Return a node; it is there as soon as it is asked for."""
        return self._nodes.setdefault(name, SimulatedNode(name))

    def held(self, unit: str) -> Held:
        """Return a unit, wherever it is.

        Raises:
            KeyError: There is none.
        """
        for node in self._nodes.values():
            for (_, name), held in node.held.items():
                if name == unit:
                    return held
        raise KeyError(unit)

    def units(self, node: str) -> tuple[Unit, ...]:
        """Return the units on a node that have not ended."""
        now_s = self.clock.monotonic_s()
        return tuple(
            held.unit
            for held in self.node(node).held.values()
            if held.look(now_s).state is not UnitState.EXITED
        )

    def behave(self, behaviour: Behaviour, *, image: str | None = None) -> None:
        """Let what is started from now on behave otherwise; without an image, all that has none."""
        if image is None:
            self._behaviour = behaviour
        else:
            self._by_image[image] = behaviour

    def silence(self, node: str) -> None:
        """Let a node, and its units, answer nobody."""
        self.node(node).is_reachable = False

    def restore(self, node: str) -> None:
        """Let a silenced node answer again; its units have gone on all the time."""
        self.node(node).is_reachable = True

    def kill(self, unit: str, *, is_out_of_memory: bool = False) -> None:
        """End a unit by force, now."""
        held = self.held(unit)
        held.end(self.clock.monotonic_s(), KILLED, is_out_of_memory=is_out_of_memory)
        held.node.tell_of_endings()

    def sicken(self, unit: str) -> None:
        """Let a unit run on, but not answer its health check any more."""
        self.held(unit).is_ill = True

    def take_port(self, host: str, port: int) -> None:
        """Let a stranger listen there."""
        self.at_address[host, port] = None

    def is_taken(self, host: str, port: int, *, by_others_than: Held) -> bool:
        """Say whether a stranger, or another unit that runs, listens there."""
        holder = self.at_address.get((host, port), by_others_than)
        if holder is None:
            return True
        has_ended = holder.look(self.clock.monotonic_s()).state is UnitState.EXITED
        return holder is not by_others_than and not has_ended

    def behaviour_of(self, unit: Unit) -> Behaviour:
        """Return how a unit behaves."""
        return self._by_image.get(unit.image, self._behaviour)

    def dice(self, unit: Unit) -> random.Random:
        """Return the dice of the next try to start a unit."""
        n_tries = self._tries[unit.name] = self._tries.get(unit.name, 0) + 1
        return random.Random(f"{self._seed} {unit.name} {n_tries}")  # noqa: S311
