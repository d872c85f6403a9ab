"""The difference of two specifications, as data and in words."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

import msgspec

from ollama_fleet.tables import count_text, table
from provisioning.model import FOR_GOOD, Fleet, Instance, Node, Phase, Pool, RuntimeKind
from provisioning.spec.document import document_of
from provisioning.spec.schema import Section

HIDDEN = "…"
UNSHOWN = ("command", "environment.", "warm_up")
"""How settings begin that may hold secrets."""


class FieldChange(msgspec.Struct, frozen=True):
    """A setting with another value; an empty text where there is none."""

    name: str
    before: str
    after: str


def differences(before: Section, after: Section) -> tuple[FieldChange, ...]:
    """Return the settings that differ, sorted by name, as the specification has them."""
    if before == after:
        return ()
    old = dict(_flat("", document_of(before)))
    new = dict(_flat("", document_of(after)))
    return tuple(
        _shown(name, old.get(name, ""), new.get(name, ""))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )


def _shown(name: str, before: str, after: str) -> FieldChange:
    if name.startswith(UNSHOWN):
        return FieldChange(name, before and HIDDEN, after and HIDDEN)
    return FieldChange(name, before, after)


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield each setting with its dotted name and its value as text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, inner)
    elif value is not None:
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        yield prefix, text or '""'


class Holding:
    """What one node holds."""

    def __init__(self) -> None:
        self.n_instances = 0
        self.addresses: set[str] = set()
        """Where they listen, as far as it is known."""


class Holdings:
    """What the nodes of a fleet hold, those included that are listed no more."""

    def __init__(self, instances: Iterable[Instance]) -> None:
        self._by_node: defaultdict[str, Holding] = defaultdict(Holding)
        for one in instances:
            if one.phase is Phase.FAILED:  # that has no container
                continue
            holding = self._by_node[one.node]
            holding.n_instances += 1
            if one.listing.address:
                holding.addresses.add(one.listing.address)

    def count(self, node: str) -> int:
        """Return how many instances a node holds."""
        return self._by_node[node].n_instances if node in self._by_node else 0

    def is_moved(self, before: Node | None, after: Node) -> bool:
        """Say whether a node that holds instances would be another machine, as far as is seen."""
        if after.name not in self._by_node:
            return False
        if before is None:
            return bool(self.left_at(before, after))
        return is_reached_otherwise(before, after)

    def left_at(self, before: Node | None, after: Node) -> tuple[str, ...]:
        """Return where instances of a node that is listed again listen, if it is nowhere there.

        Of one that was dropped before only that is known, and of containerd alone it tells
        machines apart: process nodes are this one, and simulated ones none.
        """
        if before is not None or after.runtime is not RuntimeKind.CONTAINERD:
            return ()
        holding = self._by_node.get(after.name)
        if holding is None or after.address in holding.addresses:
            return ()
        return tuple(sorted(holding.addresses))

    def renamed_from(
        self, before: Node | None, after: Node, *, old: Mapping[str, Node], kept: Iterable[str]
    ) -> str:
        """Return a node that is left out, and holds instances in what is this one's containerd now.

        Its containers would be seen under the new name, where no record wants them, and be removed.
        Other runtimes keep the containers of each name apart.
        """
        is_new = before is None or is_reached_otherwise(before, after)
        if after.runtime is not RuntimeKind.CONTAINERD or not is_new:
            return ""
        left_out = sorted(self._by_node.keys() - set(kept))
        return next((name for name in left_out if self._is_same(name, old.get(name), after)), "")

    def _is_same(self, name: str, former: Node | None, after: Node) -> bool:
        if former is not None:
            return not is_reached_otherwise(former, after)
        return after.address in self._by_node[name].addresses


def has_less_room(before: Node, after: Node) -> bool:
    """Say whether a node may take fewer instances than before, or has fewer ports for them."""
    return (
        after.cpus < before.cpus
        or after.memory_bytes < before.memory_bytes
        or 0 < after.max_instances < (before.max_instances or math.inf)
        or after.first_port > before.first_port
        or after.last_port < before.last_port
    )


def is_reached_otherwise(before: Node, after: Node) -> bool:
    """Say whether what runs on a node is asked for elsewhere from now on."""
    return (before.runtime, before.endpoint) != (after.runtime, after.endpoint)


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
    """The fleet's name in force where it differs: containers carry it, so it cannot be changed."""

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
    old = before or Fleet(name=after.name, nodes=(), pools=(), limits=after.limits)
    usable = {node.name for node in after.nodes if not node.is_cordoned}
    # Against what cannot be read nothing can be said of machines, and nothing is refused.
    holdings = Holdings(stored if before else ())
    return Plan(
        fleet=after.name,
        base_version=base_version,
        pools=tuple(_pool_plan(*pair, by_pool, usable) for pair in _pairs(old.pools, after.pools)),
        nodes=tuple(_node_plans(old.nodes, after.nodes, holdings)),
        limits=differences(old.limits, after.limits),
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
    digest = after.workload.digest if after else ""
    causes = Counter(_cause(instance, digest, usable_nodes) for instance in instances)
    # Those that are too many are taken to be among those that would have to be renewed anyway.
    n_moved = max(0, causes["moved"] - n_removed)
    n_replaced = max(0, causes["replaced"] - max(0, n_removed - causes["moved"]))
    changes = differences(before, after) if before and after else ()
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
        changes = differences(was, becomes) if was and becomes else ()
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


MAX_SHOWN_CHARACTERS = 60
MAX_SHOWN_NODES = 8
HEAD = ("POOL", "", "INSTANCES", "CREATE", "REMOVE", "REPLACE", "MOVE")


def plan_text(plan: Plan) -> str:
    """Return the plan as lines, without a line end after the last."""
    if plan.is_empty:
        return f"fleet {plan.fleet}: nothing to change"
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    if plan.renamed_from:
        refusal = f"fleet {plan.renamed_from} cannot be renamed to {plan.fleet}"
        yield f"{refusal}: its containers carry the name"
    if plan.nodes_in_use:
        yield in_use_text(plan.nodes_in_use)
    yield table(HEAD, map(_row, plan.pools))
    for pool in plan.pools:
        yield from _differences(f"pool {pool.name}", pool.changes)
        if pool.n_without:
            yield _without_text(pool)
    for verb in (Verb.ADDED, Verb.REMOVED):
        names = [_name(node) for node in plan.nodes if node.verb is verb]
        if names:
            yield f"nodes {verb}: {_listed(names)}"
    for node in _changed(plan.nodes):
        yield from _differences(f"node {node.name}", node.changes)
        if node.is_tightened:
            yield "  only for what is placed there anew: what it holds stays, be it more than that"
    yield from _differences("limits", plan.limits)


def in_use_text(nodes: Sequence[NodePlan]) -> str:
    """Say why nodes cannot be changed so yet, and what helps."""
    dropped = [node for node in nodes if node.is_in_use]
    moved = [node for node in nodes if node.is_moved and not node.left_at]
    listed_again = [node for node in nodes if node.left_at]
    renamed = [node for node in nodes if node.renamed_from]
    return "\n".join(
        text(those)
        for text, those in (
            (_dropped_text, dropped),
            (_moved_text, moved),
            (_listed_again_text, listed_again),
            (_renamed_text, renamed),
        )
        if those
    )


def _dropped_text(nodes: Sequence[NodePlan]) -> str:
    n_held = sum(node.n_held for node in nodes)
    return (
        f"cannot drop nodes that hold instances and are not cordoned: {_listed(map(_name, nodes))};"
        f" a provisioner that takes over could not reach {_instances(n_held)} there. "
        "List each of them with cordoned: true, apply that, and drop it "
        f"{_once_empty([node.name for node in nodes])}"
    )


def _moved_text(nodes: Sequence[NodePlan]) -> str:
    return (
        "cannot have another runtime or endpoint for nodes that hold instances: "
        f"{_listed(map(_name, nodes))}; those would be made anew at once, and their containers "
        "run on "
        "unseen. List each of them as it was, with cordoned: true, apply that, and change it "
        f"{_once_empty([node.name for node in nodes])}; where it does not answer any more, do as "
        "the README says under 'What it does, and what it never does'"
    )


def _listed_again_text(nodes: Sequence[NodePlan]) -> str:
    places = _listed(
        f"{node.name} (holds {_instances(node.n_held)} at {' and '.join(node.left_at)})"
        for node in nodes
    )
    return (
        "cannot tell whether nodes that are listed again are the machines that hold their "
        f"instances: {places}; on another one those would be made anew at once, and their "
        "containers "
        "run on unseen. Where it is the same machine, list it with an address that they listen "
        "at, apply that, and change the address afterwards; list another one by another name"
    )


def _renamed_text(nodes: Sequence[NodePlan]) -> str:
    pairs = _listed(f"{node.renamed_from} as {node.name}" for node in nodes)
    return (
        f"cannot list a machine by another name while it holds instances: {pairs}; they would all "
        "be ended at once. List each of them by the name that it had, with cordoned: true, apply "
        f"that, and rename it {_once_empty([node.renamed_from for node in nodes])}"
    )


def _once_empty(names: Sequence[str]) -> str:
    name = names[0] if len(names) == 1 else "NODE"
    return f"once 'ollama-fleet instances list --node={name}' shows none but failed ones"


def _without_text(pool: PoolPlan) -> str:
    have = "has" if pool.n_without == 1 else "have"
    whose = f"{count_text(pool.n_without, 'developer')} {have}"
    return f"pool {pool.name}: {whose} no instance while its count is 0"


def _name(node: NodePlan) -> str:
    return f"{node.name} (holds {_instances(node.n_held)})" if node.n_held else node.name


def _instances(n: int) -> str:
    return count_text(n, "instance")


def _row(pool: PoolPlan) -> tuple[str, ...]:
    instances = f"{pool.n_before:,}"
    if pool.n_after != pool.n_before:
        instances += f" → {pool.n_after:,}"
    counts = (pool.n_created, pool.n_removed, pool.n_replaced, pool.n_moved)
    return (pool.name, pool.verb, instances, *(f"{count:,}" if count else "-" for count in counts))


def _changed(nodes: Sequence[NodePlan]) -> list[NodePlan]:
    return [node for node in nodes if node.verb is Verb.CHANGED]


def _differences(what: str, changes: Sequence[FieldChange]) -> Iterator[str]:
    if changes:
        yield f"{what}:"
    for change in changes:
        yield f"  {change.name}: {_short(change.before)} → {_short(change.after)}"


def _short(text: str) -> str:
    shown = text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"
    return shown or "-"


def _listed(given: Iterable[str]) -> str:
    names = tuple(given)
    n_more = len(names) - MAX_SHOWN_NODES
    rest = f" and {n_more:,} more" if n_more > 0 else ""
    return ", ".join(names[:MAX_SHOWN_NODES]) + rest
