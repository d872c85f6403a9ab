"""How fast a pool may be changed: its disruption budget and the pace of its rotation; pure."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import msgspec

from provisioning.model import Instance, Limits, Phase, Pool


class StatusCounts(msgspec.Struct):
    """How many of a pool's wanted instances are not serving, by whose doing."""

    n_moving: int = 0
    """Drained, stopped or started again by the provisioner."""
    n_stuck: int = 0
    """Those of them whose container could not be removed: for how long, nobody knows."""
    n_failed: int = 0
    n_down: int = 0
    """Running by the record, but unhealthy or ended."""

    def count(self, instance: Instance, *, is_down: bool) -> None:
        """Take an instance into account.

        One that is started for the first time was never there to be missed.
        """
        if instance.phase is Phase.FAILED:
            self.n_failed += 1
        elif instance.phase is Phase.RUNNING:
            self.n_down += is_down
        elif instance.phase is not Phase.STARTING or instance.generation > 1:
            self.n_moving += 1
            self.n_stuck += instance.n_stop_tries > 0


def allowed_down(pool: Pool, limits: Limits) -> int:
    """Return how many of a pool's instances the provisioner may take down at once."""
    return max(1, math.floor(limits.unavailable_ratio * pool.count + 1e-9))


def unhealthy_stops(pool: Pool, limits: Limits, counts: StatusCounts) -> int:
    """Return how many unhealthy instances may be stopped now.

    They may be healthy and only unreachable, so as many as of the healthy ones. Those that wait for
    it do not count, nor do as many as may be down of those that cannot be removed: they would keep
    the other ones of a small pool unhealthy.
    """
    n_allowed = allowed_down(pool, limits)
    return n_allowed - (counts.n_moving - min(counts.n_stuck, n_allowed))


def replacements(pool: Pool, limits: Limits, counts: StatusCounts) -> int:
    """Return how many healthy instances may be drained now, to be replaced.

    None while too many are down for whatever reason: a bad workload stops rolling out there.
    """
    n_missing = counts.n_moving + counts.n_failed + counts.n_down
    return min(
        pool.rotation.at_once - counts.n_moving,
        allowed_down(pool, limits) - n_missing,
    )


SPREAD_RATIO = 1 / 7
"""Share of the period over which a pool created at once is replaced, if it need not take longer."""
RECONCILES_S = 5.0
"""For the reconciles that notice that a drain, a stop and a start have ended."""


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
    return pool.rotation.warm_up_s if pool.workload.warm_up_requests else 0.0


def throughput_of(pool: Pool, limits: Limits) -> Throughput:
    """Return how fast a pool can be rotated.

    Stops and starts take as long as they may, and models load as long as is expected: as long as
    `limits.warm_up_timeout` allows would be hours a turn.
    """
    operation_s = limits.stop_grace_s + limits.start_timeout_s + warm_up_s_of(pool)
    operation_s = max(0.001, operation_s)
    turn_s = pool.rotation.drain_s + operation_s + RECONCILES_S
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
