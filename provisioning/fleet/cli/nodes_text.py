"""Nodes in words: a table, and how many answer.

In:   the API's documents, and the time for ages.
Out:  a text without a line end after the last line. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from provisioning.fleet.api.forms import NodeDocument
from provisioning.fleet.cli.instances_text import age_text, shown
from provisioning.fleet.tables import table

HEAD = ("NODE", "RUNTIME", "STATE", "INSTANCES", "FAILED", "CPUS", "MEMORY", "NOTE")
GIB = 2**30


def nodes_text(nodes: Sequence[NodeDocument], *, now_s: float) -> str:
    """Return a table, and how many there are and do not answer."""
    if not nodes:
        return "no nodes"
    n_silent = sum(not node.is_reachable for node in nodes)
    noun = "node" if len(nodes) == 1 else "nodes"
    silent = f"{n_silent:,} of them silent" if n_silent else "all answer"
    rows = table(HEAD, (_row(node, now_s) for node in nodes))
    return f"{rows}\n{len(nodes):,} {noun}, {silent}"


def _row(node: NodeDocument, now_s: float) -> tuple[str, ...]:
    return (
        node.name,
        node.runtime or "-",
        "answers" if node.is_reachable else "silent",
        f"{node.n_instances:,}",
        f"{node.n_failed:,}",
        f"{node.cpus_used:g} of {node.cpus:g}",
        f"{node.memory_used_bytes / GIB:.1f} of {node.memory_bytes / GIB:.1f} GiB",
        _note(node, now_s),
    )


def _note(node: NodeDocument, now_s: float) -> str:
    """Return what is out of the ordinary, on one line."""
    heard = f"heard {age_text(now_s - node.heard_s)} ago" if node.heard_s else "never heard"
    notes = (
        "" if node.is_reachable else f"{heard}: {shown(node.fault)}",
        "" if node.is_listed else "not in the specification",
        "cordoned" if node.is_cordoned else "",
    )
    return "; ".join(filter(None, notes))
