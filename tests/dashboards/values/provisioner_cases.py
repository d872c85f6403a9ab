"""What the queries on the provisioners make of given series."""

from __future__ import annotations

from dashboards.queries import pipeline
from tests.dashboards.values.case import ASK, NOTHING, Case, Series

A, B, C = (
    f'cluster="{cluster}",job="p",instance="{instance}"'
    for cluster, instance in (("x", "a"), ("x", "b"), ("y", "c"))
)


def of(name: str, a: float | str, b: float | str, c: float | str, labels: str = "") -> Series:
    """Return a series of the leader of a cluster, of its standby, and of another one's leader."""
    more = f",{labels}" if labels else ""
    return {
        f"ollama_provisioner_{name}{{{one}{more}}}": value
        for one, value in ((A, a), (B, b), (C, c))
    }


LEADER = of("leader", 1, 0, 1)
RECONCILES = {**LEADER, **of("last_reconcile_timestamp_seconds", 3590, 100, 3580)}
NEVER = {**LEADER, **of("last_reconcile_timestamp_seconds", 0, 0, 0)}

CASES = (
    Case("who leads", pipeline.leaders(ASK), LEADER,
         {f"{{{A}}}": 1, f"{{{B}}}": 0, f"{{{C}}}": 1}),
    Case("instances that are wanted, of each cluster once", pipeline.wanted_instances(ASK),
         {**LEADER, **of("wanted_instances", 10, 10, 5)}, 15),
    Case("ready instances, as leaders count them", pipeline.ready_instances(ASK),
         {**LEADER, **of("ready_instances", 8, 90, 4)}, 12),
    Case("instances that cannot be started, and no others", pipeline.failed_instances(ASK),
         {**LEADER, **of("instances", 2, 70, 1, 'phase="failed"'),
          **of("instances", 9, 9, 9, 'phase="running"')}, 3),
    Case("nodes that leaders do not reach", pipeline.unreachable_nodes(ASK),
         {**LEADER, **of("unreachable_nodes", 2, 7, 1)}, 3),
    Case("the oldest reconcile of the leaders", pipeline.reconcile_age(ASK), RECONCILES, 20),
    Case("no age of leaders that never reconciled", pipeline.reconcile_age(ASK), NEVER, NOTHING),
    Case("how old each view is, unless there is none yet", pipeline.view_age(ASK),
         of("view_timestamp_seconds", 3600, 3000, 0), {f"{{{A}}}": 0, f"{{{B}}}": 600}),
)  # fmt: skip
