"""What a new specification would change, before anything is changed.

In:   the specification in force, if any, the new one, and the instances that the store holds.
Out:  a Plan: what is done to each pool and node, and which of their settings differ, by their names
and in their units in the file. Pure.
Numbers are a forecast: instances that fail or are rotated meanwhile are not foreseen. Of values of
environment variables, warm-up requests and command lines only that they differ is told: they may
hold secrets.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

import msgspec

from provisioning.differences import FieldChange, differences
from provisioning.holdings import Holdings, has_less_room
from provisioning.model import FOR_GOOD, Instance
from provisioning.spec.document import (
    limits_document,
    node_document,
    pool_document,
)
from provisioning.spec_model import Fleet, Node, Pool
from provisioning.units import workload_digest

NamedT = TypeVar("NamedT", bound=Node | Pool)


class Verb(StrEnum):
    """What happens to a pool or a node."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


class PoolPlan(msgspec.Struct, frozen=True):
    """What happens to a pool's instances; those that are made on their way out count as gone."""

    name: str
    verb: Verb
    n_before: int
    n_after: int
    n_created: int
    n_removed: int
    n_replaced: int
    """For another workload."""
    n_moved: int
    """Because their node is gone or cordoned."""
    changes: tuple[FieldChange, ...] = ()
    n_without: int = 0
    """Developers who are listed, and have no instance while the pool's count is 0."""


class NodePlan(msgspec.Struct, frozen=True):
    """What happens to a node; unchanged ones are left out of a plan."""

    name: str
    verb: Verb
    changes: tuple[FieldChange, ...] = ()
    n_held: int = 0
    """Of a node that is removed or moved: instances on it that have not moved away yet."""
    is_in_use: bool = False
    """It is removed, holds some, and is not cordoned: such a specification is refused."""
    is_moved: bool = False
    """It holds some, and would be reached otherwise: refused too."""
    left_at: tuple[str, ...] = ()
    """Where those listen, if it is moved because it was dropped, and is listed again elsewhere."""
    renamed_from: str = ""
    """A node that is left out, holds some, and whose containerd this one would have: likewise."""
    is_tightened: bool = False
    """It has less room than before; what it holds may be more than that, and stays."""

    @property
    def is_refused(self) -> bool:
        """Say whether what nodes hold is in the way."""
        return self.is_in_use or self.is_moved or bool(self.renamed_from)


class Plan(msgspec.Struct, frozen=True):
    """What a specification changes; pools and nodes are sorted by name."""

    fleet: str
    base_version: int
    """Of the specification that was compared with; 0: there was none."""
    pools: tuple[PoolPlan, ...] = ()
    nodes: tuple[NodePlan, ...] = ()
    limits: tuple[FieldChange, ...] = ()
    renamed_from: str = ""
    """The fleet's name in force where it differs: units carry it, so it cannot be changed."""

    @property
    def is_empty(self) -> bool:
        """Say whether nothing would be done."""
        is_still = all(
            pool.verb is Verb.UNCHANGED and not pool.n_created + pool.n_removed + _renewed(pool)
            for pool in self.pools
        )
        return is_still and not (self.nodes or self.limits or self.renamed_from)

    @property
    def nodes_in_use(self) -> tuple[NodePlan, ...]:
        """Return the nodes that cannot be changed so while they, or others, hold instances."""
        return tuple(node for node in self.nodes if node.is_refused)

    @property
    def is_ending_some(self) -> bool:
        """Say whether instances that are there would be removed, replaced or moved."""
        return any(pool.n_removed + _renewed(pool) for pool in self.pools)


