"""What has to be written for what a person asks for.

In:   the view at hand, and what is asked for.
Out:  Steps: changes for one commit, and the answer once they are made. Pure.
Fails with UnknownError, RefusedError, OutdatedError, SpecError.

The specification says which developers a pool has, so giving an instance to one, or taking it,
changes the specification as well: otherwise the next pass would undo it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from provisioning.actions import Drain
from provisioning.api.errors import OutdatedError, RefusedError, UnknownError
from provisioning.api.ports import ANY
from provisioning.errors import SpecError
from provisioning.lifecycle import begin
from provisioning.model import FOR_GOOD, Fleet, Instance, Phase, Pool, Reason
from provisioning.plan import Plan, in_use_text, plan_of
from provisioning.spec import checked_fleet, decode_fleet, encode_fleet
from provisioning.store.base import NEW, Change, Put, PutSpec, Stored, View

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
            f"the fleet's name is {plan.renamed_from} and cannot become {fleet.name}: units carry "
            "it; give the new fleet a provisioner of its own, with another --fleet and --store.url"
        )
    if plan.nodes_in_use:
        raise RefusedError(in_use_text(plan.nodes_in_use))
    text = encode_fleet(fleet)
    if view.spec is not None and view.spec.text == text:
        return Step((), plan)
    return Step((PutSpec(text, version),), plan)


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
