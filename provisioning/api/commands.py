"""Change the fleet as asked: each change once, against the version that it was meant for."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from ollama_fleet.tables import count_text
from provisioning.actions import Drain
from provisioning.api.routes import OrphanDocument
from provisioning.cache import Cache
from provisioning.controller import ReconcileLoop
from provisioning.errors import (
    ApiError,
    ConflictError,
    FencedError,
    HalfDoneError,
    NotFoundError,
    NotLeadingError,
    OutdatedError,
    SpecError,
)
from provisioning.lifecycle import begin
from provisioning.model import (
    FOR_GOOD,
    TERMINATING,
    Fleet,
    Instance,
    NodeReport,
    Phase,
    Pool,
    Reason,
)
from provisioning.plan import Plan, in_use_text, plan_of
from provisioning.spec.document import checked_fleet, decode_fleet, encode_fleet
from provisioning.state import LIST_COMMAND, Orphan, count_by_node
from provisioning.store.base import (
    NEW,
    Change,
    ChangeResult,
    Put,
    PutSpec,
    Store,
    StoredInstance,
    Term,
    View,
)

log = logging.getLogger("provisioning.api.commands")

ANY = -1
"""As the version that is expected: whichever is in force, as long as one is."""
TRIES = 5
IN_PART = "part of it is written already: check before you try again"

AnswerT = TypeVar("AnswerT", Instance, Plan)


class Mutation(NamedTuple, Generic[AnswerT]):
    """What has to be written for a command, and what it answers."""

    changes: Sequence[Change]
    answer: AnswerT


def assign(view: View, id_: str, developer: str) -> Mutation[Instance]:
    """Give an instance to a developer, who gives back another one of the pool."""
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
    # With others still theirs, the next reconcile would leave them only the one it likes best.
    if instance.developer == developer and is_listed and not others:
        return Mutation((), instance)
    if instance.developer not in ("", developer):
        raise ConflictError(f"{id_} is {instance.developer}'s; release it first")
    if instance.reason in FOR_GOOD:
        raise ConflictError(f"{id_} is on its way out ({instance.reason}); choose another one")
    changes: list[Change] = []
    if not is_listed:
        listed = pool.replace(developers=(*pool.developers, developer))
        changes.append(_put_pool(view, fleet, listed))
    changes += [_put(other, developer="") for other in others]
    put = _put(target, developer=developer)
    return Mutation((*changes, put), put.instance)


def release(view: View, id_: str) -> Mutation[Instance]:
    """Take an instance from its developer, whom the pool then lists no more."""
    target = _stored(view, id_)
    developer = target.instance.developer
    if not developer:
        return Mutation((), target.instance)
    put = _put(target, developer="")
    fleet = _fleet(view)
    pool = next((pool for pool in fleet.pools if pool.name == target.instance.pool), None)
    if pool is None or developer not in pool.developers:
        return Mutation((put,), put.instance)
    others = tuple(name for name in pool.developers if name != developer)
    unlisted = pool.replace(developers=others)
    return Mutation((_put_pool(view, fleet, unlisted), put), put.instance)


def drain(view: View, id_: str, *, now_s: float) -> Mutation[Instance]:
    """Let a running instance end what it has begun; then it is replaced."""
    target = _stored(view, id_)
    instance = target.instance
    if instance.phase in TERMINATING:
        return Mutation((), instance)
    if instance.phase is not Phase.RUNNING:
        raise ConflictError(f"{id_} is {instance.phase}: only a running instance can be drained")
    draining = begin(Drain(id_, Reason.DRAINED), instance, now_s=now_s) or instance
    return Mutation((Put(draining, target.version),), draining)


def replace(view: View, id_: str) -> Mutation[Instance]:
    """Have an instance replaced as soon as the fleet's limits allow it."""
    target = _stored(view, id_)
    if target.instance.is_replace_asked or target.instance.phase in TERMINATING:
        return Mutation((), target.instance)
    put = _put(target, is_replace_asked=True)
    return Mutation((put,), put.instance)


