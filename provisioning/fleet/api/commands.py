"""Carry out what a person asks for, by writing it into the store.

In:   a Store, the view at hand, the term if this provisioner leads.
Out:  records and specifications that the next pass acts on.
Fails with NotLeadingError, UnknownError, RefusedError, OutdatedError, SpecError, and
StoreUnavailableError. A write that meets another one is made again on what it wrote.

The specification says which developers a pool has, so giving an instance to one, or taking it,
changes the specification as well: otherwise the next pass would undo it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from provisioning.fleet.actions import Drain
from provisioning.fleet.api.errors import (
    NotLeadingError,
    OutdatedError,
    RefusedError,
    UnknownError,
)
from provisioning.fleet.api.ports import Source
from provisioning.fleet.clock import Clock
from provisioning.fleet.errors import FencedError, SpecError
from provisioning.fleet.fleet import Fleet, Pool
from provisioning.fleet.lifecycle import begin
from provisioning.fleet.model import FOR_GOOD, Instance, Phase, Reason
from provisioning.fleet.plan import Plan, plan_of
from provisioning.fleet.plan_text import in_use_text
from provisioning.fleet.spec import checked_fleet, decode_fleet, encode_fleet
from provisioning.fleet.store.base import NEW, Change, Done, Put, PutSpec, Store, Stored, Term, View

TRIES = 5
LEAVING = frozenset({Phase.DRAINING, Phase.STOPPING})


AnswerT = TypeVar("AnswerT", Instance, Plan)


class _Step(NamedTuple, Generic[AnswerT]):
    """What has to be written for a command, and what it answers."""

    changes: Sequence[Change]
    answer: AnswerT


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
        return await self._write(lambda view: _assigned(view, id, developer))

    async def release(self, id: str) -> Instance:  # noqa: A002
        """Take an instance from its developer, who is no longer listed in the pool."""
        return await self._write(lambda view: _released(view, id))

    async def drain(self, id: str) -> Instance:  # noqa: A002
        """Let an instance end what it has begun, now; then it starts afresh."""
        return await self._write(lambda view: _drained(view, id, now_s=self._clock.unix_s()))

    async def replace(self, id: str) -> Instance:  # noqa: A002
        """Replace an instance by a fresh one as soon as the fleet's limits allow it."""
        return await self._write(lambda view: _to_be_replaced(view, id))

    async def scale(self, pool: str, count: int) -> Plan:
        """Change how many instances a pool has."""
        return await self._write(lambda view: _scaled(view, pool, count))

    async def put_spec(self, fleet: Fleet, expected: int | None) -> Plan:
        """Put a checked specification in force; return what changes."""
        check_name(fleet, self._fleet)
        return await self._write(lambda view: _specified(view, fleet, expected))

    async def _write(self, decide: Callable[[View], _Step[AnswerT]]) -> AnswerT:
        """Decide on the view at hand; where that is outdated, load and decide again."""
        term = self._term()
        if term is None:
            raise NotLeadingError(await self._leader())
        view = self._source.view or await self._store.load()
        for _ in range(TRIES):
            step = decide(view)
            if not step.changes or await self._is_committed(step.changes, term):
                return step.answer
            view = await self._store.load()
        raise RefusedError(f"it was changed by others {TRIES} times in between; try again")

    async def _is_committed(self, changes: Sequence[Change], term: Term) -> bool:
        try:
            done = await self._store.commit(changes, term=term)
        except FencedError as error:
            raise NotLeadingError(await self._leader()) from error
        self._written(changes, done)
        return not any(one.refusal for one in done)


def _assigned(view: View, id_: str, developer: str) -> _Step[Instance]:
    target = _stored(view, id_)
    instance = target.instance
    fleet = _fleet(view)
    pool = _pool(fleet, instance.pool)
    is_listed = developer in pool.developers
    if instance.developer == developer and is_listed:
        return _Step((), instance)
    if instance.developer not in ("", developer):
        raise RefusedError(f"{id_} is {instance.developer}'s; release it first")
    if instance.reason in FOR_GOOD:
        raise RefusedError(f"{id_} is on its way out ({instance.reason}); choose another one")
    changes: list[Change] = []
    if not is_listed:
        listed = msgspec.structs.replace(pool, developers=(*pool.developers, developer))
        changes.append(_put_pool(view, fleet, listed))
    changes += [
        _put(other, developer="")
        for other in view.stored.values()
        if other.instance.pool == pool.name
        and other.instance.developer == developer
        and other.instance.id != id_
    ]
    put = _put(target, developer=developer)
    return _Step((*changes, put), put.instance)


def _released(view: View, id_: str) -> _Step[Instance]:
    target = _stored(view, id_)
    developer = target.instance.developer
    if not developer:
        return _Step((), target.instance)
    put = _put(target, developer="")
    fleet = _fleet(view)
    pool = next((pool for pool in fleet.pools if pool.name == target.instance.pool), None)
    if pool is None or developer not in pool.developers:
        return _Step((put,), put.instance)
    others = tuple(name for name in pool.developers if name != developer)
    unlisted = msgspec.structs.replace(pool, developers=others)
    return _Step((_put_pool(view, fleet, unlisted), put), put.instance)


def _drained(view: View, id_: str, *, now_s: float) -> _Step[Instance]:
    target = _stored(view, id_)
    instance = target.instance
    if instance.phase in LEAVING:
        return _Step((), instance)
    if instance.phase is not Phase.RUNNING:
        raise RefusedError(f"{id_} is {instance.phase}: only a running instance can be drained")
    drained = begin(Drain(id_, Reason.DRAINED), instance, now_s=now_s) or instance
    return _Step((Put(drained, target.version),), drained)


def _to_be_replaced(view: View, id_: str) -> _Step[Instance]:
    target = _stored(view, id_)
    if target.instance.is_replace_asked or target.instance.phase in LEAVING:
        return _Step((), target.instance)
    put = _put(target, is_replace_asked=True)
    return _Step((put,), put.instance)


def _scaled(view: View, name: str, count: int) -> _Step[Plan]:
    fleet = _fleet(view)
    pool = next((pool for pool in fleet.pools if pool.name == name), None)
    if pool is None:
        raise UnknownError(f"there is no pool {name!r}; see the specification in force")
    changed = _with_pool(fleet, msgspec.structs.replace(pool, count=count))
    return _specified(view, checked_fleet(encode_fleet(changed)), None)


def _specified(view: View, fleet: Fleet, expected: int | None) -> _Step[Plan]:
    version = view.spec.version if view.spec else NEW
    if expected not in (None, version):
        seen = f"version {version} of the specification is in force, not {expected}"
        raise OutdatedError(f"{seen}; look at that one, then send yours again")
    plan = plan_for(view, fleet)
    if plan.renamed_from:
        raise RefusedError(
            f"the fleet's name is {plan.renamed_from} and cannot become {fleet.name}: units carry "
            "it; give the new fleet a provisioner of its own, with another --fleet and --store.url"
        )
    if plan.nodes_in_use:
        raise RefusedError(in_use_text(plan.nodes_in_use))
    text = encode_fleet(fleet)
    if view.spec is not None and view.spec.text == text:
        return _Step((), plan)
    return _Step((PutSpec(text, version),), plan)


def check_name(fleet: Fleet, name: str) -> None:
    """Refuse a specification of another fleet: its units would carry a name that we do not know.

    Raises:
        RefusedError: It has another name.
    """
    if fleet.name != name:
        raise RefusedError(
            f"this provisioner keeps fleet {name}, and the specification is of fleet {fleet.name}; "
            f"mend its name, or send it to a provisioner that runs with --fleet {fleet.name}"
        )


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
