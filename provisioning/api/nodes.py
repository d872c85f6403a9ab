"""How each node is, as the leader knows it.

In:   the specification in force, the records, and what was last heard of the nodes.
Out:  NodeDocuments, sorted by name. Pure; never fails.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from provisioning.api.forms import NodeDocument
from provisioning.model import Fleet, Instance, NodeReport, Phase
from provisioning.state import Load, size_of

NOT_ASKED = "it was not asked yet"
NOT_LISTED = "it cannot be asked: the specification does not list it"


def node_documents(
    fleet: Fleet | None, instances: Iterable[Instance], reports: Mapping[str, NodeReport]
) -> list[NodeDocument]:
    """Return the nodes that are listed, and those besides that hold instances or are asked."""
    by_node: defaultdict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        by_node[instance.node].append(instance)
    listed = {node.name: node for node in fleet.nodes} if fleet else {}
    documents = []
    for name in sorted({*listed, *by_node, *reports}):
        node, report = listed.get(name), reports.get(name)
        held = Load()
        n_failed = 0
        for instance in by_node[name]:
            if instance.phase is Phase.FAILED:
                n_failed += 1
            else:
                held.add(size_of(instance))
        documents.append(
            NodeDocument(
                name=name,
                runtime=node.runtime.value if node else "",
                is_listed=node is not None,
                is_cordoned=node is not None and node.is_cordoned,
                is_asked=report is not None and report.is_asked,
                is_reachable=report is not None and report.is_reachable,
                heard_s=report.at_s if report else 0.0,
                fault=_fault(report, is_listed=node is not None),
                n_instances=held.n_units,
                n_failed=n_failed,
                cpus_used=held.cpus,
                cpus=node.cpus if node else 0.0,
                memory_used_bytes=held.memory_bytes,
                memory_bytes=node.memory_bytes if node else 0,
            )
        )
    return documents


def _fault(report: NodeReport | None, *, is_listed: bool) -> str:
    if report is None:
        return NOT_ASKED if is_listed else NOT_LISTED
    return report.fault if report.is_asked else NOT_ASKED