def scale(view: View, name: str, count: int, expected: int | None) -> Mutation[Plan]:
    """Change how many instances a pool has, in the version that is expected."""
    fleet = _fleet(view)
    pool = next((pool for pool in fleet.pools if pool.name == name), None)
    if pool is None:
        raise NotFoundError(f"there is no pool {name!r}; see the active specification")
    changed = _with_pool(fleet, pool.replace(count=count))
    return put_spec(view, checked_fleet(encode_fleet(changed)), expected)


def put_spec(view: View, fleet: Fleet, expected: int | None) -> Mutation[Plan]:
    """Put a checked specification in force in place of the version that is expected."""
    version = view.spec.version if view.spec else NEW
    _check_version(version, expected)
    plan = plan_for(view, fleet)
    if plan.renamed_from:
        raise ConflictError(
            f"the fleet's name is {plan.renamed_from} and cannot become {fleet.name}: containers "
            "carry it; give the new fleet a provisioner of its own, with another --fleet and "
            "--store.url"
        )
    if plan.nodes_in_use:
        raise ConflictError(in_use_text(plan.nodes_in_use))
    text = encode_fleet(fleet)
    if view.spec is not None and view.spec.text == text:
        return Mutation((), plan)
    return Mutation((PutSpec(text, version),), plan)


def check_name(fleet: Fleet, name: str) -> None:
    """Refuse a specification of another fleet: its containers would carry an unknown name.

    Raises:
        ConflictError: It has another name.
    """
    if fleet.name != name:
        raise ConflictError(
            f"this provisioner keeps fleet {name}, and the specification is of fleet {fleet.name}; "
            f"correct its name, or send it to a provisioner that runs with --fleet {fleet.name}"
        )


def _check_version(version: int, expected: int | None) -> None:
    if expected == ANY:
        if version == NEW:
            raise OutdatedError("there is no active specification yet, but If-Match names one")
    elif expected not in (None, version):
        seen = f"version {version} of the specification is active, not {expected}"
        raise OutdatedError(f"{seen}; look at that one, then send yours again")


def plan_for(view: View, fleet: Fleet) -> Plan:
    """Return what a specification would change of a fleet as it is stored."""
    try:
        before = decode_fleet(view.spec.text) if view.spec else None
    except SpecError:
        before = None  # whatever it was, it is replaced as a whole
    instances = (stored.instance for stored in view.stored.values())
    version = view.spec.version if view.spec else NEW
    return plan_of(before, fleet, instances, base_version=version)


def _stored(view: View, id_: str) -> StoredInstance:
    stored = view.stored.get(id_)
    if stored is None:
        raise NotFoundError(f"there is no instance {id_!r}; list them all to see")
    return stored


def _fleet(view: View) -> Fleet:
    if view.spec is None:
        raise ConflictError("there is no specification yet; apply one first")
    return decode_fleet(view.spec.text)


def _pool(fleet: Fleet, name: str) -> Pool:
    for pool in fleet.pools:
        if pool.name == name:
            return pool
    raise ConflictError(f"the specification has no pool {name} any more")


def _with_pool(fleet: Fleet, changed: Pool) -> Fleet:
    pools = tuple(changed if pool.name == changed.name else pool for pool in fleet.pools)
    return fleet.replace(pools=pools)


def _put_pool(view: View, fleet: Fleet, changed: Pool) -> PutSpec:
    text = encode_fleet(_with_pool(fleet, changed))
    checked_fleet(text)
    return PutSpec(text, view.spec.version if view.spec else NEW)


def _put(
    stored: StoredInstance, *, developer: str | None = None, is_replace_asked: bool = False
) -> Put:
    instance = stored.instance
    changed = msgspec.structs.replace(
        instance,
        developer=instance.developer if developer is None else developer,
        is_replace_asked=instance.is_replace_asked or is_replace_asked,
    )
    return Put(changed, stored.version)


