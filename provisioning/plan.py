"""The difference of two specifications, as data and in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import takewhile
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


class NodeRefusal(StrEnum):
    """Why a node cannot be changed so while it holds instances, as messages begin."""

    DROPPED = "cannot drop nodes that hold instances and are not cordoned"
    MOVED = "cannot change runtime or endpoint of nodes that hold instances"
    LISTED_AGAIN = "cannot list dropped nodes again while they hold instances"
    RENAMED = "cannot list machines by another name while they hold instances"


class NodePlan(msgspec.Struct, frozen=True):
    """What happens to a node; unchanged ones are left out of a plan."""

    name: str
    verb: Verb
    changes: tuple[FieldChange, ...] = ()
    n_held: int = 0
    """Instances on a node that is removed or refused; those that failed have no container."""
    refusal: NodeRefusal | None = None
    renamed_from: str = ""
    """The dropped node with the same endpoint, if it is refused for that."""


class Plan(msgspec.Struct, frozen=True):
    """What a specification changes; pools and nodes are sorted by name."""

    fleet: str
    base_version: int
    """Of the specification that was compared with; 0: there was none."""
    pools: tuple[PoolPlan, ...] = ()
    nodes: tuple[NodePlan, ...] = ()
    limits: tuple[FieldChange, ...] = ()
    renamed_from: str = ""
    """The active name of the fleet where it differs: containers carry it, so it stays."""

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
        """Return the nodes that cannot be changed so while they hold instances."""
        return tuple(node for node in self.nodes if node.refusal)

    @property
    def is_ending_some(self) -> bool:
        """Say whether instances that are there would be removed, replaced or moved."""
        return any(pool.n_removed + _renewed(pool) for pool in self.pools)


def plan_of(
    before: Fleet | None, after: Fleet, instances: Iterable[Instance], *, base_version: int = 0
) -> Plan:
    """Return what becomes of the fleet when `after` replaces `before`."""
    stored = tuple(instances)
    by_pool: defaultdict[str, list[Instance]] = defaultdict(list)
    for instance in stored:
        if instance.reason not in FOR_GOOD:
            by_pool[instance.pool].append(instance)
    old = before or Fleet(name=after.name, nodes=(), pools=(), limits=after.limits)
    usable = {node.name for node in after.nodes if not node.is_cordoned}
    # Against a specification that cannot be read no change of a node can be judged.
    held = Counter(one.node for one in stored if before and one.phase is not Phase.FAILED)
    return Plan(
        fleet=after.name,
        base_version=base_version,
        pools=tuple(_pool_plan(*pair, by_pool, usable) for pair in _pairs(old.pools, after.pools)),
        nodes=tuple(_node_plans(old.nodes, after.nodes, held)),
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
    before: Sequence[Node], after: Sequence[Node], held: Mapping[str, int]
) -> Iterator[NodePlan]:
    kept = {node.name for node in after}
    left_at = {node.endpoint: node.name for node in before if node.name not in kept}
    for name, was, becomes in _pairs(before, after):
        changes = differences(was, becomes) if was and becomes else ()
        verb = _verb(was, becomes, changes)
        if verb is Verb.UNCHANGED:
            continue
        former = left_at.get(becomes.endpoint, "") if becomes and becomes.endpoint else ""
        if held.get(former) and becomes and becomes.runtime is RuntimeKind.CONTAINERD:
            # Its containers would have no record under the new name, and be removed at once.
            yield NodePlan(name, verb, changes, held[former], NodeRefusal.RENAMED, former)
            continue
        refusal = _refusal(was, becomes) if held.get(name) else None
        n_held = held.get(name, 0) if refusal or becomes is None else 0
        yield NodePlan(name, verb, changes, n_held, refusal)


def _refusal(before: Node | None, after: Node | None) -> NodeRefusal | None:
    """Return why a node that holds instances cannot be changed so, if it cannot."""
    if before is None:
        return NodeRefusal.LISTED_AGAIN
    if after is None:
        return None if before.is_cordoned else NodeRefusal.DROPPED
    return NodeRefusal.MOVED if is_reached_otherwise(before, after) else None


def _verb(before: object, after: object, changes: Sequence[FieldChange]) -> Verb:
    if before is None:
        return Verb.ADDED
    if after is None:
        return Verb.REMOVED
    return Verb.CHANGED if changes else Verb.UNCHANGED


MAX_SHOWN_CHARACTERS = 60
N_SHOWN_ALIKE = 10
"""Characters before the first that differs."""
MAX_SHOWN_NODES = 8
HEAD = ("POOL", "", "INSTANCES", "CREATE", "REMOVE", "REPLACE", "MOVE")


def plan_text(plan: Plan, *, has_refusals: bool = True) -> str:
    """Return the plan as lines, without a line end after the last."""
    if plan.is_empty:
        return f"fleet {plan.fleet}: nothing to change"
    refused = [in_use_text(plan.nodes_in_use)] if has_refusals and plan.nodes_in_use else []
    return "\n".join((*_renaming(plan), *refused, *_lines(plan)))


def _renaming(plan: Plan) -> Iterator[str]:
    if plan.renamed_from:
        refusal = f"fleet {plan.renamed_from} cannot be renamed to {plan.fleet}"
        yield f"{refusal}: its containers carry the name"


def _lines(plan: Plan) -> Iterator[str]:
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
    yield from _differences("limits", plan.limits)


def in_use_text(nodes: Iterable[NodePlan]) -> str:
    """Say why nodes cannot be changed so yet, and what helps."""
    by_refusal: defaultdict[str, list[NodePlan]] = defaultdict(list)
    for node in nodes:
        by_refusal[node.refusal or ""].append(node)
    return "\n".join(
        f"{reason}: {_listed(map(_name, those))}; {_help(those)}"
        for reason, those in by_refusal.items()
    )


def _help(nodes: Sequence[NodePlan]) -> str:
    held = [node.renamed_from or node.name for node in nodes]
    name = held[0] if len(held) == 1 else "NODE"
    empty = f"'ollama-fleet instances list --node={name}' shows none but failed ones"
    if nodes[0].refusal is NodeRefusal.LISTED_AGAIN:
        return f"its instances move to other nodes: apply again once {empty}"
    return f"drain first: list as before with cordoned: true, apply, and wait until {empty}"


def _without_text(pool: PoolPlan) -> str:
    have = "has" if pool.n_without == 1 else "have"
    whose = f"{count_text(pool.n_without, 'developer')} {have}"
    return f"pool {pool.name}: {whose} no instance while its count is 0"


def _name(node: NodePlan) -> str:
    name = f"{node.renamed_from} as {node.name}" if node.renamed_from else node.name
    return f"{name} (holds {count_text(node.n_held, 'instance')})" if node.n_held else name


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
        yield f"  {change.name}: {_difference(change.before, change.after)}"


def _difference(before: str, after: str) -> str:
    """Return both values; of long ones what tells them apart."""
    if max(len(before), len(after)) <= MAX_SHOWN_CHARACTERS:
        return f"{before or '-'} → {after or '-'}"
    old, new = _entries(before), _entries(after)
    if old is not None and new is not None:
        added, removed = (new - old).total(), (old - new).total()
        return f"+{added:,}, −{removed:,}" if added + removed else "in another order"
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
    n_alike = max(0, len(list(alike)) - N_SHOWN_ALIKE)
    return f"{_short(before, n_alike)} → {_short(after, n_alike)}"


def _entries(text: str) -> Counter[bytes] | None:
    """Return how often each entry is in a list; None: the text is something else."""
    try:
        entries = msgspec.json.decode(text or "[]", type=list[msgspec.Raw])
    except msgspec.DecodeError:
        return None
    return Counter(bytes(entry) for entry in entries)


def _short(text: str, n_left_out: int = 0) -> str:
    rest = f"…{text[n_left_out:]}" if n_left_out else text
    shown = rest if len(rest) <= MAX_SHOWN_CHARACTERS else f"{rest[:MAX_SHOWN_CHARACTERS]}…"
    return shown or "-"


def _listed(given: Iterable[str]) -> str:
    names = tuple(given)
    n_more = len(names) - MAX_SHOWN_NODES
    rest = f" and {n_more:,} more" if n_more > 0 else ""
    return ", ".join(names[:MAX_SHOWN_NODES]) + rest