def plan_of(
    before: Fleet | None, after: Fleet, instances: Iterable[Instance], *, base_version: int = 0
) -> Plan:
    """Return what becomes of the fleet when `after` is in force instead of `before`."""
    stored = tuple(instances)
    by_pool: defaultdict[str, list[Instance]] = defaultdict(list)
    for instance in stored:
        if instance.reason not in FOR_GOOD:
            by_pool[instance.pool].append(instance)
    old = before or Fleet(after.name, (), (), after.limits)
    usable = {node.name for node in after.nodes if not node.is_cordoned}
    # Against what cannot be read nothing can be said of machines, and nothing is refused.
    holdings = Holdings(stored if before else ())
    return Plan(
        fleet=after.name,
        base_version=base_version,
        pools=tuple(_pool_plan(*pair, by_pool, usable) for pair in _pairs(old.pools, after.pools)),
        nodes=tuple(_node_plans(old.nodes, after.nodes, holdings)),
        limits=differences(old.limits, after.limits, limits_document),
        renamed_from=old.name if old.name != after.name else "",
    )


def _pairs(
    before: Sequence[NamedT], after: Sequence[NamedT]
) -> list[tuple[str, NamedT | None, NamedT | None]]:
    """Return each name with what has it before and after, sorted by name."""
    old = {one.name: one for one in before}
    new = {one.name: one for one in after}
    return [(name, old.get(name), new.get(name)) for name in sorted({*old, *new})]


def _pool_plan(
    name: str,
    before: Pool | None,
    after: Pool | None,
    instances_by_pool: Mapping[str, Sequence[Instance]],
    usable_nodes: set[str],
) -> PoolPlan:
    instances = instances_by_pool.get(name, ())
    n_after = after.count if after else 0
    n_removed = max(0, len(instances) - n_after)
    digest = workload_digest(after.workload) if after else ""
    causes = Counter(_cause(instance, digest, usable_nodes) for instance in instances)
    # Those that are too many are taken to be among those that would have to be renewed anyway.
    n_moved = max(0, causes["moved"] - n_removed)
    n_replaced = max(0, causes["replaced"] - max(0, n_removed - causes["moved"]))
    changes = differences(before, after, pool_document) if before and after else ()
    return PoolPlan(
        name=name,
        verb=_verb(before, after, changes),
        n_before=len(instances),
        n_after=n_after,
        n_created=max(0, n_after - len(instances)),
        n_removed=n_removed,
        n_replaced=n_replaced,
        n_moved=n_moved,
        changes=changes,
        n_without=len(after.developers) if after and not after.count else 0,
    )


def _cause(instance: Instance, digest: str, usable_nodes: set[str]) -> str:
    """Return why an instance has to be renewed; empty where it has not."""
    if instance.node not in usable_nodes:
        return "moved"
    return "replaced" if instance.workload != digest else ""


def _renewed(pool: PoolPlan) -> int:
    return pool.n_replaced + pool.n_moved


def _node_plans(
    before: Sequence[Node], after: Sequence[Node], holdings: Holdings
) -> Iterator[NodePlan]:
    old = {node.name: node for node in before}
    kept = {node.name for node in after}
    for name, was, becomes in _pairs(before, after):
        changes = differences(was, becomes, node_document) if was and becomes else ()
        verb = _verb(was, becomes, changes)
        if verb is Verb.UNCHANGED:
            continue
        n_held = holdings.count(name)
        if becomes is None:
            is_in_use = n_held > 0 and was is not None and not was.is_cordoned
            yield NodePlan(name, verb, n_held=n_held, is_in_use=is_in_use)
            continue
        is_moved = holdings.is_moved(was, becomes)
        yield NodePlan(
            name,
            verb,
            changes,
            n_held=n_held if is_moved else 0,
            is_moved=is_moved,
            left_at=holdings.left_at(was, becomes),
            renamed_from=holdings.renamed_from(was, becomes, old=old, kept=kept),
            is_tightened=n_held > 0 and was is not None and has_less_room(was, becomes),
        )


def _verb(before: object, after: object, changes: Sequence[FieldChange]) -> Verb:
    if before is None:
        return Verb.ADDED
    if after is None:
        return Verb.REMOVED
    return Verb.CHANGED if changes else Verb.UNCHANGED
