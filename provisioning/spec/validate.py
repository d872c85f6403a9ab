"""Rules between the nodes, pools and limits of a specification."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from ollama_fleet.sizes import size_text
from ollama_fleet.tables import count_text
from provisioning.budget import RECONCILES_S, Throughput, throughput_of, warm_up_s_of
from provisioning.model import Fleet, Limits, Node, Pool, RuntimeKind
from provisioning.spec.defaults import Fault
from provisioning.spec.values import MAX_COUNT

MAX_COMPARISONS = 4_000_000
"""Of what pools select with what nodes are labelled; takes seconds."""
UNLIMITED = 10**9
ROUNDING = 1e-9
"""Of shares of CPUs, which are floating-point numbers: 0.3 ÷ 0.1 is 2.999…"""


def faults_of(fleet: Fleet) -> Iterator[Fault]:
    """Yield all that is wrong between the parts of a fleet."""
    is_right = True
    for fault in _described(fleet):
        is_right = False
        yield fault
    # Whether instances fit can be said only of nodes and pools that are right in themselves.
    if is_right:
        yield from _placeable(fleet)


def _described(fleet: Fleet) -> Iterator[Fault]:
    yield from _repeated("nodes", [node.name for node in fleet.nodes])
    yield from _shared_ports(fleet.nodes)
    yield from _shared_endpoints(fleet.nodes)
    yield from _repeated("pools", [pool.name for pool in fleet.pools])
    for index, pool in enumerate(fleet.pools):
        yield from _developers(index, pool)
        yield from _rotation(index, pool, fleet.limits)
    if sum(pool.count for pool in fleet.pools) > MAX_COUNT:
        yield Fault(("pools",), f"must not have more than {MAX_COUNT:,} instances in all")
    if fleet.limits.backoff_cap_s < fleet.limits.backoff_base_s:
        yield Fault(("limits", "backoff_cap"), "must not be shorter than backoff_base")


def _repeated(section: str, names: Sequence[str]) -> Iterator[Fault]:
    places: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        places[name].append(index)
    for name, indices in places.items():
        for index in indices[1:]:
            yield Fault((section, index, "name"), f"{name!r} is also the name of another one")


def _shared_ports(nodes: Sequence[Node]) -> Iterator[Fault]:
    """Yield a fault for each node whose ports another node of the same address has too."""
    last_by_address: dict[str, Node] = {}
    real = (pair for pair in enumerate(nodes) if not _is_in_memory(pair[1]))
    for index, node in sorted(real, key=lambda pair: (pair[1].address, pair[1].first_port)):
        other = last_by_address.get(node.address)
        if other is not None and node.first_port <= other.last_port:
            clash = f"address {node.address} and ports that node {other.name} has too"
            helps = "give each an address or a range of ports of its own"
            yield Fault(("nodes", index, "first_port"), f"node {node.name} has {clash}; {helps}")
        if other is None or node.last_port > other.last_port:
            last_by_address[node.address] = node


def _is_in_memory(node: Node) -> bool:
    return node.runtime is RuntimeKind.SIMULATED and not node.endpoint


def _shared_endpoints(nodes: Sequence[Node]) -> Iterator[Fault]:
    first_by_endpoint: dict[str, str] = {}
    for index, node in enumerate(nodes):
        if node.runtime is not RuntimeKind.CONTAINERD:
            continue
        other = first_by_endpoint.setdefault(node.endpoint, node.name)
        if other != node.name:
            message = f"is also the endpoint of node {other}: one containerd cannot be two nodes"
            yield Fault(("nodes", index, "endpoint"), message)


def _developers(index: int, pool: Pool) -> Iterator[Fault]:
    n_developers = len(pool.developers)
    # A pool with count 0 keeps its developers listed for when it has instances again.
    if 0 < pool.count < n_developers:
        instances = count_text(pool.count, "instance")
        message = f"{n_developers:,} want one of {instances}; raise its count or list fewer"
        yield Fault(("pools", index, "developers"), message)


def _rotation(index: int, pool: Pool, limits: Limits) -> Iterator[Fault]:
    throughput = throughput_of(pool, limits)
    if 0 < pool.rotation.every_s < throughput.whole_s:
        yield Fault(("pools", index, "rotation", "every"), _too_slow(pool, limits, throughput))


def _too_slow(pool: Pool, limits: Limits, throughput: Throughput) -> str:
    """Return the arithmetic by which a rotation cannot keep its period, and what to change."""
    rotation, warm_up_s = pool.rotation, warm_up_s_of(pool)
    warm_up = f"{warm_up_s:g} s warm_up, " if warm_up_s else ""
    turn = (
        f"{rotation.drain_s:g} s drain, {limits.stop_grace_s:g} s limits.stop_grace, "
        f"{limits.start_timeout_s:g} s limits.start_timeout, {warm_up}{RECONCILES_S:g} s to notice"
    )
    return (
        f"{rotation.every_s:,.0f} s is too short: to replace {count_text(pool.count, 'instance')}, "
        f"{throughput.n_at_once:,} at once, {throughput.turn_s:,.0f} s each ({turn}), takes "
        f"{throughput.whole_s:,.0f} s; rotate less often, drain for a shorter time, or raise "
        f"{' and '.join(throughput.bounds)}"
    )


# Whether the wanted instances fit on the nodes. This is said only where it is certain: of each pool
# alone, and of all pools by each resource summed up. Several pools that share nodes may still not
# fit; the scheduler finds out.


class Shape:
    """Nodes that are alike but for their names and addresses: 10,000 of them are examined once."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.n_nodes = 0
        self.n_ports = node.last_port - node.first_port + 1
        self.n_places = min(self.n_ports, node.max_instances or UNLIMITED)

    def takes(self, pool: Pool) -> bool:
        """Say whether a pool's instances may be placed on such nodes."""
        return not self.node.is_cordoned and self.is_selected(pool)

    def is_selected(self, pool: Pool) -> bool:
        """Say whether such nodes have all labels that a pool asks for."""
        return pool.placement.selector.items() <= self.node.labels.items()

    def capacity_by_resource(self, pool: Pool) -> dict[str, int]:
        """Return for each resource how many of a pool's instances one empty node has room for."""
        workload = pool.workload
        return {
            "memory": self.node.memory_bytes // workload.memory_bytes,
            "cpus": int(min(self.node.cpus / workload.cpus + ROUNDING, UNLIMITED)),
            "ports": self.n_ports,
            "max_instances": self.node.max_instances or UNLIMITED,
            "max_per_node": pool.placement.max_per_node or UNLIMITED,
        }


