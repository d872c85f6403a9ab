"""Make the things that tests decide on, each with what the test does not care about filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from provisioning.actions import StateSnapshot, Unhealthy
from provisioning.model import (
    DAY_S,
    ContainerState,
    Fleet,
    Instance,
    Limits,
    Node,
    NodeReport,
    ObservedContainer,
    Phase,
    Pool,
    Rotation,
    RuntimeKind,
    Workload,
)
from provisioning.store.base import StoredInstance
from provisioning.workload import inventory_entry_of

NOW_S = 1_800_000_000.0
GIB = 2**30
CHAT = Workload(
    model="llama3", engine="fleet", command=("serve", "{port}"), cpus=1.0, memory_bytes=GIB
)


def node(name: str = "n1", **fields: Any) -> Node:
    """Return a node with room for eight small instances."""
    made = Node(name=name, runtime=RuntimeKind.SIMULATED, cpus=8.0, memory_bytes=8 * GIB)
    return made.replace(**fields)


def pool(count: int = 1, **fields: Any) -> Pool:
    """Return a pool `chat` of small instances that never rotate."""
    made = Pool(name="chat", count=count, workload=CHAT, rotation=Rotation(every_s=0.0))
    return made.replace(**fields)


def fleet(
    *pools: Pool, nodes: Iterable[Node] = (), limits: Limits | None = None, **fields: object
) -> Fleet:
    """Return a fleet of one node, if no others are given."""
    made = Fleet(
        name="test", nodes=tuple(nodes) or (node(),), pools=pools, limits=limits or Limits()
    )
    return made.replace(**fields)


def instance(number: int = 1, **fields: object) -> Instance:
    """Return an instance of the pool `chat` that runs and is an hour old."""
    made = Instance(
        id=f"chat-{number:05}",
        pool="chat",
        node="n1",
        port=20_000 + number,
        generation=1,
        phase=Phase.RUNNING,
        phase_since_s=NOW_S - 3600,
        started_s=NOW_S - 3600,
        workload=CHAT.digest,
        cpus=CHAT.cpus,
        memory_bytes=CHAT.memory_bytes,
        inventory_entry=inventory_entry_of(CHAT, node()),
    )
    return replace(made, **fields)


def found(
    of: Instance,
    state: ContainerState = ContainerState.RUNNING,
    *,
    generation: int = 0,
    **fields: object,
) -> ObservedContainer:
    """Return the container of an instance's generation, as its node tells of it."""
    number = generation or of.generation
    made = ObservedContainer(f"{of.id}.{number}", of.id, number, state)
    return replace(made, **fields)


def report(
    name: str = "n1", *containers: ObservedContainer, at_s: float = NOW_S, fault: str = ""
) -> NodeReport:
    """Return what was heard of a node just now."""
    return NodeReport(name, at_s, containers, fault)


def silent(name: str = "n1", *containers: ObservedContainer, for_s: float) -> NodeReport:
    """Return what is known of a node that has not answered for a time."""
    return report(name, *containers, at_s=NOW_S - for_s, fault="cannot connect")


def observed(
    instances: Iterable[Instance],
    reports: Iterable[NodeReport] | None = None,
    *,
    unhealthy: Mapping[str, float] | None = None,
    working: Iterable[str] = (),
    starting: Iterable[str] = (),
    collecting: Iterable[tuple[str, str]] = (),
    backing_off: Iterable[str] = (),
    idle: Iterable[str] = (),
    deletable_orphans: Iterable[tuple[str, str]] = (),
    watching_since_s: float = NOW_S - DAY_S,
) -> StateSnapshot:
    """Return a view of instances; without reports, their nodes run all that they should."""
    listed = tuple(instances)
    return StateSnapshot(
        stored={one.id: StoredInstance(one, 1) for one in listed},
        reports={
            one.node: one for one in (healthy_reports(listed) if reports is None else reports)
        },
        watching_since_s=watching_since_s,
        unhealthy={id_: Unhealthy(at_s, "no answer") for id_, at_s in (unhealthy or {}).items()},
        working=frozenset(working) | frozenset(starting),
        starting=frozenset(starting),
        collecting=frozenset(collecting),
        backing_off=frozenset(backing_off),
        idle=frozenset(idle),
        deletable_orphans=frozenset(deletable_orphans),
    )


def healthy_reports(instances: Iterable[Instance]) -> list[NodeReport]:
    """Return reports of nodes that run the containers of all instances that have one."""
    by_node: dict[str, list[ObservedContainer]] = {"n1": []}
    for one in instances:
        containers = by_node.setdefault(one.node, [])
        if one.phase in (Phase.RUNNING, Phase.DRAINING):
            containers.append(found(one))
    return [report(name, *containers) for name, containers in by_node.items()]
