"""Tell which containers lost a process to the out-of-memory killer, and whether it ended them.

In:   the counter of each container's cgroup, as often as a runtime looks.
Out:  whether it has risen since the container is known. Never fails.

The kernel often kills a child, such as the process that holds the model, and the container's first
process goes on. What was killed before this provisioner knew the container is not told, and a kill
that the container survived is not blamed for its end later on.
"""

from __future__ import annotations

import math

import msgspec

from ollama_fleet.clock import Clock
from provisioning.model import ContainerState, ObservedContainer

DYING_S = 10.0
"""How long a killed process may be seen to run: it gives back its memory first."""


class Kills(msgspec.Struct):
    """What is known of one container."""

    before: int
    """What the counter was when it became known."""
    latest: int
    risen_s: float = -math.inf
    """When the counter was last seen to rise while the container ran."""
    has_ended_it: bool | None = None
    """None: it runs, as far as is known."""


class OomKills:
    """The counters of the containers on one node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kills: dict[str, Kills] = {}

    def begin(self, name: str, n_kills: int = 0) -> None:
        """Know a container that is being made."""
        self._kills[name] = Kills(n_kills, n_kills)

    def forget(self, name: str) -> None:
        """Know nothing of a container that was removed."""
        self._kills.pop(name, None)

    def is_open(self, container: ObservedContainer) -> bool:
        """Say whether the counter has to be read to tell of a container; else it need not be."""
        kills = self._kills.get(container.name)
        has_exited = container.state is ContainerState.EXITED
        return kills is None or (has_exited and kills.has_ended_it is None)

    def judged(self, container: ObservedContainer, n_kills: int | None) -> ObservedContainer:
        """Return a container with what its counter tells; None: that was not read."""
        if container.state is ContainerState.CREATED:
            return container
        judge = self._has_ended if container.state is ContainerState.EXITED else self._has_hit
        return msgspec.structs.replace(container, is_out_of_memory=judge(container.name, n_kills))

    def _has_hit(self, name: str, n_kills: int | None) -> bool:
        """Say whether a running container has lost a process; None: its counter was not read."""
        kills = self._kills.get(name)
        if kills is None:
            if n_kills is not None:
                self.begin(name, n_kills)
                # It may be dying of the kill that was counted just before the first look.
                self._kills[name].risen_s = self._clock.monotonic_s() if n_kills else -math.inf
            return False
        kills.has_ended_it = None
        if n_kills is not None and n_kills > kills.latest:
            kills.latest, kills.risen_s = n_kills, self._clock.monotonic_s()
        return kills.latest > kills.before

    def _has_ended(self, name: str, n_kills: int | None) -> bool:
        """Say whether a kill has ended a container that does not run any more."""
        kills = self._kills.setdefault(name, Kills(0, 0))
        if kills.has_ended_it is None:
            is_just_risen = self._clock.monotonic_s() - kills.risen_s < DYING_S
            kills.has_ended_it = is_just_risen or (n_kills or 0) > kills.latest
        return kills.has_ended_it