def shapes_of(nodes: Iterable[Node]) -> list[Shape]:
    """Return the shapes of nodes."""
    shapes: dict[tuple[object, ...], Shape] = {}
    for node in nodes:
        key = (
            node.runtime,
            node.cpus,
            node.memory_bytes,
            node.max_instances,
            node.first_port,
            node.last_port,
            node.is_cordoned,
            *node.labels.items(),
        )
        shapes.setdefault(key, Shape(node)).n_nodes += 1
    return list(shapes.values())


def _placeable(fleet: Fleet) -> Iterator[Fault]:
    shapes = shapes_of(fleet.nodes)
    n_asked = sum(1 + len(pool.placement.selector) for pool in fleet.pools)
    n_given = sum(1 + len(shape.node.labels) for shape in shapes)
    if n_asked * n_given > MAX_COMPARISONS:
        pools, kinds = count_text(len(fleet.pools), "pool"), count_text(len(shapes), "kind")
        message = f"{pools} on {kinds} of nodes are too many to be compared"
        yield Fault(("pools",), f"{message}; have fewer pools, or label nodes alike")
        return
    is_fitting = True
    for index, pool in enumerate(fleet.pools):
        yield from _selected(index, pool, shapes)
        for fault in _fitting(index, pool, [shape for shape in shapes if shape.takes(pool)]):
            is_fitting = False
            yield fault
    if is_fitting:
        yield from _fitting_together(fleet.pools, shapes)


