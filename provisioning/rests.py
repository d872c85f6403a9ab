"""How long a unit that could not be removed is left alone before the next try.

In:   how each removal has ended.
Out:  the units that are left alone now. Never fails.

A removal that fails at once, for good, would else be tried again with every pass.
"""

from __future__ import annotations

from provisioning.clock import Clock

FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0


class Rests:
    """The units whose removal has failed, until one has gone well."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rests: dict[str, tuple[float, float]] = {}
        """By unit: how long it is left alone, and until when."""

    def note_removed(self, unit: str) -> None:
        """Take note that a unit is gone."""
        self._rests.pop(unit, None)

    def note_failed(self, unit: str) -> None:
        """Leave a unit alone, each time for twice as long."""
        before_s, _ = self._rests.get(unit, (FIRST_REST_S / 2, 0.0))
        rest_s = min(LONGEST_REST_S, 2 * before_s)
        self._rests[unit] = (rest_s, self._clock.monotonic_s() + rest_s)

    def resting(self) -> frozenset[str]:
        """Return the units that are to be left alone now."""
        now_s = self._clock.monotonic_s()
        return frozenset(unit for unit, (_, until_s) in self._rests.items() if now_s < until_s)

    def clear(self) -> None:
        """Forget everything."""
        self._rests.clear()
