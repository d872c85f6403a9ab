"""Which developer has which instance.

In:   a pool's developers and the instances that are to stay.
Out:  Assigns. Pure; never fails.

Stable: a developer keeps the instance through rotation and relocation, as these are new generations
of the same instance. Who is no longer listed gives it back; whose instance is scaled down gets
another one.
"""

from __future__ import annotations

from collections.abc import Sequence

from provisioning.actions import Assign
from provisioning.model import Instance, Phase
from provisioning.spec_model import Pool

READINESS = {
    Phase.RUNNING: 0,
    Phase.STARTING: 1,
    Phase.DRAINING: 2,
    Phase.STOPPING: 3,
    Phase.FAILED: 4,
}


class Assignment:
    """Who of a pool's developers waits for an instance, and which instances must be given back."""

    def __init__(self, pool: Pool, instances: Sequence[Instance]) -> None:
        listed = frozenset(pool.developers)
        served: set[str] = set()
        self._returned: list[Instance] = []
        self._free: list[Instance] = []
        for instance in instances:
            developer = instance.developer
            if not developer:
                self._free.append(instance)
            elif developer in listed and developer not in served:
                served.add(developer)
            else:
                self._returned.append(instance)
        self._waiting = [name for name in dict.fromkeys(pool.developers) if name not in served]

    def changes(self) -> list[Assign]:
        """Return what must change for the instances that there are."""
        free = sorted(self._free + self._returned, key=lambda one: (READINESS[one.phase], one.id))
        assigns = [Assign(one.id, name) for one, name in zip(free, self._waiting, strict=False)]
        del self._waiting[: len(assigns)]
        taken = {assign.id for assign in assigns}
        assigns += [Assign(one.id, "") for one in self._returned if one.id not in taken]
        return assigns

    @property
    def waiting(self) -> str:
        """Return who gets the next instance that is made; empty: nobody waits."""
        return self._waiting[0] if self._waiting else ""

    def serve(self) -> None:
        """Take note that an instance was made for who waited."""
        del self._waiting[:1]
