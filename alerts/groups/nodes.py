"""Rules on nodes: do a node's instances fail, or is it slower than its peers."""

from __future__ import annotations

from alerts.model import Alert, Dashboard, Group, Recording, Severity, linked
from alerts.names import NODE_EXPECTED, NODE_INSTANCES, NODE_SPEED, NODE_SPEED_RATIO
from alerts.promql import joined
from alerts.settings import Settings
from exporter import catalogue
from ollama_fleet.levels import number, percent

EVERY = 4
"""In evaluation intervals: there may be as many nodes as instances."""
JUDGED = 'status=~"healthy|unhealthy|unreachable|loading"'
"""Instances that should serve and whose polls say whether they do."""
LEAST_FAILING = 2
"""One Ollama per host that is off is no incident of a node."""
NODE_QUERY = "var-node={{ $labels.node | urlquery }}"


def group(settings: Settings) -> Group:
    """Return the rules on nodes; all of them read the exporter's series by node."""
    return Group(
        "ollama-fleet-nodes",
        linked(
            Dashboard.NODES,
            *_speeds(settings),
            _instances_down(settings),
            _node_slow(settings),
            _many_slow(settings),
        ),
        every=EVERY,
    )


def slow_ratio(settings: Settings) -> str:
    """Return the part of its peers' speed below which a node is slow, as PromQL."""
    return number(round(1 - settings.thresholds.slow_node, 12))


def _speeds(settings: Settings) -> tuple[Recording, ...]:
    """Return the speed of nodes, a mean over exporters: each shard has a random part of a node."""
    scope = settings.scope
    mean = f"avg {scope.by('node', 'model', 'engine')}"
    speed, measured, peers = map(
        scope.last,
        (
            catalogue.NODE_TOKENS_PER_SECOND,
            catalogue.NODE_MEASURED_INSTANCES,
            catalogue.NODE_PEERS_TOKENS_PER_SECOND,
        ),
    )
    return (
        Recording(NODE_INSTANCES, scope.fleet_sum(catalogue.NODE_INSTANCES, "node", "status")),
        Recording(NODE_EXPECTED, _expected(settings)),
        Recording(NODE_SPEED, f"{mean} (\n  {speed}\n  / {measured}\n)"),
        Recording(NODE_SPEED_RATIO, f"{NODE_SPEED} / {mean} ({peers})"),
    )


def _expected(settings: Settings) -> str:
    """Return how many instances of each node should serve.

    Each exporter's statuses are added up first: instances about which replicas disagree count once.
    """
    scope = settings.scope
    shard = (*catalogue.SHARD, "node")
    counts = (
        f"sum {scope.by('job', 'instance', *shard)} "
        f"({scope.last(catalogue.NODE_INSTANCES, where=JUDGED)})"
    )
    return f"sum {scope.by('node')} (\n  max {scope.by(*shard)} (\n    {counts}\n  )\n)"


def _instances_down(settings: Settings) -> Alert:
    healthy = f'{NODE_INSTANCES}{{status="healthy"}}'
    return Alert(
        name="OllamaNodeInstancesDown",
        expr=joined(
            f"{NODE_EXPECTED} - {settings.scope.on('node')} {healthy} >= {LEAST_FAILING}",
            f">= 0.5 * {NODE_EXPECTED}",
        ),
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="At least half of a node's instances fail or load.",
        description="Instances of node {{ $labels.node }} that fail or load their model: {{ "
        "$value }}, at least half of those that should serve. Typical causes: the machine, its "
        "network, its container runtime, or where its models are stored.",
        dashboard_query=NODE_QUERY,
    )


def _node_slow(settings: Settings) -> Alert:
    return Alert(
        name="OllamaNodeSlowerThanFleet",
        settings=("thresholds.slow_node",),
        expr=f"{NODE_SPEED_RATIO} < {slow_ratio(settings)}",
        for_s=900,
        keep_firing_for_s=600,
        severity=Severity.WARNING,
        summary="A node generates tokens more slowly than its peers.",
        description="Node {{ $labels.node }} generates at {{ $value | humanizePercentage }} of "
        "the median speed of its peers: nodes with the same model ({{ $labels.model }}), engine "
        "({{ $labels.engine }}) and hardware. Typical causes: a BIOS or power setting, heat, a "
        "noisy neighbour.",
        dashboard_query=NODE_QUERY,
    )


def _many_slow(settings: Settings) -> Alert:
    scope, share = settings.scope, settings.thresholds.slow_nodes
    slow = f"{NODE_SPEED_RATIO} < {slow_ratio(settings)}"
    nodes = f"count {scope.by()} (count {scope.by('node')} ({NODE_SPEED}))"
    return Alert(
        name="OllamaFleetManySlowNodes",
        settings=("thresholds.slow_nodes", "thresholds.slow_node"),
        expr=joined(
            f"count {scope.by()} (count {scope.by('node')} ({slow}))",
            f"> ceil({number(share)} * {nodes})",
        ),
        for_s=600,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Many nodes generate tokens more slowly than their peers.",
        description=f"Slow nodes: {{{{ $value }}}}, more than {percent(share)} of all. Typical "
        "causes: a rollout, a firmware or kernel change, cooling.",
    )
