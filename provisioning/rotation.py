"""When an instance is old enough to be replaced, and how long it takes to replace a whole pool.

In:   a Pool and the Limits of its fleet.
Out:  the ages at which its instances are due. Pure; never fails.

No instance gets older than its pool's period. To replace all instances, `at_once` of them at a
time and the oldest first, takes `whole_s`. So each instance is due at the latest when that much of
the period is left: then even the last one of a pool that was created at once is replaced in time,
however many are due together. A specification in which that is longer than the period is refused;
one that is in force already, by an earlier release, rotates as well as it can.

A small pool that was created at once would be replaced at once. So an instance is due earlier, by a
hash of its id, as long as the last seventh of the period allows: the last day of a week.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

from provisioning.limits import allowed_down
from provisioning.spec_model import Limits, Pool

SPREAD_RATIO = 1 / 7
"""Share of the period over which a pool created at once is replaced, if it need not take longer."""
PASSES_S = 5.0
"""For the passes that notice that a drain, a stop and a start have ended."""


class Throughput(NamedTuple):
    """How fast a pool can be rotated."""

    turn_s: float
    """From the drain of an instance until it runs again, at most."""
    n_at_once: int
    bounds: tuple[str, ...]
    """The settings that keep it from being more at once."""
    whole_s: float
    """To replace all instances of the pool."""


class Schedule(NamedTuple):
    """The ages at which a pool's instances are due."""

    earliest_s: float
    latest_s: float

    def due_age_s(self, instance_id: str) -> float:
        """Return the age at which an instance is due; infinite where the pool does not rotate."""
        if math.isinf(self.latest_s):
            return self.latest_s
        return self.latest_s - (self.latest_s - self.earliest_s) * phase_ratio(instance_id)


def phase_ratio(instance_id: str) -> float:
    """Return a number that stays with the id: 0 <= ratio < 1, evenly spread over ids."""
    digest = hashlib.blake2b(instance_id.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def warm_up_s_of(pool: Pool) -> float:
    """Return how long an instance of a pool is expected to load its model before it is ready."""
    return pool.rotation.warm_up_s if pool.workload.warm_up else 0.0


def throughput_of(pool: Pool, limits: Limits) -> Throughput:
    """Return how fast a pool can be rotated.

    Stops and starts take as long as they may, and models load as long as is expected: as long as
    `limits.warm_up_timeout` allows would be hours a turn.
    """
    operation_s = limits.stop_grace_s + limits.start_timeout_s + warm_up_s_of(pool)
    operation_s = max(0.001, operation_s)
    turn_s = pool.rotation.drain_s + operation_s + PASSES_S
    n_by_bound = {
        "at_once": pool.rotation.at_once,
        "limits.unavailable": allowed_down(pool, limits),
        # While an instance drains, it takes no operation.
        "limits.operations": max(1, int(limits.operations * turn_s / operation_s)),
    }
    n_at_once = min(n_by_bound.values())
    return Throughput(
        turn_s=turn_s,
        n_at_once=n_at_once,
        bounds=tuple(name for name, n in n_by_bound.items() if n == n_at_once),
        whole_s=turn_s * -(-pool.count // n_at_once),
    )


def schedule_of(pool: Pool, limits: Limits) -> Schedule:
    """Return the ages at which a pool's instances are due."""
    every_s = pool.rotation.every_s
    if every_s <= 0:
        return Schedule(math.inf, math.inf)
    whole_s = throughput_of(pool, limits).whole_s
    if whole_s > every_s:
        # It cannot be kept: to begin earlier would replace young instances again and again.
        whole_s = 0.0
    return Schedule(every_s - max(SPREAD_RATIO * every_s, whole_s), every_s - whole_s)
