"""Rules on nodes: is one down, or slower than its peers with the same model and engine."""

from __future__ import annotations

from alerts.model import Alert, Dashboard, Group, Recording, Severity
from alerts.names import NODE_INSTANCES, NODE_SPEED, NODE_SPEED_RATIO, PEERS_SPEED
from alerts.promql import joined
from alerts.settings import Settings
from exporter import catalogue
from ollama_fleet.levels import number, percent

NODE_QUERY = "var-node={{ $labels.node | urlquery }}"


def group(settings: Settings) -> Group:
    """Return the rules on nodes; those on speed need the series per instance."""
    return Group(
        "ollama-fleet-nodes",
        (
            *_speeds(settings),
            _node_down(settings),
            _node_slow(settings),
            _many_slow(settings),
        ),
    )


def slow_ratio(settings: Settings) -> str:
    """Return the part of its peers' speed below which a node is slow, as PromQL."""
    return number(round(1 - settings.thresholds.slow_node, 12))


def _speeds(settings: Settings) -> tuple[Recording, ...]:
    scope = settings.scope
    kind = scope.on("model", "engine")
    speed, info = map(scope.raw, (catalogue.INSTANCE_TOKENS_PER_SECOND, catalogue.INSTANCE_INFO))
    return (
        Recording(NODE_INSTANCES, scope.fleet_sum(catalogue.NODE_INSTANCES, "node", "status")),
        # Model and engine are joined from the same exporter's page, where an instance has one only.
        Recording(
            NODE_SPEED,
            joined(
                f"avg {scope.by('node', 'model', 'engine')} (",
                f"  max {scope.by('instance_id', 'node', 'model', 'engine')} (",
                f"    ({speed} > 0)",
                f"    * {scope.on('job', 'instance', 'instance_id')}"
                f" group_left (model, engine) {info}",
                "  )",
                ")",
            ),
        ),
        Recording(PEERS_SPEED, f"quantile {scope.by('model', 'engine')} (0.5, {NODE_SPEED})"),
        Recording(
            NODE_SPEED_RATIO,
            joined(
                f"{NODE_SPEED} / {kind} group_left () {PEERS_SPEED}",
                f"and {kind}",
                f"count {scope.by('model', 'engine')} ({NODE_SPEED})"
                f" >= {settings.thresholds.min_peers}",
            ),
        ),
    )


def _node_down(settings: Settings) -> Alert:
    scope = settings.scope
    gone = "" if settings.fleet.comes_and_goes else "|unreachable"
    failing = f'{NODE_INSTANCES}{{status=~"unhealthy{gone}"}}'
    return Alert(
        name="OllamaNodeAllInstancesDown",
        # A node that is only drained has no healthy instance either, and nothing fails.
        expr=joined(
            f"sum {scope.by('node')} ({failing}) > 0",
            f"unless {scope.on('node')}",
            f'{NODE_INSTANCES}{{status="healthy"}} > 0',
        ),
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="No instance of a node is healthy.",
        description=(
            "Node {{ $labels.node }} has {{ $value }} failing instances and no healthy one. The "
            "node itself, its network or its container runtime is down."
        ),
        dashboard=Dashboard.NODES,
        dashboard_query=NODE_QUERY,
    )


def _node_slow(settings: Settings) -> Alert:
    return Alert(
        name="OllamaNodeSlowerThanFleet",
        settings=("thresholds.slow_node", "thresholds.min_peers"),
        expr=f"{settings.scope.last(NODE_SPEED_RATIO)} < {slow_ratio(settings)}",
        for_s=900,
        keep_firing_for_s=600,
        severity=Severity.WARNING,
        summary="A node generates tokens more slowly than its peers.",
        description=(
            "Node {{ $labels.node }} generates at {{ $value | humanizePercentage }} of the median "
            "speed of the nodes with the same model ({{ $labels.model }}) and engine ({{ "
            "$labels.engine }}). Typical causes: a BIOS or power setting, heat, a noisy neighbour."
        ),
        dashboard=Dashboard.NODES,
        dashboard_query=NODE_QUERY,
    )


def _many_slow(settings: Settings) -> Alert:
    scope, share = settings.scope, settings.thresholds.slow_nodes
    slow = f"{scope.last(NODE_SPEED_RATIO)} < {slow_ratio(settings)}"
    nodes = f"count {scope.by()} (count {scope.by('node')} ({scope.last(NODE_SPEED)}))"
    return Alert(
        name="OllamaFleetManySlowNodes",
        settings=("thresholds.slow_nodes", "thresholds.slow_node", "thresholds.min_peers"),
        expr=joined(
            f"count {scope.by()} (count {scope.by('node')} ({slow}))",
            f"> ceil({number(share)} * {nodes})",
        ),
        for_s=600,
        keep_firing_for_s=900,
        severity=Severity.CRITICAL,
        summary="Many nodes generate tokens more slowly than their peers.",
        description=(
            f"{{{{ $value }}}} nodes are slow, more than {percent(share)} of all. Typical causes: "
            "a rollout, a firmware or kernel change, cooling."
        ),
        dashboard=Dashboard.NODES,
    )