class Commands:
    """What a person may ask of the leader; each command may be repeated, it is done once.

    Every method may raise NotLeadingError, with which nothing was written; those that write
    HalfDoneError, ConflictError and StoreUnavailableError as well.
    """

    def __init__(
        self,
        store: Store,
        cache: Cache,
        loop: ReconcileLoop,
        *,
        leader: Callable[[], Awaitable[str | None]],
        fleet: str,
    ) -> None:
        """Decide on the cache's view, write to the store as the term of the loop allows."""
        self._store = store
        self._cache = cache
        self._loop = loop
        self._leader = leader
        self._fleet = fleet

    async def write(self, decide: Callable[[View], Mutation[AnswerT]]) -> AnswerT:
        """Write a mutation of the view at hand; where that is outdated, load and decide again."""
        term = await self._required_term("it changes nothing")
        view = self._cache.view or await self._store.load()
        has_written = False
        for _ in range(TRIES):
            mutation = _decided(decide, view, has_written=has_written)
            if not mutation.changes:
                return mutation.answer
            results = await self._committed(mutation.changes, term, has_written=has_written)
            if not any(one.refusal for one in results):
                return mutation.answer
            has_written = has_written or not all(one.refusal for one in results)
            view = await self._store.load()
        done_in_part = f"; {IN_PART}" if has_written else ""
        raise ConflictError(
            f"it was changed by others {TRIES} times in between; try again{done_in_part}"
        )

    async def put_spec(self, fleet: Fleet, expected: int | None) -> Plan:
        """Put a checked specification in force; return what changes.

        `expected` is the version that must be in force: 0 for none, or ANY; None: whichever is.

        Raises:
            OutdatedError: Another version is in force.
        """
        check_name(fleet, self._fleet)
        return await self.write(lambda view: put_spec(view, fleet, expected))

    async def node_reports(self) -> Mapping[str, NodeReport]:
        """Return the last report of each node."""
        await self._required_term("it knows nothing of nodes")
        return self._loop.reports

    async def orphans(self) -> list[OrphanDocument]:
        """Return every orphan that is known, by node and name."""
        return _documents(await self._orphans())

    async def delete_orphans(self, count: int) -> list[OrphanDocument]:
        """Have all orphans deleted, if there are as many as the caller has seen."""
        seen = await self._orphans()
        if len(seen) != count:
            raise ConflictError(
                f"delete {count_text(count, 'orphan')}: there are {len(seen):,} now, and none was "
                f"deleted; look at them again: `{LIST_COMMAND}`"
            )
        by_node = ",".join(f"{node}:{n}" for node, n in count_by_node(seen).items())
        log.warning("deleting orphans as requested count=%d by_node=%s", count, by_node)
        self._loop.delete_orphans()
        return _documents(seen)

    async def _orphans(self) -> Sequence[Orphan]:
        await self._required_term("it knows nothing of orphans")
        seen = self._loop.orphans
        if seen is None:
            raise ConflictError(
                "orphans are not known before each node of the specification was asked: apply a "
                "specification where there is none, else try again in ten seconds"
            )
        return seen

    async def _required_term(self, so: str) -> Term:
        term = self._loop.term
        if term is None:
            raise NotLeadingError(await self._leader(), so=so)
        return term

    async def _committed(
        self, changes: Sequence[Change], term: Term, *, has_written: bool
    ) -> Sequence[ChangeResult]:
        try:
            results = await self._store.commit(changes, term=term)
        except FencedError as error:
            if has_written:
                raise HalfDoneError from error
            raise NotLeadingError(await self._leader()) from error
        self._cache.apply_local_write(changes, results)
        self._loop.wake()
        return results


def _decided(
    decide: Callable[[View], Mutation[AnswerT]], view: View, *, has_written: bool
) -> Mutation[AnswerT]:
    """Return the mutation; one that is refused after part was written says so."""
    try:
        return decide(view)
    except (ApiError, SpecError) as error:
        if not has_written:
            raise
        raise ConflictError(f"{error}; {IN_PART}") from error


def _documents(orphans: Sequence[Orphan]) -> list[OrphanDocument]:
    return [
        OrphanDocument(
            node=node,
            name=container.name,
            instance_id=container.instance_id,
            generation=container.generation,
            state=container.state,
        )
        for node, container in sorted(orphans, key=lambda one: one.key)
    ]
