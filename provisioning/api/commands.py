"""Change the fleet as asked: each change once, against the version that it was meant for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from ollama_fleet.clock import Clock
from provisioning.actions import Drain
from provisioning.api.errors import (
    ApiError,
    HalfDoneError,
    NotLeadingError,
    OutdatedError,
    RefusedError,
    UnknownError,
)
from provisioning.api.routes import OrphanDocument
from provisioning.errors import FencedError, SpecError
from provisioning.lifecycle import begin
from provisioning.model import FOR_GOOD, Fleet, Instance, NodeReport, Phase, Pool, Reason
from provisioning.plan import Plan, in_use_text, plan_of
from provisioning.spec import checked_fleet, decode_fleet, encode_fleet
from provisioning.store.base import NEW, Change, Done, Put, PutSpec, Store, Stored, Term, View

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


LEAVING = frozenset({Phase.DRAINING, Phase.STOPPING})

AnswerT = TypeVar("AnswerT", Instance, Plan)


class Step(NamedTuple, Generic[AnswerT]):
    """What has to be written for a command, and what it answers."""

    changes: Sequence[Change]
    answer: AnswerT


def assigned(view: View, id_: str, developer: str) -> Step[Instance]:
    """Give an instance to a developer; see `ports.Commands`, as for all of these."""
    target = _stored(view, id_)
    instance = target.instance
    fleet = _fleet(view)
    pool = _pool(fleet, instance.pool)
    is_listed = developer in pool.developers
    others = [
        other
        for other in view.stored.values()
        if other.instance.pool == pool.name
        and other.instance.developer == developer
        and other.instance.id != id_
    ]
    # With others still theirs, the next pass would leave them only the one that it likes best.
    if instance.developer == developer and is_listed and not others:
        return Step((), instance)
    if instance.developer not in ("", developer):
        raise RefusedError(f"{id_} is {instance.developer}'s; release it first")
    if instance.reason in FOR_GOOD:
        raise RefusedError(f"{id_} is on its way out ({instance.reason}); choose another one")
    changes: list[Change] = []
    if not is_listed:
        listed = msgspec.structs.replace(pool, developers=(*pool.developers, developer))
        changes.append(_put_pool(view, fleet, listed))
    changes += [_put(other, developer="") for other in others]
    put = _put(target, developer=developer)
    return Step((*changes, put), put.instance)


def released(view: View, id_: str) -> Step[Instance]:
    """Take an instance from its developer."""
    target = _stored(view, id_)
    developer = target.instance.developer
    if not developer:
        return Step((), target.instance)
    put = _put(target, developer="")
    fleet = _fleet(view)
    pool = next((pool for pool in fleet.pools if pool.name == target.instance.pool), None)
    if pool is None or developer not in pool.developers:
        return Step((put,), put.instance)
    others = tuple(name for name in pool.developers if name != developer)
    unlisted = msgspec.structs.replace(pool, developers=others)
    return Step((_put_pool(view, fleet, unlisted), put), put.instance)


def drained(view: View, id_: str, *, now_s: float) -> Step[Instance]:
    """Let a running instance end what it has begun."""
    target = _stored(view, id_)
    instance = target.instance
    if instance.phase in LEAVING:
        return Step((), instance)
    if instance.phase is not Phase.RUNNING:
        raise RefusedError(f"{id_} is {instance.phase}: only a running instance can be drained")
    draining = begin(Drain(id_, Reason.DRAINED), instance, now_s=now_s) or instance
    return Step((Put(draining, target.version),), draining)


def to_be_replaced(view: View, id_: str) -> Step[Instance]:
    """Ask for an instance to be replaced."""
    target = _stored(view, id_)
    if target.instance.is_replace_asked or target.instance.phase in LEAVING:
        return Step((), target.instance)
    put = _put(target, is_replace_asked=True)
    return Step((put,), put.instance)


def scaled(view: View, name: str, count: int, expected: int | None) -> Step[Plan]:
    """Change how many instances a pool has, in the version that is expected."""
    fleet = _fleet(view)
    pool = next((pool for pool in fleet.pools if pool.name == name), None)
    if pool is None:
        raise UnknownError(f"there is no pool {name!r}; see the specification in force")
    changed = _with_pool(fleet, msgspec.structs.replace(pool, count=count))
    return specified(view, checked_fleet(encode_fleet(changed)), expected)


def specified(view: View, fleet: Fleet, expected: int | None) -> Step[Plan]:
    """Put a specification in force in place of the version that is expected."""
    version = view.spec.version if view.spec else NEW
    _check_version(version, expected)
    plan = plan_for(view, fleet)
    if plan.renamed_from:
        raise RefusedError(
            f"the fleet's name is {plan.renamed_from} and cannot become {fleet.name}: containers "
            "carry "
            "it; give the new fleet a provisioner of its own, with another --fleet and --store.url"
        )
    if plan.nodes_in_use:
        raise RefusedError(in_use_text(plan.nodes_in_use))
    text = encode_fleet(fleet)
    if view.spec is not None and view.spec.text == text:
        return Step((), plan)
    return Step((PutSpec(text, version),), plan)


def check_name(fleet: Fleet, name: str) -> None:
    """Refuse a specification of another fleet: its containers would carry an unknown name.

    Raises:
        RefusedError: It has another name.
    """
    if fleet.name != name:
        raise RefusedError(
            f"this provisioner keeps fleet {name}, and the specification is of fleet {fleet.name}; "
            f"mend its name, or send it to a provisioner that runs with --fleet {fleet.name}"
        )


def _check_version(version: int, expected: int | None) -> None:
    if expected == ANY:
        if version == NEW:
            raise OutdatedError("there is no specification in force yet, and If-Match asks for one")
    elif expected not in (None, version):
        seen = f"version {version} of the specification is in force, not {expected}"
        raise OutdatedError(f"{seen}; look at that one, then send yours again")


def plan_for(view: View, fleet: Fleet) -> Plan:
    """Return what a specification would change of a fleet as it is stored."""
    try:
        before = decode_fleet(view.spec.text) if view.spec else None
    except SpecError:
        before = None  # another release wrote it: whatever it was, it is replaced as a whole
    instances = (stored.instance for stored in view.stored.values())
    version = view.spec.version if view.spec else NEW
    return plan_of(before, fleet, instances, base_version=version)


def _stored(view: View, id_: str) -> Stored:
    stored = view.stored.get(id_)
    if stored is None:
        raise UnknownError(f"there is no instance {id_!r}; list them all to see")
    return stored


def _fleet(view: View) -> Fleet:
    if view.spec is None:
        raise RefusedError("there is no specification yet; apply one first")
    return decode_fleet(view.spec.text)


def _pool(fleet: Fleet, name: str) -> Pool:
    for pool in fleet.pools:
        if pool.name == name:
            return pool
    raise RefusedError(f"the specification has no pool {name} any more")


def _with_pool(fleet: Fleet, changed: Pool) -> Fleet:
    pools = tuple(changed if pool.name == changed.name else pool for pool in fleet.pools)
    return msgspec.structs.replace(fleet, pools=pools)


def _put_pool(view: View, fleet: Fleet, changed: Pool) -> PutSpec:
    text = encode_fleet(_with_pool(fleet, changed))
    checked_fleet(text)
    return PutSpec(text, view.spec.version if view.spec else NEW)


def _put(stored: Stored, *, developer: str | None = None, is_replace_asked: bool = False) -> Put:
    instance = stored.instance
    changed = msgspec.structs.replace(
        instance,
        developer=instance.developer if developer is None else developer,
        is_replace_asked=instance.is_replace_asked or is_replace_asked,
    )
    return Put(changed, stored.version)


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
        """DeleteRecord old answers, and the oldest of too many; what is being worked on stays."""
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
