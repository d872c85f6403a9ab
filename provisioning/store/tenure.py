"""A term that is going on, and its end."""

from __future__ import annotations

import asyncio
import math

from provisioning.store.base import Term


class Tenure:
    """What a leadership gives to whoever leads; see `base.Leading`."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self._until_s = math.inf
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        state = "over" if self._over.is_set() else "going on"
        return f"<Tenure of {self._term.holder}, epoch {self._term.epoch}, {state}>"

    @property
    def term(self) -> Term:
        """Return the term that writes carry."""
        return self._term

    @property
    def until_s(self) -> float:
        """Return until when nobody else can lead: without end, if nobody says otherwise."""
        return -math.inf if self._over.is_set() else self._until_s

    def hold_until(self, until_s: float) -> None:
        """Say until when nobody else can lead, by our monotonic clock."""
        self._until_s = until_s

    async def lost(self) -> None:
        """Return when the term is over."""
        await self._over.wait()

    def end(self) -> None:
        """Say that the term is over; it never begins again."""
        self._over.set()
