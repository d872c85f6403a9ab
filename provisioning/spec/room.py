"""Whether the wanted instances fit on the nodes, and which resource is in the way.

In:   pools, and nodes counted by their shape, whose numbers are right in themselves.
Out:  Problems for what cannot fit however it is placed. Pure.
Said only where it is certain: of each pool alone, and of all pools by each resource summed up. What
passes may still not fit when several pools share nodes; placement finds out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from provisioning.model import Node, Pool
from provisioning.spec.amounts import count_text, size_text
from provisioning.spec.problems import Problem

Shapes = Counter[Node]
"""How many nodes there are of each kind, their names and addresses left out."""
UNLIMITED = 10**9
ROUNDING = 1e-9
"""Of shares of CPUs, which are floating-point numbers: 0.3 ÷ 0.1 is 2.999…"""


def shapes_of(nodes: Iterable[Node]) -> Shapes:
    """Count the nodes that are alike, so that 10,000 of them are looked at once."""
    return Counter(
        msgspec.structs.replace(node, name="", address="", endpoint="") for node in nodes
    )


def shapes_for(pool: Pool, shapes: Shapes) -> Shapes:
    """Return the nodes on which a pool's instances may be placed."""
    return Counter(
        {
            node: n_nodes
            for node, n_nodes in shapes.items()
            if not node.is_cordoned and is_selected(pool, node)
        }
    )


def is_selected(pool: Pool, node: Node) -> bool:
    """Say whether a node has all labels that a pool asks for."""
    labels = dict(node.labels)
    return all(labels.get(name) == value for name, value in pool.placement.selector)


def room_by_resource(pool: Pool, node: Node) -> dict[str, int]:
    """Return for each resource how many of a pool's instances an empty node has room for."""
    workload = pool.workload
    return {
        "memory": node.memory_bytes // workload.memory_bytes,
        "cpus": int(min(node.cpus / workload.cpus + ROUNDING, UNLIMITED)),
        "ports": _ports(node),
        "max_instances": node.max_instances or UNLIMITED,
        "max_per_node": pool.placement.max_per_node or UNLIMITED,
    }


def problems_of(pools: Sequence[Pool], shapes: Shapes) -> Iterator[Problem]:
    """Yield what cannot fit."""
    problems = [
        problem
        for index, pool in enumerate(pools)
        if (problem := _alone(index, pool, shapes_for(pool, shapes)))
    ]
    yield from problems or _together(pools, shapes)


def _alone(index: int, pool: Pool, shapes: Shapes) -> Problem | None:
    rooms = [(room_by_resource(pool, node), n_nodes) for node, n_nodes in shapes.items()]
    n_fit = sum(n_nodes * min(room.values()) for room, n_nodes in rooms)
    if n_fit >= pool.count:
        return None
    path = ("pools", index, "count")
    if not rooms:
        return Problem(path, f"{_instances(pool)}, but no node may take any")
    binding = min(rooms[0][0], key=lambda resource: sum(n * room[resource] for room, n in rooms))
    where = f"there is room for {n_fit:,} on {count_text(shapes.total(), 'node')}"
    do = "does" if pool.count == 1 else "do"
    fit = f"{_instances(pool)} {do} not fit: {where}, {pool.count - n_fit:,} too few"
    return Problem(path, f"{fit}; {_binds(binding, pool, shapes)}")


def _instances(pool: Pool) -> str:
    return count_text(pool.count, "instance")


def _binds(resource: str, pool: Pool, shapes: Shapes) -> str:
    """Return which resource is in the way, with its figures."""
    workload = pool.workload
    match resource:
        case "memory":
            has = size_text(_sum(shapes, lambda node: node.memory_bytes))
            return f"memory binds: {size_text(workload.memory_bytes)} each, the nodes have {has}"
        case "cpus":
            cpus = sum(n_nodes * node.cpus for node, n_nodes in shapes.items())
            return f"cpus bind: {workload.cpus:g} each, the nodes have {cpus:g}"
        case "ports":
            return f"ports bind: the nodes have {_sum(shapes, _ports):,}"
    return f"{resource} binds"


def _together(pools: Sequence[Pool], shapes: Shapes) -> Iterator[Problem]:
    """Yield each resource of which all pools want more than all their nodes have."""
    used: Shapes = Counter()
    for pool in pools:
        used |= shapes_for(pool, shapes)
    memory_bytes = sum(pool.count * pool.workload.memory_bytes for pool in pools)
    has_bytes = _sum(used, lambda node: node.memory_bytes)
    yield from _short("memory", memory_bytes, has_bytes, lambda amount: size_text(int(amount)))
    cpus = sum(pool.count * pool.workload.cpus for pool in pools)
    has_cpus = sum(n_nodes * node.cpus for node, n_nodes in used.items())
    yield from _short("cpus", cpus, has_cpus, "{:g}".format)
    n_wanted = sum(pool.count for pool in pools)
    places = _sum(used, lambda node: min(_ports(node), node.max_instances or UNLIMITED))
    yield from _short("places (ports, max_instances)", n_wanted, places, "{:,}".format)


def _short(
    resource: str, wanted: float, has: float, text: Callable[[float], str]
) -> Iterator[Problem]:
    if wanted > has + ROUNDING:
        amounts = f"all pools want {text(wanted)}, their nodes have {text(has)}"
        yield Problem(("pools",), f"do not fit together, by {resource}: {amounts}")


def _sum(shapes: Shapes, of: Callable[[Node], int]) -> int:
    return sum(n_nodes * of(node) for node, n_nodes in shapes.items())


def _ports(node: Node) -> int:
    return node.last_port - node.first_port + 1
