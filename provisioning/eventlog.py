"""Log a line of each kind once per window, and count the lines that are held back.

In:   the kind of a line, or each record of a logger.
Out:  whether it is logged now, and how many like it were not since the last one. Never fails.
"""

from __future__ import annotations

import logging

from provisioning.clock import Clock

WINDOW_S = 60.0
MAX_KINDS = 100
"""More kinds than this within a window share one: a kind may hold what differs each time."""
OTHER = "other"


class RateLimit(logging.Filter):
    """As a filter of a logger or handler: the kind of a record is the first line of its message."""

    def __init__(self, clock: Clock, *, window_s: float = WINDOW_S) -> None:
        super().__init__()
        self._clock = clock
        self._window_s = window_s
        self._next_s: dict[str, float] = {}
        self._n_held: dict[str, int] = {}

    def admit(self, kind: str) -> int | None:
        """Return how many lines were held back since the last one; None: hold this one back."""
        now_s = self._clock.monotonic_s()
        if kind not in self._next_s and len(self._next_s) >= MAX_KINDS:
            self._forget_old(now_s)
            kind = kind if len(self._next_s) < MAX_KINDS else OTHER
        if now_s < self._next_s.get(kind, now_s):
            self._n_held[kind] = self._n_held.get(kind, 0) + 1
            return None
        self._next_s[kind] = now_s + self._window_s
        return self._n_held.pop(kind, 0)

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is logged; the first one after others were not tells how many."""
        head, line_end, rest = str(record.msg).partition("\n")
        n_held = self.admit(f"{record.name} {head}")
        if n_held:
            record.msg = f"{head} (held_back={n_held}){line_end}{rest}"
        return n_held is not None

    def _forget_old(self, now_s: float) -> None:
        old = [kind for kind, next_s in self._next_s.items() if next_s <= now_s]
        for kind in old:
            del self._next_s[kind]
            self._n_held.pop(kind, None)
