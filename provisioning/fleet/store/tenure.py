"""A term that is going on, and its end."""

from __future__ import annotations

import asyncio

from provisioning.fleet.store.base import Term


class Tenure:
    """What a leadership gives to whoever leads; see `base.Leading`."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        state = "over" if self._over.is_set() else "going on"
        return f"<Tenure of {self._term.holder}, epoch {self._term.epoch}, {state}>"

    @property
    def term(self) -> Term:
        """Return the term that writes carry."""
        return self._term

    async def lost(self) -> None:
        """Return when the term is over."""
        await self._over.wait()

    def end(self) -> None:
        """Say that the term is over; it never begins again."""
        self._over.set()
