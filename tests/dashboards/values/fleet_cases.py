"""What the overview's queries make of given series."""

from __future__ import annotations

from dashboards.queries import fleet
from tests.dashboards.values.case import ASK, NOTHING, Case, Series, judged

STATUS: Series = {
    'fleet:ollama_instances:sum{cluster="a",status="healthy"}': 90,
    'fleet:ollama_instances:sum{cluster="b",status="healthy"}': 40,
    'fleet:ollama_instances:sum{cluster="a",status="unhealthy"}': 1,
    'fleet:ollama_instances:sum{cluster="b",status="unhealthy"}': 2,
    'fleet:ollama_instances:sum{cluster="a",status="unreachable"}': 3,
    'fleet:ollama_instances:sum{cluster="a",status="loading"}': 4,
    'fleet:ollama_instances:sum{cluster="a",status="unknown"}': 5,
    'fleet:ollama_instances:sum{cluster="a",status="draining"}': 6,
    'fleet:ollama_instances:sum{cluster="a",status="provisioning"}': 7,
}
FLOORS: Series = {
    'fleet:ollama_healthy_instances:threshold{cluster="a"}': 80,
    'fleet:ollama_healthy_instances:threshold{cluster="b"}': 30,
}
FLOOR_B_HIGH = {**FLOORS, 'fleet:ollama_healthy_instances:threshold{cluster="b"}': 41}
ONE_FLEET: Series = {
    'fleet:ollama_instances:sum{status="healthy"}': 90,
    "fleet:ollama_healthy_instances:threshold": 80,
}
CAPACITY: Series = {
    'fleet:ollama_tokens_per_second:estimate{cluster="a"}': 1000,
    'fleet:ollama_tokens_per_second:estimate{cluster="b"}': 500,
    'fleet:ollama_tokens_per_second:threshold{cluster="a"}': 900,
    'fleet:ollama_tokens_per_second:threshold{cluster="b"}': 500,
}
LATENCY: Series = {
    'fleet:ollama_request_latency_seconds:p99{cluster="a"}': 0.2,
    'fleet:ollama_request_latency_seconds:p99{cluster="b"}': 0.3,
}
LIMIT: Series = {
    'fleet:ollama_request_latency_seconds:threshold{cluster="a"}': 0.5,
    'fleet:ollama_request_latency_seconds:threshold{cluster="b"}': 0.5,
}
REQUESTS: Series = {
    'fleet:ollama_requests:rate5m{cluster="a"}': 100,
    'fleet:ollama_request_errors:rate5m{cluster="a"}': 1,
    'fleet:ollama_requests:rate5m{cluster="b"}': 10,
    'fleet:ollama_request_errors:rate5m{cluster="b"}': 1,
}
IDLE: Series = {"fleet:ollama_requests:rate5m": 0, "fleet:ollama_request_errors:rate5m": 0}
OBJECTIVE = "fleet:ollama_request_success_ratio:threshold"
OBJECTIVES = (f'{OBJECTIVE}{{cluster="a"}}', f'{OBJECTIVE}{{cluster="b"}}')
QUEUED: Series = {
    'fleet:ollama_requests_queued:sum{cluster="a"}': 100,
    'fleet:ollama_requests_queued:sum{cluster="b"}': 80,
    'fleet:ollama_instances:sum{cluster="a",status="healthy"}': 90,
    'fleet:ollama_instances:sum{cluster="b",status="healthy"}': 40,
}
PER_INSTANCE = "fleet:ollama_requests_queued_per_instance:threshold"
EACH_QUEUE = (f'{PER_INSTANCE}{{cluster="a"}}', f'{PER_INSTANCE}{{cluster="b"}}')
NONE_HEALTHY: Series = {
    "fleet:ollama_requests_queued:sum": 7,
    'fleet:ollama_instances:sum{status="healthy"}': 0,
    PER_INSTANCE: 4,
}
SHARD = {"a": 0, "b": 0, "c": 1}
"""Of each exporter: two are replicas."""
WATCHDOG: Series = {'ALERTS{alertname="Watchdog",alertstate="firing",severity="none"}': 1}


