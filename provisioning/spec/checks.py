"""Whether there can be such a fleet, whoever described it.

In:   a Fleet, as it was decoded.
Out:  Problems, all of them, each with its path. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from provisioning.model import Fleet, Limits, Pool, RuntimeKind
from provisioning.spec import node_checks, pool_checks, room, words
from provisioning.spec.amounts import count_text
from provisioning.spec.complaints import MAX_DURATION_S, above_zero, at_least, named
from provisioning.spec.problems import Path, Problem, Unknown

MAX_COMPARISONS = 4_000_000
"""Of what pools select with what nodes are labelled; takes seconds."""


def problems_of(fleet: Fleet) -> Iterator[Problem | Unknown]:
    """Yield all that is wrong with a fleet, in the order of the document."""
    is_right = True
    for problem in _described(fleet):
        is_right = False
        yield problem
    # Whether instances fit can be said only of nodes and pools that are right in themselves.
    if is_right:
        yield from _placeable(fleet)


def _described(fleet: Fleet) -> Iterator[Problem | Unknown]:
    yield from named(("name",), fleet.name, words.MAX_FLEET_NAME_CHARACTERS)
    yield from node_checks.problems_of(fleet.nodes)
    yield from pool_checks.problems_of(fleet.pools, fleet.limits)
    yield from _limits(("limits",), fleet.limits)


def _limits(path: Path, limits: Limits) -> Iterator[Problem]:
    yield from at_least(1, path, operations=limits.operations, tries=limits.tries)
    yield from at_least(0, path, operations_per_node=limits.operations_per_node)
    yield from at_least(
        0,
        path,
        MAX_DURATION_S,
        backoff_base=limits.backoff_base_s,
        node_grace=limits.node_grace_s,
        retry_failed=limits.retry_failed_s,
        stop_grace=limits.stop_grace_s,
        backoff_cap=limits.backoff_cap_s,
    )
    bounds = {"start_timeout": limits.start_timeout_s, "warm_up_timeout": limits.warm_up_timeout_s}
    yield from above_zero(path, MAX_DURATION_S, **bounds)
    if limits.backoff_cap_s < limits.backoff_base_s:
        yield Problem((*path, "backoff_cap"), "must not be shorter than backoff_base")
    if not 0 <= limits.unavailable_ratio <= 1:
        yield Problem((*path, "unavailable"), "must be from 0% to 100%")


def _placeable(fleet: Fleet) -> Iterator[Problem]:
    shapes = room.shapes_of(fleet.nodes)
    if problem := _too_many(fleet.pools, shapes):
        yield problem
        return
    yield from _selected(fleet, shapes)
    yield from room.problems_of(fleet.pools, shapes)


def _too_many(pools: Sequence[Pool], shapes: room.Shapes) -> Problem | None:
    n_asked = sum(1 + len(pool.placement.selector) for pool in pools)
    n_given = sum(1 + len(node.labels) for node in shapes)
    if n_asked * n_given <= MAX_COMPARISONS:
        return None
    pools_text = count_text(len(pools), "pool")
    kinds = f"{pools_text} on {count_text(len(shapes), 'kind')} of nodes"
    helps = "have fewer pools, or label nodes alike"
    return Problem(("pools",), f"{kinds} are too many to be compared; {helps}")


def _selected(fleet: Fleet, shapes: room.Shapes) -> Iterator[Problem]:
    """Yield what is wrong between pools and the nodes that they select."""
    for index, pool in enumerate(fleet.pools):
        nodes = room.shapes_for(pool, shapes)
        runtimes = {node.runtime for node in nodes}
        path = ("pools", index)
        if not nodes and pool.placement.selector and pool.count:
            yield Problem((*path, "placement", "selector"), _unselected(pool, shapes))
        if RuntimeKind.CONTAINERD in runtimes and not pool.workload.image:
            yield Problem((*path, "image"), "required: its nodes run containerd")
        if RuntimeKind.PROCESS in runtimes and not pool.workload.command:
            message = "required: its nodes run processes; say how the server is started"
            yield Problem((*path, "command"), message)


def _unselected(pool: Pool, shapes: room.Shapes) -> str:
    labels = ", ".join(f"{name}={value}" for name, value in pool.placement.selector)
    if any(room.is_selected(pool, node) for node in shapes):
        return f"all nodes with the labels {labels} are cordoned"
    return f"no node has the labels {labels}"
