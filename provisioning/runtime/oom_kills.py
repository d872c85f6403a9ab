"""Tell which units lost a process to the kernel's out-of-memory killer, and whether it ended them.

In:   the counter of each unit's cgroup, as often as a runtime looks.
Out:  whether it has risen since the unit is known. Never fails.

The kernel often kills a child, such as the process that holds the model, and the unit's first
process goes on. What was killed before this provisioner knew the unit is not told, and a kill that
the unit survived is not blamed for its end later on.
"""

from __future__ import annotations

import math

import msgspec

from ollama_fleet.clock import Clock
from provisioning.model import FoundUnit, UnitState

DYING_S = 10.0
"""How long a killed process may be seen to run: it gives back its memory first."""


class Kills(msgspec.Struct):
    """What is known of one unit."""

    before: int
    """What the counter was when it became known."""
    latest: int
    risen_s: float = -math.inf
    """When the counter was last seen to rise while the unit ran."""
    has_ended_it: bool | None = None
    """None: it runs, as far as is known."""


class OomKills:
    """The counters of the units on one node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kills: dict[str, Kills] = {}

    def begin(self, name: str, n_kills: int = 0) -> None:
        """Know a unit that is being made."""
        self._kills[name] = Kills(n_kills, n_kills)

    def forget(self, name: str) -> None:
        """Know nothing of a unit that was removed."""
        self._kills.pop(name, None)

    def is_open(self, unit: FoundUnit) -> bool:
        """Say whether the counter has to be read to tell of a unit; else it need not be."""
        kills = self._kills.get(unit.name)
        has_exited = unit.state is UnitState.EXITED
        return kills is None or (has_exited and kills.has_ended_it is None)

    def judged(self, unit: FoundUnit, n_kills: int | None) -> FoundUnit:
        """Return a unit with what its counter tells; None: that was not read."""
        if unit.state is UnitState.CREATED:
            return unit
        judge = self._has_ended if unit.state is UnitState.EXITED else self._has_hit
        return msgspec.structs.replace(unit, is_out_of_memory=judge(unit.name, n_kills))

    def _has_hit(self, name: str, n_kills: int | None) -> bool:
        """Say whether a running unit has lost a process; None: its counter was not read."""
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
        """Say whether a kill has ended a unit that does not run any more."""
        kills = self._kills.setdefault(name, Kills(0, 0))
        if kills.has_ended_it is None:
            is_just_risen = self._clock.monotonic_s() - kills.risen_s < DYING_S
            kills.has_ended_it = is_just_risen or (n_kills or 0) > kills.latest
        return kills.has_ended_it
