"""What the API asks of the rest of the provisioner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from provisioning.api.forms import OrphanDocument
from provisioning.model import Fleet, Instance, NodeReport
from provisioning.plan import Plan
from provisioning.store.base import View

ANY = -1
"""As the version that is expected: whichever is in force, as long as one is."""


class Source(Protocol):
    """What the provisioner knows of the fleet, at hand without asking the store."""

    @property
    def view(self) -> View | None:
        """Return the latest view; None: none was had yet."""
        ...

    @property
    def as_of_s(self) -> float:
        """Return when the view was last known to be the store's, in seconds since 1970 UTC."""
        ...

    async def changed(self, known: View | None) -> None:
        """Return once there is a view, and it is another than `known`.

        Views of one revision may differ: answers to two writes may come the other way round.
        """
        ...


Reports = Callable[[], Awaitable[Mapping[str, NodeReport]]]
"""Gives what was last heard of each node; NotLeadingError: only the leader asks them."""


class Orphans(Protocol):
    """What runs without a record, as the leader sees it.

    Both may raise NotLeadingError, and RefusedError before each node was asked.
    """

    async def all(self) -> list[OrphanDocument]:
        """Return every orphan that is known, by node and name."""
        ...

    async def delete(self, count: int) -> list[OrphanDocument]:
        """Have all orphans deleted; RefusedError: they are more or less than `count`."""
        ...


class Commands(Protocol):
    """What a person may ask for. Each may be asked again: it is done once.

    Every method may raise NotLeadingError, with which nothing was written, HalfDoneError, and
    StoreUnavailableError; those with an id UnknownError, and RefusedError where the instance is in
    no state for it.
    """

    async def assign(self, id: str, developer: str) -> Instance:  # noqa: A002
        """Give an instance to a developer, who gives back another one of the pool."""
        ...

    async def release(self, id: str) -> Instance:  # noqa: A002
        """Take an instance from its developer, who is no longer listed in the pool."""
        ...

    async def drain(self, id: str) -> Instance:  # noqa: A002
        """Let an instance end what it has begun, now; then it starts afresh."""
        ...

    async def replace(self, id: str) -> Instance:  # noqa: A002
        """Replace an instance by a fresh one as soon as the fleet's limits allow it."""
        ...

    async def scale(self, pool: str, count: int, expected: int | None) -> Plan:
        """Change how many instances a pool has.

        Args:
            pool: Its name.
            count: How many it is to have.
            expected: As of `put_spec`.

        Raises:
            UnknownError: There is no such pool.
            OutdatedError: Another version is in force.
            SpecError: So many do not fit.
        """
        ...

    async def put_spec(self, fleet: Fleet, expected: int | None) -> Plan:
        """Put a checked specification in force; return what changes.

        Args:
            fleet: The whole specification.
            expected: The version that must be in force, 0 for none, or ANY; None: whichever is.

        Raises:
            OutdatedError: Another version is in force.
            RefusedError: It has another name than the fleet in force, or lacks a node that holds
                instances and is not cordoned, or has another machine for one that holds some.
        """
        ...
