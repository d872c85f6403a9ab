"""Whether there can be such a fleet, whoever described it.

In:   a Fleet, as it was decoded.
Out:  Problems, all of them, each with its path. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from provisioning.fleet.fleet import Fleet, Limits, Node, Pool, RuntimeKind
from provisioning.fleet.limits import allowed_down
from provisioning.fleet.model import Workload
from provisioning.fleet.placeholders import NAMES, placeholder_fault
from provisioning.fleet.spec import room, words
from provisioning.fleet.spec.amounts import count_text
from provisioning.fleet.spec.engines import ENGINES
from provisioning.fleet.spec.problems import Path, Problem, Unknown
from provisioning.fleet.spec.words import MAX_NAME_CHARACTERS, MAX_POOL_NAME_CHARACTERS

MAX_INSTANCES = 1_000_000
MAX_LABELS = 64
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


def _placeable(fleet: Fleet) -> Iterator[Problem]:
    shapes = room.shapes_of(fleet.nodes)
    if problem := _too_many(fleet.pools, shapes):
        yield problem
        return
    yield from _selected(fleet, shapes)
    yield from room.problems_of(fleet.pools, shapes)


def _described(fleet: Fleet) -> Iterator[Problem | Unknown]:
    yield from _named(("name",), fleet.name, words.MAX_FLEET_NAME_CHARACTERS)
    for index, node in enumerate(fleet.nodes):
        yield from _node(("nodes", index), node)
    yield from _repeated("nodes", [node.name for node in fleet.nodes])
    yield from _shared_ports(fleet.nodes)
    yield from _shared_endpoints(fleet.nodes)
    for index, pool in enumerate(fleet.pools):
        yield from _pool(("pools", index), pool)
        yield from _rotation(("pools", index, "rotation"), pool, fleet.limits)
    yield from _repeated("pools", [pool.name for pool in fleet.pools])
    if sum(pool.count for pool in fleet.pools) > MAX_INSTANCES:
        yield Problem(("pools",), f"must not have more than {MAX_INSTANCES:,} instances in all")
    yield from _limits(("limits",), fleet.limits)


def _node(path: Path, node: Node) -> Iterator[Problem]:
    yield from _named((*path, "name"), node.name, MAX_NAME_CHARACTERS)
    yield from _complaint((*path, "address"), words.host_fault(node.address))
    yield from _endpoint((*path, "endpoint"), node)
    yield from _above_zero(path, cpus=node.cpus, memory=node.memory_bytes)
    yield from _at_least(0, path, max_instances=node.max_instances)
    if not 1 <= node.first_port <= node.last_port <= 65_535:
        ports = f"{node.first_port} to {node.last_port}"
        yield Problem((*path, "first_port"), f"ports must ascend within 1 to 65535, got {ports}")
    for name, value in node.labels:
        yield from _complaint((*path, "labels", name), words.label_fault(name, value))
    yield from _repeated_names((*path, "labels"), node.labels)
    if len(node.labels) > MAX_LABELS:
        message = f"must be at most {MAX_LABELS}, got {len(node.labels):,}"
        yield Problem((*path, "labels"), message)


def _endpoint(path: Path, node: Node) -> Iterator[Problem]:
    match node.runtime:
        case RuntimeKind.CONTAINERD:
            if not node.endpoint.startswith(("unix:///", "https://")):
                helps = "such as unix:///run/containerd/containerd.sock or https://node:port"
                message = f"must say where containerd listens, {helps}, got {node.endpoint!r}"
                yield Problem(path, message)
        case RuntimeKind.PROCESS if node.endpoint:
            yield Problem(path, f"means nothing to runtime {node.runtime}; leave it out")
        case RuntimeKind.SIMULATED if node.endpoint and not node.endpoint.startswith("http://"):
            helps = "such as http://127.0.0.1:11451; leave it out to simulate in memory"
            message = f"must be the control API of `ollama-fleet simulate`, {helps}"
            yield Problem(path, f"{message}, got {node.endpoint!r}")


def _shared_ports(nodes: Sequence[Node]) -> Iterator[Problem]:
    """Yield a problem for each node whose ports another node of the same address has too."""
    last_by_address: dict[str, Node] = {}
    real = (pair for pair in enumerate(nodes) if not _is_in_memory(pair[1]))
    for index, node in sorted(real, key=lambda pair: (pair[1].address, pair[1].first_port)):
        other = last_by_address.get(node.address)
        if other is not None and node.first_port <= other.last_port:
            clash = f"address {node.address} and ports that node {other.name} has too"
            helps = "give each an address or a range of ports of its own"
            yield Problem(("nodes", index, "first_port"), f"node {node.name} has {clash}; {helps}")
        if other is None or node.last_port > other.last_port:
            last_by_address[node.address] = node


def _is_in_memory(node: Node) -> bool:
    return node.runtime is RuntimeKind.SIMULATED and not node.endpoint


def _shared_endpoints(nodes: Sequence[Node]) -> Iterator[Problem]:
    first_by_endpoint: dict[str, str] = {}
    for index, node in enumerate(nodes):
        if node.runtime is not RuntimeKind.CONTAINERD or not node.endpoint:
            continue
        other = first_by_endpoint.setdefault(node.endpoint, node.name)
        if other != node.name:
            message = f"is also the endpoint of node {other}: one containerd cannot be two nodes"
            yield Problem(("nodes", index, "endpoint"), message)


def _pool(path: Path, pool: Pool) -> Iterator[Problem | Unknown]:
    yield from _named((*path, "name"), pool.name, MAX_POOL_NAME_CHARACTERS)
    yield from _at_least(0, path, count=pool.count)
    yield from _workload(path, pool.workload)
    yield from _archive((*path, "archive"), pool)
    at_most = pool.placement.max_per_node
    yield from _at_least(0, (*path, "placement"), max_per_node=at_most)
    yield from _developers((*path, "developers"), pool)


def _workload(path: Path, workload: Workload) -> Iterator[Problem | Unknown]:
    model = workload.model
    model_fault = words.text_fault(model) if model else "must not be empty"
    yield from _complaint((*path, "model"), model_fault)
    if workload.engine not in ENGINES:
        message = f"must be one of {', '.join(ENGINES)}"
        yield Unknown((*path, "engine"), message, workload.engine, ENGINES)
    yield from _above_zero(path, cpus=workload.cpus, memory=workload.memory_bytes)
    yield from _complaint((*path, "image"), words.text_fault(workload.image))
    yield from _command((*path, "command"), workload.command)
    yield from _environment((*path, "environment"), workload.environment)
    yield from _mounts((*path, "mounts"), workload.mounts)
    yield from _probe((*path, "health"), workload)
    for index, request in enumerate(workload.warm_up):
        where = (*path, "warm_up", index)
        yield from _complaint((*where, "path"), words.path_fault(request.path))
        yield from _above_zero(where, timeout=request.timeout_s)


def _command(path: Path, command: Sequence[str]) -> Iterator[Problem]:
    for index, argument in enumerate(command):
        fault = "must not hold a NUL" if "\0" in argument else placeholder_fault(argument)
        yield from _complaint((*path, index), fault)
    if command and not command[0]:
        yield Problem((*path, 0), "must name a program")


def _environment(path: Path, environment: Sequence[tuple[str, str]]) -> Iterator[Problem]:
    for name, value in environment:
        fault = words.variable_fault(name)
        if "\0" in value:
            fault = "must not hold a NUL"
        elif placeholder_fault(value):
            # Not in its own words, which would show what may be a secret.
            known = ", ".join(f"{{{known}}}" for known in NAMES)
            fault = f"holds braces that are no placeholder; known are {known}; {{{{ is a brace"
        yield from _complaint((*path, name), fault)
    yield from _repeated_names(path, environment)


def _archive(path: Path, pool: Pool) -> Iterator[Problem]:
    if not pool.archive:
        return
    if not pool.archive.startswith("/") or "\0" in pool.archive:
        yield Problem(path, f"must be an absolute path, got {pool.archive!r}")
    if not pool.workload.image:
        yield Problem(path, "needs an `image`: the name that its image gets on the nodes")


def _mounts(path: Path, mounts: Sequence[tuple[str, str]]) -> Iterator[Problem]:
    for index, pair in enumerate(mounts):
        for key, folder in zip(("source", "target"), pair, strict=True):
            if not folder.startswith("/") or ".." in folder.split("/") or "\0" in folder:
                yield Problem((*path, index, key), f"must be an absolute path, got {folder!r}")
    yield from _repeated_names(path, [(target, "") for _, target in mounts])


def _probe(path: Path, workload: Workload) -> Iterator[Problem]:
    probe = workload.probe
    yield from _complaint((*path, "path"), words.path_fault(probe.path))
    yield from _above_zero(path, interval=probe.interval_s, timeout=probe.timeout_s)
    yield from _at_least(1, path, failures=probe.n_failures)


def _rotation(path: Path, pool: Pool, limits: Limits) -> Iterator[Problem]:
    rotation = pool.rotation
    yield from _at_least(0, path, every=rotation.every_s, drain=rotation.drain_s)
    yield from _at_least(1, path, at_once=rotation.at_once)
    if rotation.every_s > 0 and rotation.at_once > 0 and 0 <= limits.unavailable_ratio <= 1:
        bounds = {"at_once": rotation.at_once, "limits.unavailable": allowed_down(pool, limits)}
        n_at_once = min(bounds.values())
        whole_s = rotation.drain_s * pool.count / n_at_once
        if whole_s > rotation.every_s:
            drained = f"draining {pool.count:,} instances, {n_at_once:,} at once, takes"
            helps = "rotate less often, drain for a shorter time, or raise"
            raised = " and ".join(name for name, most in bounds.items() if most == n_at_once)
            message = f"{rotation.every_s:,.0f} s is too short: {drained} {whole_s:,.0f} s"
            yield Problem((*path, "every"), f"{message}; {helps} {raised}")


def _developers(path: Path, pool: Pool) -> Iterator[Problem]:
    n_developers = len(pool.developers)
    # With count 0 the pool is put away, and whoever is listed has one again once it is not.
    if 0 < pool.count < n_developers:
        helps = "raise its count or list fewer"
        yield Problem(
            path, f"{n_developers:,} want one of {count_text(pool.count, 'instance')}; {helps}"
        )
    for index, name in enumerate(pool.developers):
        fault = words.text_fault(name) if name else "must not be empty"
        yield from _complaint((*path, index), fault)
    yield from _repeated_names(path, [(name, "") for name in pool.developers])


def _limits(path: Path, limits: Limits) -> Iterator[Problem]:
    yield from _at_least(1, path, operations=limits.operations, tries=limits.tries)
    yield from _at_least(
        0,
        path,
        operations_per_node=limits.operations_per_node,
        backoff_base=limits.backoff_base_s,
        node_grace=limits.node_grace_s,
        retry_failed=limits.retry_failed_s,
        stop_grace=limits.stop_grace_s,
    )
    yield from _above_zero(path, start_timeout=limits.start_timeout_s)
    if limits.backoff_cap_s < limits.backoff_base_s:
        yield Problem((*path, "backoff_cap"), "must not be shorter than backoff_base")
    if not 0 <= limits.unavailable_ratio <= 1:
        yield Problem((*path, "unavailable"), "must be from 0% to 100%")


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


def _named(path: Path, name: str, max_characters: int) -> Iterator[Problem]:
    yield from _complaint(path, words.name_fault(name, max_characters))


def _complaint(path: Path, fault: str) -> Iterator[Problem]:
    if fault:
        yield Problem(path, fault)


def _above_zero(path: Path, **amounts: float) -> Iterator[Problem]:
    for key, amount in amounts.items():
        if not 0 < amount < float("inf"):
            yield Problem((*path, key), f"must be more than 0, got {amount:g}")


def _at_least(least: int, path: Path, **amounts: float) -> Iterator[Problem]:
    for key, amount in amounts.items():
        if amount < least:
            yield Problem((*path, key), f"must be {least} or more, got {amount:g}")


def _repeated(section: str, names: Sequence[str]) -> Iterator[Problem]:
    places: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        places[name].append(index)
    for name, indices in places.items():
        for index in indices[1:]:
            yield Problem((section, index, "name"), f"{name!r} is also the name of another one")


def _repeated_names(path: Path, pairs: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            yield Problem(path, f"holds {name!r} twice")
        seen.add(name)
