"""A plan in words, for a person who decides whether to go on.

In:   a Plan.
Out:  lines: a table of the pools, and below it what differs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from provisioning.fleet.plan import FieldChange, NodePlan, Plan, PoolPlan, Verb
from provisioning.fleet.tables import table

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
    yield table(HEAD, map(_row, plan.pools))
    for pool in plan.pools:
        yield from _differences(f"pool {pool.name}", pool.changes)
    for verb in (Verb.ADDED, Verb.REMOVED):
        names = [node.name for node in plan.nodes if node.verb is verb]
        if names:
            yield f"nodes {verb}: {_listed(names)}"
    for node in _changed(plan.nodes):
        yield from _differences(f"node {node.name}", node.changes)
    yield from _differences("limits", plan.limits)


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


def _listed(names: Sequence[str]) -> str:
    n_more = len(names) - MAX_SHOWN_NODES
    rest = f" and {n_more:,} more" if n_more > 0 else ""
    return ", ".join(names[:MAX_SHOWN_NODES]) + rest
