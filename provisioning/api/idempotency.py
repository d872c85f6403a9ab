"""Do a write once, however often its request arrives.

In:   the key that the client gave its request, and what the request asks for.
Out:  the first answer, again. Answers are kept for a day, the latest of them.
Fails with RefusedError, where a key comes back with another request, or before it was answered.
Kept in memory: after another provisioner has taken over, a request is carried out anew. Nothing
but `replace` and `drain` does more the second time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from provisioning.api.errors import RefusedError
from provisioning.clock import Clock

MAX_ANSWERS = 1_000
KEPT_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it can be sent again."""

    status: int
    body: bytes


@dataclass(slots=True)
class _Kept:
    request: bytes
    at_s: float
    answer: Answer | None = None
    """None: it is being worked on."""


class Answers:
    """The answers that were given."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def once(
        self, key: str, request: bytes, answer: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Return what `answer` gives, or gave when this key came first.

        Only answers are kept: a request that failed may be sent again.
        """
        self._forget(keep=MAX_ANSWERS)
        kept = self._kept.get(key)
        if kept is not None:
            return _again(kept, key, request)
        self._forget(keep=MAX_ANSWERS - 1)
        kept = self._kept[key] = _Kept(request, self._clock.monotonic_s())
        try:
            kept.answer = await answer()
        finally:
            if kept.answer is None:
                del self._kept[key]
        return kept.answer

    def _forget(self, *, keep: int) -> None:
        """Forget old answers, and the oldest of too many; what is being worked on stays."""
        oldest_s = self._clock.monotonic_s() - KEPT_S
        n_too_many = len(self._kept) - keep
        for key, kept in list(self._kept.items()):
            if n_too_many <= 0 and kept.at_s > oldest_s:
                return
            if kept.answer is not None:
                del self._kept[key]
                n_too_many -= 1


def _again(kept: _Kept, key: str, request: bytes) -> Answer:
    if kept.request != request:
        raise RefusedError(f"Idempotency-Key {key!r} was used for another request; take a new one")
    if kept.answer is None:
        raise RefusedError(f"the request with Idempotency-Key {key!r} is being worked on")
    return kept.answer
