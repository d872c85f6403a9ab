"""Spread polls over the interval: each instance at its own phase, the same one after a restart.

In:   instance ids and the interval.
Out:  which instances are due at which tick. Pure.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

Item = TypeVar("Item")

TICK_S = 0.1
"""How finely polls are spread. What starts together is also read together, which halves the system
calls; and even of 100,000 instances only a thousand start at once, which takes some 20 ms."""
MAX_SLOTS = 10_000
"""Ticks of longer intervals are longer: each has a place in memory, used or not."""


def phase_s(instance_id: str, interval_s: float) -> float:
    """Return when in each interval an instance is due, in seconds: 0 <= phase < interval_s.

    It comes from the id, not from a dice roll: after a restart each instance is polled at the same
    offset again, so its samples stay one interval apart.
    """
    digest = hashlib.blake2b(instance_id.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48 * interval_s


class Wheel(Generic[Item]):
    """Items by the tick of the interval at which they are due."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.n_slots = min(MAX_SLOTS, max(1, round(interval_s / TICK_S)))
        self.tick_s = interval_s / self.n_slots
        self._slots: list[dict[str, Item]] = [{} for _ in range(self.n_slots)]

    def add(self, instance_id: str, item: Item) -> None:
        """Put an item at its phase; an item under the same id is replaced."""
        self._slots[self._slot(instance_id)][instance_id] = item

    def remove(self, instance_id: str) -> None:
        """Take an item out, if it is in."""
        self._slots[self._slot(instance_id)].pop(instance_id, None)

    def due(self, tick: int) -> Iterable[Item]:
        """Return the items that are due at a tick, counted from any multiple of the interval."""
        return tuple(self._slots[tick % self.n_slots].values())

    def tick_at(self, unix_s: float) -> int:
        """Return the number of the tick that a moment lies in."""
        return int(unix_s // self.tick_s)

    def starts_at_s(self, tick: int) -> float:
        """Return when a tick begins, in seconds since 1970 UTC."""
        return tick * self.tick_s

    def _slot(self, instance_id: str) -> int:
        return int(phase_s(instance_id, self.interval_s) / self.tick_s) % self.n_slots
