"""Wait for what passes by itself: a provisioner that begins to lead, or has read its store.

In:   answers that say it is not so yet, and when to ask again.
Out:  pauses, bounded in all; before the first one a line for the person who waits.
"""

from __future__ import annotations

from collections.abc import Callable

from provisioning.client.answers import Answer

PAUSE_S = 1
"""Where an answer does not say when to ask again."""


class Patience:
    """One request's."""

    def __init__(
        self,
        limit_s: float,
        reason: str,
        *,
        sleep: Callable[[float], None],
        tell: Callable[[str], None],
    ) -> None:
        self._limit_s = limit_s
        self._reason = reason
        self._sleep = sleep
        self._tell = tell
        self.waited_s = 0.0

    def lasts(self, answer: Answer) -> bool:
        """Wait as long as an answer asks for; False: all of the time is used up."""
        pause_s = min(_pause_s(answer), self._limit_s - self.waited_s)
        if pause_s <= 0.0:
            return False
        if not self.waited_s:
            self._tell(self._reason)
        self._sleep(pause_s)
        self.waited_s += pause_s
        return True


def _pause_s(answer: Answer) -> float:
    """Return what Retry-After says in seconds; a date is not waited for."""
    text = answer.headers.get("Retry-After", "")
    return max(PAUSE_S, int(text)) if text.isascii() and text.isdecimal() else PAUSE_S
