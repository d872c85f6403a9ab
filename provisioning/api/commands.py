"""Carry out what a person asks for, by writing it into the store.

In:   a Store, the view at hand, the term if this provisioner leads.
Out:  records and specifications that the next pass acts on.
Fails with NotLeadingError, HalfDoneError, UnknownError, RefusedError, OutdatedError, SpecError, and
StoreUnavailableError. A write that meets another one is made again on what it wrote.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from provisioning.api.errors import (
    ApiError,
    HalfDoneError,
    NotLeadingError,
    RefusedError,
)
from provisioning.api.ports import Source
from provisioning.api.steps import (
    AnswerT,
    Step,
    assigned,
    check_name,
    drained,
    released,
    scaled,
    specified,
    to_be_replaced,
)
from provisioning.clock import Clock
from provisioning.errors import FencedError, SpecError
from provisioning.model import Fleet, Instance
from provisioning.plan import Plan
from provisioning.store.base import Change, Done, Store, Term, View

TRIES = 5
IN_PART = "part of it is written already, so look before you try again"


class StoreCommands:
    """See `ports.Commands`."""

    def __init__(
        self,
        store: Store,
        source: Source,
        clock: Clock,
        *,
        fleet: str,
        term: Callable[[], Term | None],
        leader: Callable[[], Awaitable[str | None]],
        written: Callable[[Sequence[Change], Sequence[Done]], None],
    ) -> None:
        """Keep what is needed.

        Args:
            store: Where to write.
            source: What is decided on first.
            clock: For the times in records.
            fleet: Its name, as its specification has to have it.
            term: Returns the term if this provisioner leads.
            leader: Returns who leads.
            written: Told of every commit, so that the source knows it without the watch.
        """
        self._store = store
        self._source = source
        self._clock = clock
        self._fleet = fleet
        self._term = term
        self._leader = leader
        self._written = written

    async def assign(self, id: str, developer: str) -> Instance:  # noqa: A002
        """Give an instance to a developer, who gives back another one of the pool."""
        return await self._write(lambda view: assigned(view, id, developer))

    async def release(self, id: str) -> Instance:  # noqa: A002
        """Take an instance from its developer, who is no longer listed in the pool."""
        return await self._write(lambda view: released(view, id))

    async def drain(self, id: str) -> Instance:  # noqa: A002
        """Let an instance end what it has begun, now; then it starts afresh."""
        return await self._write(lambda view: drained(view, id, now_s=self._clock.unix_s()))

    async def replace(self, id: str) -> Instance:  # noqa: A002
        """Replace an instance by a fresh one as soon as the fleet's limits allow it."""
        return await self._write(lambda view: to_be_replaced(view, id))

    async def scale(self, pool: str, count: int, expected: int | None) -> Plan:
        """Change how many instances a pool has."""
        return await self._write(lambda view: scaled(view, pool, count, expected))

    async def put_spec(self, fleet: Fleet, expected: int | None) -> Plan:
        """Put a checked specification in force; return what changes."""
        check_name(fleet, self._fleet)
        return await self._write(lambda view: specified(view, fleet, expected))

    async def _write(self, decide: Callable[[View], Step[AnswerT]]) -> AnswerT:
        """Decide on the view at hand; where that is outdated, load and decide again."""
        term = self._term()
        if term is None:
            raise NotLeadingError(await self._leader())
        view = self._source.view or await self._store.load()
        has_written = False
        for _ in range(TRIES):
            step = _decided(decide, view, has_written=has_written)
            if not step.changes:
                return step.answer
            done = await self._committed(step.changes, term, has_written=has_written)
            if not any(one.refusal for one in done):
                return step.answer
            has_written = has_written or not all(one.refusal for one in done)
            view = await self._store.load()
        done_in_part = f"; {IN_PART}" if has_written else ""
        raise RefusedError(
            f"it was changed by others {TRIES} times in between; try again{done_in_part}"
        )

    async def _committed(
        self, changes: Sequence[Change], term: Term, *, has_written: bool
    ) -> Sequence[Done]:
        try:
            done = await self._store.commit(changes, term=term)
        except FencedError as error:
            if has_written:
                raise HalfDoneError from error
            raise NotLeadingError(await self._leader()) from error
        self._written(changes, done)
        return done


def _decided(
    decide: Callable[[View], Step[AnswerT]], view: View, *, has_written: bool
) -> Step[AnswerT]:
    """Return what is to be written; what is refused in the midst of it says so."""
    try:
        return decide(view)
    except (ApiError, SpecError) as error:
        if not has_written:
            raise
        raise RefusedError(f"{error}; {IN_PART}") from error
