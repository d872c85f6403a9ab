"""Log what repeats at most once per window, and when an outage begins, lasts and ends."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable
from dataclasses import dataclass

from ollama_fleet.clock import Clock

WINDOW_S = 60.0
LONGEST_WINDOW_S = 3600.0
"""An outage that lasts is logged at growing intervals, at most this long."""
MAX_KEYS = 1000
"""More keys than this within a window share one: a key may hold what differs each time."""
OTHER = "other"


@dataclass(slots=True)
class _Window:
    """The lines of one key since its window began."""

    ends_s: float = -math.inf
    n_logged: int = 0
    n_held: int = 0


@dataclass(slots=True)
class _Tries:
    """How one thing that is tried repeatedly goes."""

    since_s: float | None = None
    """When the outage began; None: the last try succeeded."""
    failed_s: float = 0.0
    is_logged: bool = False
    n_failed: int = 0
    """Since the last line."""
    n_tries: int = 0
    """Since the first of those failures."""


class EventLog:
    """Writes to a logger; each event and each outage has a key of its own."""

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._windows: dict[Hashable, _Window] = {}
        self._tries: dict[Hashable, _Tries] = {}

    def admit(self, key: Hashable, *, burst: int = 1, window_s: float = WINDOW_S) -> int | None:
        """Return how many lines were held back since the last one; None: hold this one back.

        Args:
            key: What the line is about.
            burst: How many lines of this key a window takes.
            window_s: How long they are counted.
        """
        now_s = self._clock.monotonic_s()
        if key not in self._windows and len(self._windows) >= MAX_KEYS:
            self._forget_old(now_s)
            key = key if len(self._windows) < MAX_KEYS else OTHER
        window = self._windows.setdefault(key, _Window())
        if now_s >= window.ends_s:
            window.ends_s = now_s + window_s
            window.n_logged = 0
        if window.n_logged >= burst:
            window.n_held += 1
            return None
        window.n_logged += 1
        n_held, window.n_held = window.n_held, 0
        return n_held

    def event(
        self,
        key: Hashable,
        message: str,
        *args: object,
        level: int = logging.WARNING,
        burst: int = 1,
    ) -> None:
        """Log an event unless `burst` lines of its key came within the window."""
        n_held = self.admit(key, burst=burst)
        if n_held is not None:
            head, colon, rest = message.partition(": ")
            self._log.log(level, f"{head}{_held_back_text(n_held)}{colon}{rest}", *args)

    def failed(
        self, key: Hashable, message: str, error: object, *, level: int = logging.WARNING
    ) -> bool:
        """Take note of a try that failed; return whether an outage begins with it."""
        now_s = self._clock.monotonic_s()
        tries = self._tries.setdefault(key, _Tries())
        is_new = tries.since_s is None
        since_s = tries.since_s = now_s if tries.since_s is None else tries.since_s
        tries.failed_s = now_s
        tries.n_failed += 1
        tries.n_tries += 1
        window_s = min(max(WINDOW_S, now_s - since_s), LONGEST_WINDOW_S)
        if self.admit((key, message), window_s=window_s) is not None:
            counts = (tries.n_failed, tries.n_tries, now_s - since_s)
            template = f"{_literal(message)} failed=%d of=%d for_s=%.0f: %s"
            self._log.log(level, template, *counts, error)
            tries.is_logged = True
            tries.n_failed = tries.n_tries = 0
        return is_new

    def succeeded(self, key: Hashable, message: str, *, quiet_s: float = 0.0) -> bool:
        """Take note of a try that succeeded; return whether an outage ends with it.

        It ends once no try has failed for `quiet_s`.
        """
        tries = self._tries.setdefault(key, _Tries())
        tries.n_tries += tries.n_failed > 0
        now_s = self._clock.monotonic_s()
        if tries.since_s is None or now_s - tries.failed_s < quiet_s:
            return False
        if tries.is_logged:
            self._log.info(f"{_literal(message)} after_s=%.0f", now_s - tries.since_s)
        tries.since_s, tries.is_logged = None, False
        return True

    def forget(self) -> None:
        """Start over, as if nothing had been logged."""
        self._windows.clear()
        self._tries.clear()

    def keep_only(self, keys: frozenset[Hashable]) -> None:
        """Forget the outages of all other keys, without a line."""
        for key in self._tries.keys() - keys:
            del self._tries[key]

    def _forget_old(self, now_s: float) -> None:
        old = [key for key, window in self._windows.items() if window.ends_s <= now_s]
        for key in old:
            del self._windows[key]


class RateLimit(logging.Filter):
    """As a filter of a logger: of each kind of record one is logged per window.

    The kind of a record is the first line of its message.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._events = EventLog(logging.getLogger("provisioning.eventlog"), clock)

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is logged; the first one after others were not tells how many."""
        head, line_end, rest = str(record.msg).partition("\n")
        n_held = self._events.admit((record.name, head))
        record.msg = f"{head}{_held_back_text(n_held)}{line_end}{rest}"
        return n_held is not None


def _literal(text: str) -> str:
    """Return a template that gives a text."""
    return text.replace("%", "%%")


def _held_back_text(n: int | None) -> str:
    return f" held_back={n}" if n else ""
