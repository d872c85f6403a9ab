"""Say that the store is away: when that begins, then once a minute, and when it is over.

In:   each try that failed, and what comes of that; each that went well.
Out:  a few lines in the log, however often the store comes and goes. Never fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from provisioning.clock import Clock
from provisioning.errors import StoreError, StoreUnavailableError

REPEAT_S = 60.0
SURE_S = 120.0
"""A store that refused a write may be read all the time; it is well if so long nothing failed."""


class Outage:
    """What one part of a provisioner says of a store that it cannot use."""

    def __init__(
        self,
        clock: Clock,
        log: logging.Logger,
        *,
        restored: str,
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the words for its end, as `the store is back`, and who is told that one begins."""
        self._clock = clock
        self._log = log
        self._restored = restored
        self._on_begin = on_begin
        self._since_s: float | None = None
        """None: all is well."""
        self._refused_s: float | None = None
        """When the store last refused something, in this outage."""
        self._is_told = False
        self._next_s: dict[str, float] = {}
        """When each consequence may be told again."""

    def note_failed(self, consequence: str, error: StoreError) -> None:
        """Take note of a try that failed, and tell of it unless that was told just now."""
        now_s = self._clock.monotonic_s()
        if self._since_s is None:
            self._since_s = now_s
            self._on_begin()
        is_passing = isinstance(error, StoreUnavailableError)
        if not is_passing:
            self._refused_s = now_s
        if now_s < self._next_s.get(consequence, now_s):
            return
        self._is_told = True
        self._next_s[consequence] = now_s + REPEAT_S
        away_s = now_s - self._since_s
        level = logging.WARNING if is_passing else logging.ERROR
        if away_s:
            self._log.log(level, "%s, for %.0f s now: %s", consequence, away_s, error)
        else:
            self._log.log(level, "%s: %s", consequence, error)

    def note_read(self) -> None:
        """Take note of a try that went well without a write: where one was refused, it may again.

        Whoever leads anew looks around before there is anything to write.
        """
        if self._refused_s is None or self._clock.monotonic_s() - self._refused_s >= SURE_S:
            self.note_well()

    def note_well(self) -> None:
        """Take note of a try that went well, and tell of it if it was told that others failed."""
        if self._since_s is not None and self._is_told:
            away_s = self._clock.monotonic_s() - self._since_s
            self._log.info("%s, after %.0f s", self._restored, away_s)
        self._since_s = self._refused_s = None
        self._is_told = False