def alert(
    name: str, severity: str, *, since_s: float = 60, state: str = "firing", **labels: str
) -> Series:
    """Return the two series that Prometheus has of an active alert."""
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    told = f'alertname="{name}",severity="{severity}"{more}'
    return {
        f'ALERTS{{{told},alertstate="{state}"}}': 1,
        f"ALERTS_FOR_STATE{{{told}}}": since_s,
    }


SLOW_NODES = {
    series: value
    for index in range(60)
    for series, value in alert(
        "OllamaNodeSlowerThanFleet", "warning", node=f"n{index}", cluster="a"
    ).items()
}
NEW_CRITICAL = alert("OllamaFleetHealthyInstancesLow", "critical", since_s=3000, cluster="a")
OTHERS = {**alert("NodeDown", "critical"), **WATCHDOG}
TWO_WARNINGS = {
    **alert("OllamaX", "warning", node="n1", cluster="a"),
    **alert("OllamaX", "warning", node="n2", cluster="b"),
    **alert("OllamaY", "warning", state="pending"),
    **alert("OllamaZ", "critical"),
}


CASES = (
    Case(
        "instances of a status are those of all clusters",
        fleet.instances(ASK, "unhealthy"), STATUS, 3,
    ),
    Case(
        "the chosen cluster alone counts",
        fleet.instances(ASK, "healthy"), STATUS, 40, {"cluster": "b"},
    ),
    Case(
        "instances by status",
        fleet.by_status(ASK), STATUS,
        {'{status="healthy"}': 130, '{status="unhealthy"}': 3, '{status="unreachable"}': 3,
         '{status="loading"}': 4, '{status="unknown"}': 5, '{status="draining"}': 6,
         '{status="provisioning"}': 7},
    ),
    Case(
        "what is drained or provisioned on purpose does not fail",
        fleet.failing_by_status(ASK), STATUS,
        {'{status="unhealthy"}': 3, '{status="unreachable"}': 3, '{status="loading"}': 4,
         '{status="unknown"}': 5},
    ),
    *judged("enough are healthy everywhere", fleet.healthy(ASK), {**STATUS, **FLOORS}, good=130),
    *judged("too few in one cluster", fleet.healthy(ASK), {**STATUS, **FLOOR_B_HIGH}, bad=130),
    *judged("one fleet without a cluster", fleet.healthy(ASK), ONE_FLEET, good=90),
    *judged("without floors nothing is green", fleet.healthy(ASK), STATUS, unknown=130),
    *judged(
        "without the floor of one cluster nothing is green", fleet.healthy(ASK),
        {**STATUS, 'fleet:ollama_healthy_instances:threshold{cluster="a"}': 80},
        unknown=130,
    ),
    *judged(
        "too few in one cluster, and no floor in the other", fleet.healthy(ASK),
        {**STATUS, 'fleet:ollama_healthy_instances:threshold{cluster="a"}': 91},
        bad=130,
    ),
    *judged("a fleet that tells nothing", fleet.healthy(ASK), FLOORS),
    Case("floors of clusters add up", fleet.healthy_floor(ASK), {**STATUS, **FLOORS}, 110),
    Case(
        "so many may fail as are expected beyond the floor",
        fleet.may_fail(ASK),
        {**STATUS, **FLOORS, 'fleet:ollama_instances_expected:sum{cluster="a"}': 100,
         'fleet:ollama_instances_expected:sum{cluster="b"}': 50},
        40,
    ),
    *judged("a fleet as fast as it must be", fleet.speed(ASK), CAPACITY, good=1500),
    *judged(
        "a cluster slower than it must be", fleet.speed(ASK),
        {**CAPACITY, 'fleet:ollama_tokens_per_second:estimate{cluster="b"}': 499}, bad=1499,
    ),
    Case("floors of speed add up", fleet.speed_floor(ASK), CAPACITY, 1400),
    Case(
        "speed by model is the clusters' together",
        fleet.speed_by_model(ASK),
        {'model:ollama_tokens_per_second:sum{cluster="a",model="m"}': 100,
         'model:ollama_tokens_per_second:sum{cluster="b",model="m"}': 20,
         'model:ollama_tokens_per_second:sum{cluster="b",model="n"}': 3},
        {'{model="m"}': 120, '{model="n"}': 3},
    ),
    Case(
        "tokens generated are the clusters' together",
        fleet.generated(ASK),
        {'fleet:ollama_generated_tokens:rate{cluster="a"}': 7,
         'fleet:ollama_generated_tokens:rate{cluster="b"}': 4},
        11,
    ),
    *judged("latency below its limit, the worst shown", fleet.latency(ASK),
            {**LATENCY, **LIMIT}, good=0.3),
    *judged(
        "latency above its limit in one cluster", fleet.latency(ASK),
        {**LATENCY, **LIMIT, 'fleet:ollama_request_latency_seconds:threshold{cluster="b"}': 0.25},
        bad=0.3,
    ),
    *judged("latency without a limit", fleet.latency(ASK), LATENCY, unknown=0.3),
    Case("the p99 is the worst of the clusters'", fleet.latency_p99(ASK), LATENCY, 0.3),
    Case("the limit of the p99", fleet.latency_limit(ASK), LIMIT, 0.5),
    Case(
        "the limit of the chosen cluster too",
        fleet.latency_limit(ASK), LIMIT, 0.5, {"cluster": "b"},
    ),
    Case(
        "the quantile that is asked for, of the worst cluster",
        fleet.latency_spread(ASK, "0.9"),
        {f'fleet:ollama_instance_request_latency_p99_seconds:quantile{{cluster="{cluster}",'
         f'quantile="{quantile}"}}': float(quantile) / divisor
         for cluster, divisor in (("a", 1), ("b", 2)) for quantile in ("0.5", "0.9", "0.99")},
        0.9,
    ),
    Case(
        "durations: the higher of replicas, the sum of shards, by bucket",
        fleet.durations(ASK),
        {
            f'ollama_fleet_request_duration_seconds_bucket{{job="x",instance="{instance}",'
            f'shard="{SHARD[instance]}",model="m",le="{le}"}}': f"0+{step}x240"
            for instance, le, step in (
                ("a", "0.1", 15), ("b", "0.1", 30), ("c", "0.1", 15), ("a", "+Inf", 60),
            )
        },
        {'{le="0.1"}': 3, '{le="+Inf"}': 4},
    ),
    Case("the share that fails is of all requests", fleet.failed_ratio(ASK), REQUESTS, 0.0182),
    Case("without requests no share fails", fleet.failed_ratio(ASK), IDLE, NOTHING),
    *judged("failures within the objective", fleet.failed(ASK),
            {**REQUESTS, **dict.fromkeys(OBJECTIVES, 0.875)}, good=0.0182),
    *judged("too many failures in the small cluster", fleet.failed(ASK),
            {**REQUESTS, **dict.fromkeys(OBJECTIVES, 0.95)}, bad=0.0182),
    *judged("failures without an objective", fleet.failed(ASK), REQUESTS, unknown=0.0182),
    *judged("no requests, no judgement", fleet.failed(ASK), {**IDLE, OBJECTIVE: 0.95}),
    Case("what the objective leaves may fail", fleet.failed_budget(ASK), {OBJECTIVE: 0.995}, 0.005),
    *judged("few wait", fleet.waiting(ASK), {**QUEUED, **dict.fromkeys(EACH_QUEUE, 2)},
            good=180),
    *judged("too many wait in one cluster", fleet.waiting(ASK),
            {**QUEUED, **dict.fromkeys(EACH_QUEUE, 1.5)}, bad=180),
    *judged("some wait and nothing is healthy", fleet.waiting(ASK), NONE_HEALTHY, bad=7),
    *judged("some wait and there is no limit", fleet.waiting(ASK), QUEUED, unknown=180),
    Case("all that wait", fleet.waiting_total(ASK), QUEUED, 180),
    Case(
        "so many may wait as healthy instances allow",
        fleet.waiting_limit(ASK), {**QUEUED, **dict.fromkeys(EACH_QUEUE, 2)}, 260,
    ),
    Case(
        "errors by type: the higher of replicas, the sum of shards",
        fleet.errors_by_type(ASK),
        {
            f'ollama_fleet_errors_total{{job="x",instance="{instance}",'
            f'shard="{SHARD[instance]}",error_type="{kind}"}}': f"0+{step}x240"
            for instance, kind, step in (
                ("a", "timeout", 15), ("b", "timeout", 30), ("c", "timeout", 15),
                ("c", "out_of_memory", 60),
            )
        },
        {'{error_type="timeout"}': 3, '{error_type="out_of_memory"}': 4},
    ),
    Case(
        "errors by type of two clusters",
        fleet.errors_by_type(ASK),
        {
            f'ollama_fleet_errors_total{{cluster="{cluster}",job="x",instance="{cluster}",'
            f'shard="0",error_type="timeout"}}': "0+15x240"
            for cluster in ("p", "q")
        },
        {'{error_type="timeout"}': 2},
    ),
    Case(
        "alerts that fire, of ours and of one severity",
        fleet.alerts_firing(ASK, "warning"), {**TWO_WARNINGS, **OTHERS}, 2,
    ),
    Case("no alert while the rules are evaluated", fleet.alerts_firing(ASK, "warning"), OTHERS, 0),
    Case("nothing is known without rules", fleet.alerts_firing(ASK, "warning"), {"up": 1}, NOTHING),
    Case(
        "a new critical alert is seen among many old warnings",
        f'{fleet.alerts_since(ASK)} and on (severity) ALERTS{{severity="critical"}}',
        {**SLOW_NODES, **NEW_CRITICAL},
        {'{cluster="a",alertname="OllamaFleetHealthyInstancesLow",severity="critical"}': 3_000_000},
    ),
    Case(
        "of each severity so many are listed as a table can have",
        f"count by (severity) ({fleet.alerts_since(ASK)})", {**SLOW_NODES, **NEW_CRITICAL},
        {'{severity="warning"}': 50, '{severity="critical"}': 1},
    ),
    Case(
        "those that have been active longest are listed",
        f"max({fleet.alerts_since(ASK)})",
        {**SLOW_NODES, **alert("OllamaNodeSlowerThanFleet", "warning", since_s=90)}, 60_000,
    ),
    Case(
        "an alert that is pending or another's is not listed",
        fleet.alerts_since(ASK), {**TWO_WARNINGS, **OTHERS},
        {'{cluster="a",alertname="OllamaX",severity="warning",node="n1"}': 60_000,
         '{cluster="b",alertname="OllamaX",severity="warning",node="n2"}': 60_000,
         '{alertname="OllamaZ",severity="critical"}': 60_000},
    ),
    Case(
        "a mark per alert, not per node",
        fleet.annotated_alerts(ASK, "warning"), TWO_WARNINGS, {'{alertname="OllamaX"}': 2},
    ),
    Case(
        "what started is the nodes' together",
        fleet.started(ASK),
        {'node:ollama_instances_started:count{node="n1"}': 2,
         'node:ollama_instances_started:count{node="n2"}': 3},
        5,
    ),
    Case(
        "more than one in fifty started",
        fleet.many_started(ASK),
        {'node:ollama_instances_started:count{node="n1"}': 3,
         "fleet:ollama_inventory_instances:sum": 149},
        3,
    ),
    Case(
        "no more than one in fifty started",
        fleet.many_started(ASK),
        {'node:ollama_instances_started:count{node="n1"}': 3,
         "fleet:ollama_inventory_instances:sum": 150},
        NOTHING,
    ),
    Case(
        "versions are counted over clusters",
        fleet.versions(ASK),
        {'engine_version:ollama_instances:count{cluster="a",engine="e",version="1"}': 2,
         'engine_version:ollama_instances:count{cluster="b",engine="e",version="1"}': 3},
        {'{engine="e",version="1"}': 5},
    ),
    *(
        case
        for asked, name in ((fleet.overdue(ASK), "overdue"), (fleet.old(ASK), "old"))
        for case in (
            Case(
                f"{name} instances of all clusters", asked,
                {f'fleet:ollama_instances_{name}:count{{cluster="a"}}': 2,
                 f'fleet:ollama_instances_{name}:count{{cluster="b"}}': 3,
                 "fleet:ollama_inventory_instances:sum": 100},
                5,
            ),
            Case(f"none is {name}", asked, {"fleet:ollama_inventory_instances:sum": 100}, 0),
            Case(f"nobody knows what is {name}", asked, {"up": 1}, NOTHING),
        )
    ),
)  # fmt: skip
