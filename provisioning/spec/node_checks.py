"""Whether nodes are right in themselves, and beside each other.

In:   Nodes, as they were decoded.
Out:  Problems, all of them, each with its path. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from provisioning.model import Node, RuntimeKind
from provisioning.spec import words
from provisioning.spec.complaints import (
    MAX_BYTES,
    MAX_COUNT,
    above_zero,
    at_least,
    complaint,
    named,
    repeated_items,
    repeated_names,
)
from provisioning.spec.problems import Path, Problem
from provisioning.spec.words import MAX_NAME_CHARACTERS

MAX_LABELS = 64


def problems_of(nodes: Sequence[Node]) -> Iterator[Problem]:
    """Yield all that is wrong with the nodes, in the order of the document."""
    for index, node in enumerate(nodes):
        yield from _node(("nodes", index), node)
    yield from repeated_items("nodes", [node.name for node in nodes])
    yield from _shared_ports(nodes)
    yield from _shared_endpoints(nodes)


def _node(path: Path, node: Node) -> Iterator[Problem]:
    yield from named((*path, "name"), node.name, MAX_NAME_CHARACTERS)
    yield from complaint((*path, "address"), words.host_fault(node.address))
    yield from _endpoint((*path, "endpoint"), node)
    yield from above_zero(path, MAX_COUNT, cpus=node.cpus)
    yield from above_zero(path, MAX_BYTES, memory=node.memory_bytes)
    yield from at_least(0, path, max_instances=node.max_instances)
    if not 1 <= node.first_port <= node.last_port <= 65_535:
        ports = f"{node.first_port} to {node.last_port}"
        yield Problem((*path, "first_port"), f"ports must ascend within 1 to 65535, got {ports}")
    for name, value in node.labels:
        yield from complaint((*path, "labels", name), words.label_fault(name, value))
    yield from repeated_names((*path, "labels"), node.labels)
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