def _selected(index: int, pool: Pool, shapes: Sequence[Shape]) -> Iterator[Fault]:
    """Yield what is wrong between a pool and the nodes that it selects."""
    runtimes = {shape.node.runtime for shape in shapes if shape.takes(pool)}
    path = ("pools", index)
    if not runtimes and pool.placement.selector and pool.count:
        yield Fault((*path, "placement", "selector"), _unselected(pool, shapes))
    if RuntimeKind.CONTAINERD in runtimes and not pool.workload.image:
        yield Fault((*path, "image"), "required: its nodes run containerd")
    if RuntimeKind.PROCESS in runtimes and not pool.workload.command:
        message = "required: its nodes run processes; say how the server is started"
        yield Fault((*path, "command"), message)


def _unselected(pool: Pool, shapes: Iterable[Shape]) -> str:
    labels = ", ".join(f"{name}={value}" for name, value in pool.placement.selector.items())
    if any(shape.is_selected(pool) for shape in shapes):
        return f"all nodes with the labels {labels} are cordoned"
    return f"no node has the labels {labels}"


def _fitting(index: int, pool: Pool, shapes: Sequence[Shape]) -> Iterator[Fault]:
    capacities = [(shape.capacity_by_resource(pool), shape.n_nodes) for shape in shapes]
    n_fit = sum(n_nodes * min(capacity.values()) for capacity, n_nodes in capacities)
    if n_fit >= pool.count:
        return
    path = ("pools", index, "count")
    instances = count_text(pool.count, "instance")
    if not shapes:
        yield Fault(path, f"{instances}, but no node may take any")
        return
    binding = min(
        capacities[0][0], key=lambda resource: sum(n * c[resource] for c, n in capacities)
    )
    nodes = count_text(sum(shape.n_nodes for shape in shapes), "node")
    do = "does" if pool.count == 1 else "do"
    fit = f"{instances} {do} not fit: there is room for {n_fit:,} on {nodes}"
    message = f"{fit}, {pool.count - n_fit:,} too few; {_binding(binding, pool, shapes)}"
    yield Fault(path, message)


def _binding(resource: str, pool: Pool, shapes: Sequence[Shape]) -> str:
    """Return which resource is in the way, with its figures."""
    workload = pool.workload
    match resource:
        case "memory":
            has = size_text(int(_sum(shapes, lambda shape: shape.node.memory_bytes)))
            return f"memory binds: {size_text(workload.memory_bytes)} each, the nodes have {has}"
        case "cpus":
            cpus = _sum(shapes, lambda shape: shape.node.cpus)
            return f"cpus bind: {workload.cpus:g} each, the nodes have {cpus:g}"
        case "ports":
            return f"ports bind: the nodes have {_sum(shapes, lambda shape: shape.n_ports):,}"
    return f"{resource} binds"


def _fitting_together(pools: Sequence[Pool], shapes: Iterable[Shape]) -> Iterator[Fault]:
    """Yield each resource of which all pools want more than all their nodes have."""
    used = [shape for shape in shapes if any(shape.takes(pool) for pool in pools)]
    wanted = sum(pool.count * pool.workload.memory_bytes for pool in pools)
    has = _sum(used, lambda shape: shape.node.memory_bytes)
    yield from _short("memory", wanted, has, lambda amount: size_text(int(amount)))
    cpus = sum(pool.count * pool.workload.cpus for pool in pools)
    yield from _short("cpus", cpus, _sum(used, lambda shape: shape.node.cpus), "{:g}".format)
    n_wanted = sum(pool.count for pool in pools)
    n_places = _sum(used, lambda shape: shape.n_places)
    yield from _short("places (ports, max_instances)", n_wanted, n_places, "{:,}".format)


def _short(
    resource: str, wanted: float, has: float, text: Callable[[float], str]
) -> Iterator[Fault]:
    if wanted > has + ROUNDING:
        amounts = f"all pools want {text(wanted)}, their nodes have {text(has)}"
        yield Fault(("pools",), f"do not fit together, by {resource}: {amounts}")


def _sum(shapes: Iterable[Shape], of: Callable[[Shape], float]) -> float:
    return sum(shape.n_nodes * of(shape) for shape in shapes)
