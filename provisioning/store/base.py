"""What the provisioner asks of a store, and of the leadership that goes with it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

import msgspec

from provisioning.errors import StoreError
from provisioning.model import Instance

NEW = 0
"""The version of what does not exist yet."""


class StoredInstance(msgspec.Struct, frozen=True):
    """An instance as the store holds it."""

    instance: Instance
    version: int
    """Changes with every write of the record, never comes back; above 0."""


class StoredSpec(msgspec.Struct, frozen=True):
    """The fleet's specification, as text."""

    text: str
    version: int


class View(msgspec.Struct, frozen=True):
    """All that a store holds, as of one moment."""

    revision: int
    """Grows with every write; a watch goes on from it."""
    stored: Mapping[str, StoredInstance]
    """By instance id."""
    spec: StoredSpec | None = None


class Put(msgspec.Struct, frozen=True):
    """Write a record and claim its port on its node; an earlier port of it is given back."""

    instance: Instance
    expected: int
    """The version that the record must still have; NEW: it must not exist."""


class Delete(msgspec.Struct, frozen=True):
    """Delete a record and give its port back."""

    id: str
    expected: int


class PutSpec(msgspec.Struct, frozen=True):
    """Write the specification."""

    text: str
    expected: int


Change = Put | Delete | PutSpec


class ChangeRefusal(StrEnum):
    """Why one change was not made, while others of the same commit were."""

    CONFLICT = "conflict"
    """The record has another version, exists, or is gone."""
    PORT_TAKEN = "port_taken"


class ChangeResult(msgspec.Struct, frozen=True):
    """What became of one change."""

    version: int = 0
    """The record's new version; 0 after a deletion or a refusal."""
    refusal: ChangeRefusal | None = None


class Update(msgspec.Struct, frozen=True):
    """What a watch tells: the state of some records after a write."""

    revision: int
    stored: tuple[StoredInstance, ...] = ()
    deleted: tuple[str, ...] = ()
    spec: StoredSpec | None = None


class Term(msgspec.Struct, frozen=True):
    """A time of leading; every write carries it, and is refused once another term has begun."""

    epoch: int
    """Greater than that of every earlier term."""
    holder: str
    """Who leads: the URL of its API."""


class Store(Protocol):
    """Records of one fleet. Every method may raise StoreUnavailableError."""

    async def load(self) -> View:
        """Return everything, as of one revision."""
        ...

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[ChangeResult, ...]:
        """Make each change whole or not at all, in order; say what became of each.

        Changes of one commit may be made in several steps; a later step may fail where an earlier
        one was made. No record and no port may be in two changes of one commit. Without changes
        it says whether the term goes on.

        Raises:
            FencedError: The term is over. The changes of this step were not made.
            StoreUnavailableError: Nobody knows what was made; load again before the next commit.
        """
        ...

    def watch(self, after: int) -> AsyncIterator[Update]:
        """Yield what is written after a revision, in order, without end.

        Raises:
            CompactedError: Too much was written since; load again.
            StoreUnavailableError: The connection is lost; watch again from the last revision.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and files."""
        ...


class Leadership(Protocol):
    """Who of several provisioners may change the fleet."""

    @property
    def holder(self) -> str:
        """Return who we are: the holder of the terms that begin here."""
        ...

    def lead(self) -> AbstractAsyncContextManager[LeaderSession]:
        """Wait until nobody else leads, then lead; leaving the block hands over at once.

        Raises:
            StoreUnavailableError: While waiting, the store could not be reached.
        """
        ...

    async def leader(self) -> str | None:
        """Return who leads now; None: nobody, or it cannot be said."""
        ...


class LeaderSession:
    """A term that is going on, and its end."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self._until_s = math.inf
        self._over = asyncio.Event()

    @property
    def term(self) -> Term:
        """Return the term that writes carry."""
        return self._term

    @property
    def until_s(self) -> float:
        """Return until when nobody else can lead, by our monotonic clock; may be infinite.

        Whoever slept past it must not touch a node any more, even before `lost` has returned.
        """
        return -math.inf if self._over.is_set() else self._until_s

    def hold_until(self, until_s: float) -> None:
        """Say until when nobody else can lead, by our monotonic clock."""
        self._until_s = until_s

    async def lost(self) -> None:
        """Return when the term is over, by this provisioner's own clock at the latest."""
        await self._over.wait()

    def end(self) -> None:
        """Say that the term is over; it never begins again."""
        self._over.set()


Place = tuple[str, int]
"""A node's name and a port on it: what no two instances share."""


def place_of(instance: Instance) -> Place:
    """Return where the instance listens."""
    return instance.node, instance.port


def encode(instance: Instance) -> bytes:
    """Return the instance as JSON, about 400 bytes and 60 for each line of its history."""
    return msgspec.json.encode(instance)


def decode(body: bytes, *, source: str) -> Instance:
    """Read an instance; `source` names the record in the error.

    Raises:
        StoreError: It is no instance, or one of a later release with another shape.
    """
    try:
        return msgspec.json.decode(body, type=Instance)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"cannot read the record {source}: {error}; it was written by something else or by "
            f"another release: run the release that wrote it, or delete the record"
        ) from error
