"""Since when the silence of nodes counts, whatever becomes of the wall clock.

In:   a Clock, looked at in each pass.
Out:  `since_s`: before it, silence says nothing. Never fails.
"""

from __future__ import annotations

import logging

from provisioning.fleet.clock import Clock

log = logging.getLogger("provisioning.fleet.grace")

CLOCK_JUMP_S = 5.0
"""Less is a clock that is kept right."""


class Grace:
    """When nodes were last given their grace anew."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """From now on count how long nodes are silent."""
        self.since_s = self._clock.unix_s()
        self._lead_s = self.since_s - self._clock.monotonic_s()

    def look(self) -> None:
        """Begin anew where the wall clock was set: nobody knows how long nodes were silent."""
        jump_s = self._clock.unix_s() - self._clock.monotonic_s() - self._lead_s
        if abs(jump_s) >= CLOCK_JUMP_S:
            log.warning("the clock was set by %+.0f s: silent nodes have their grace anew", jump_s)
            self.begin()
