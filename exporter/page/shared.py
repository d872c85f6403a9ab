"""Do work once for all who want the same of one revision.

In:   a revision's number, what is wanted, and how it is made.
Out:  what was made, which is kept until another revision is asked about.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

MAX_KEPT = 32
"""Who types filters must not fill the memory."""


@dataclass(slots=True)
class _Entry:
    made: object | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Shared:
    """What was made of the revision that was asked about last."""

    def __init__(self) -> None:
        self._revision = 0
        self._entries: dict[Hashable, _Entry] = {}

    def __repr__(self) -> str:
        return f"<Shared: {len(self._entries)} of revision {self._revision}>"

    async def get(
        self, revision: int, wanted: Hashable, make: Callable[[], Awaitable[object]]
    ) -> object:
        """Return what is wanted, made by the first who asks; where that one leaves, by the next."""
        if revision != self._revision:
            self._revision, self._entries = revision, {}
        entry = self._entries.setdefault(wanted, _Entry())
        if len(self._entries) > MAX_KEPT:
            del self._entries[next(iter(self._entries))]
        async with entry.lock:
            if entry.made is None:
                entry.made = await make()
            return entry.made
