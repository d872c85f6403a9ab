"""Nodes in words: a table, and how many answer.

In:   the API's documents, and the time for ages.
Out:  a text without a line end after the last line. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from provisioning.api.forms import NodeDocument
from provisioning.cli.instances_text import age_text, shown
from provisioning.plan import table
from provisioning.spec.amounts import count_text

HEAD = ("NODE", "RUNTIME", "STATE", "INSTANCES", "FAILED", "CPUS", "MEMORY", "NOTE")
ANSWERS, SILENT, NOT_ASKED = "answers", "silent", "not asked"
GIB = 2**30


def nodes_text(nodes: Sequence[NodeDocument], *, now_s: float) -> str:
    """Return a table, and how many there are and do not answer."""
    if not nodes:
        return "no nodes"
    rows = table(HEAD, (_row(node, now_s) for node in nodes))
    return f"{rows}\n{count_text(len(nodes), 'node')}, {_answering(nodes)}"


def _answering(nodes: Sequence[NodeDocument]) -> str:
    """Return how many do not answer; those that were not asked say nothing of it."""
    tally = Counter(map(_state, nodes))
    unheard = (state for state in (SILENT, NOT_ASKED) if tally[state])
    return ", ".join(f"{tally[state]:,} of them {state}" for state in unheard) or "all answer"


def _row(node: NodeDocument, now_s: float) -> tuple[str, ...]:
    return (
        node.name,
        node.runtime or "-",
        _state(node),
        f"{node.n_instances:,}",
        f"{node.n_failed:,}",
        f"{node.cpus_used:g} of {node.cpus:g}",
        f"{node.memory_used_bytes / GIB:.1f} of {node.memory_bytes / GIB:.1f} GiB",
        _note(node, now_s),
    )


def _state(node: NodeDocument) -> str:
    if node.is_reachable:
        return ANSWERS
    return SILENT if node.is_asked else NOT_ASKED


def _note(node: NodeDocument, now_s: float) -> str:
    """Return what is out of the ordinary, on one line."""
    heard = f"heard {age_text(now_s - node.heard_s)} ago" if node.heard_s else "never heard"
    fault = shown(node.fault)
    notes = (
        f"{heard}: {fault}" if fault and node.is_asked else fault,
        "" if node.is_listed else "not in the specification",
        "cordoned" if node.is_cordoned else "",
    )
    return "; ".join(filter(None, notes))
