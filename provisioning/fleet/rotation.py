"""When an instance is old enough to be replaced by a fresh one.

In:   an instance's id and the Rotation of its pool.
Out:  the age at which it is due. Pure; never fails.

A fleet that was created at once must not be replaced at once. So an instance is due not at the
period's end but up to a seventh of it earlier, by a hash of its id: within the last day of a week,
and never later than the pool asks. With every further round the fleet spreads by as much again,
until replacements go on evenly all the time.
"""

from __future__ import annotations

import hashlib

from provisioning.fleet.fleet import Rotation

SPREAD_RATIO = 1 / 7
"""Share of the period over which a fleet created at once is replaced."""


def phase_ratio(instance_id: str) -> float:
    """Return a number that stays with the id: 0 <= ratio < 1, evenly spread over ids."""
    digest = hashlib.blake2b(instance_id.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def earliest_due_s(rotation: Rotation) -> float:
    """Return the age before which no instance of the pool is due."""
    return rotation.every_s * (1 - SPREAD_RATIO) if rotation.every_s > 0 else float("inf")


def due_age_s(instance_id: str, rotation: Rotation) -> float:
    """Return the age at which an instance is due; infinite where the pool does not rotate."""
    if rotation.every_s <= 0:
        return float("inf")
    return rotation.every_s * (1 - SPREAD_RATIO * phase_ratio(instance_id))
