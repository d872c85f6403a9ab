"""Say that the store is away: when that begins, then once a minute, and when it is over.

In:   each try that failed, and what comes of that; each that went well.
Out:  a few lines in the log, however often the store comes and goes. Never fails.
"""

from __future__ import annotations

import logging

from provisioning.fleet.clock import Clock
from provisioning.fleet.errors import StoreError, StoreUnavailableError

REPEAT_S = 60.0


class Outage:
    """What one part of a provisioner says of a store that it cannot use."""

    def __init__(self, clock: Clock, log: logging.Logger, *, restored: str) -> None:
        """Take the words for its end, as `the store is back`."""
        self._clock = clock
        self._log = log
        self._restored = restored
        self._since_s: float | None = None
        """None: all is well."""
        self._is_told = False
        self._next_s: dict[str, float] = {}
        """When each consequence may be told again."""

    def note_failed(self, consequence: str, error: StoreError) -> None:
        """Take note of a try that failed, and tell of it unless that was told just now."""
        now_s = self._clock.monotonic_s()
        if self._since_s is None:
            self._since_s = now_s
        if now_s < self._next_s.get(consequence, now_s):
            return
        self._is_told = True
        self._next_s[consequence] = now_s + REPEAT_S
        away_s = now_s - self._since_s
        level = logging.WARNING if isinstance(error, StoreUnavailableError) else logging.ERROR
        if away_s:
            self._log.log(level, "%s, for %.0f s now: %s", consequence, away_s, error)
        else:
            self._log.log(level, "%s: %s", consequence, error)

    def note_well(self) -> None:
        """Take note of a try that went well, and tell of it if it was told that others failed."""
        if self._since_s is not None and self._is_told:
            away_s = self._clock.monotonic_s() - self._since_s
            self._log.info("%s, after %.0f s", self._restored, away_s)
        self._since_s = None
        self._is_told = False
