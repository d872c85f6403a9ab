"""A plan in words, for a person who decides whether to go on.

In:   a Plan.
Out:  lines: a table of the pools, and below it what differs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from provisioning.differences import FieldChange
from provisioning.plan import NodePlan, Plan, PoolPlan, Verb
from provisioning.spec.amounts import count_text
from provisioning.tables import table

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
        yield f"{refusal}: its units carry the name"
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
        f"{_listed(map(_name, nodes))}; those would be made anew at once, and their units run on "
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
        f"instances: {places}; on another one those would be made anew at once, and their units "
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
