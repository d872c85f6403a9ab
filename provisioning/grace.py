"""Since when the silence of nodes counts, whatever becomes of the wall clock.

In:   a Clock, looked at in each pass.
Out:  `since_s`: before it, silence says nothing; `skips`, which are no time. Never fails.
"""

from __future__ import annotations

import logging

from provisioning.actions import Skip
from provisioning.clock import Clock

log = logging.getLogger("provisioning.grace")

CLOCK_JUMP_S = 5.0
"""Less is a clock that is kept right."""
MAX_SKIPS = 100
"""A machine that sleeps each night has one a day."""


class Grace:
    """When nodes were last given their grace anew, and what time the wall clock has left out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.since_s = clock.unix_s()
        self.skips: tuple[Skip, ...] = ()
        self._lead_s = self.since_s - clock.monotonic_s()

    def begin(self) -> None:
        """From now on count how long nodes are silent."""
        self.look()
        self.since_s = self._clock.unix_s()

    def look(self) -> None:
        """Begin anew where the wall clock was set: nobody knows how long nodes were silent."""
        now_s = self._clock.unix_s()
        jump_s = now_s - self._clock.monotonic_s() - self._lead_s
        if abs(jump_s) < CLOCK_JUMP_S:
            return
        log.warning("the clock was set by %+.0f s: silent nodes have their grace anew", jump_s)
        self._lead_s += jump_s
        self.since_s = now_s
        # What is ahead by now was left out by a clock that was since set back.
        skips = [skip for skip in self.skips if skip.at_s <= now_s]
        if jump_s > 0:
            skips.append(Skip(now_s, jump_s))
        self.skips = tuple(skips[-MAX_SKIPS:])
