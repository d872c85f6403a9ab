"""What the overview's queries make of given series."""

from __future__ import annotations

from dashboards.queries import fleet
from exporter import catalogue
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
    'fleet:ollama_request_latency_seconds:p99{cluster="a",source="canaries"}': 0.2,
    'fleet:ollama_request_latency_seconds:p99{cluster="b",source="requests"}': 0.3,
}


def of_both(name: str, value: float) -> Series:
    """Return a recorded series of clusters a and b."""
    return {f'{name}{{cluster="{cluster}"}}': value for cluster in "ab"}


def of_source(name: str, a: float, b: float) -> Series:
    """Return a recorded series of clusters a and b by what it is of."""
    return {f'{name}{{cluster="{each}",source="requests"}}': value
            for each, value in (("a", a), ("b", b))}  # fmt: skip


LIMIT = of_both("fleet:ollama_request_latency_seconds:threshold", 0.5)
ERRORS: Series = {
    'fleet:ollama_request_errors_per_requests:ratio_rate5m{cluster="a"}': 0.01,
    'fleet:ollama_request_errors_per_requests:ratio_rate5m{cluster="b"}': 0.1,
}
OBJECTIVE = "fleet:ollama_request_success_ratio:threshold"
QUEUED: Series = {
    'fleet:ollama_requests_queued:sum{cluster="a"}': 100,
    'fleet:ollama_requests_queued:sum{cluster="b"}': 80,
    'fleet:ollama_instances:sum{cluster="a",status="healthy"}': 90,
    'fleet:ollama_instances:sum{cluster="b",status="healthy"}': 40,
}
PER_INSTANCE = "fleet:ollama_requests_queued_per_instance:threshold"
TWO_EACH = {**QUEUED, **of_both(PER_INSTANCE, 2)}
NONE_HEALTHY: Series = {
    "fleet:ollama_requests_queued:sum": 7,
    'fleet:ollama_instances:sum{status="healthy"}': 0,
    PER_INSTANCE: 4,
}


def told(name: str, *values: tuple[str, str, int], labels: str = "", cluster: str = "") -> Series:
    """Return what exporters count, by (exporter, further labels, step per 15 seconds).

    Exporters a and b are replicas of shard 0, c is shard 1.
    """
    of = {"a": "0", "b": "0", "c": "1"}
    fleet = f'cluster="{cluster}",' if cluster else ""
    return {
        f'{name}{{{fleet}job="x",instance="{one}",shard="{of[one]}",{labels}{more}}}': f"0+{n}x240"
        for one, more, n in values
    }


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


CONDITIONS: Series = {
    f'ollama_fleet_instance_conditions{{job="x",instance="{one}",shard="{shard}",'
    f'condition="{condition}"}}': count
    for one, shard, condition, count in (
        ("a", 0, "stalled", 3), ("b", 0, "stalled", 2), ("c", 1, "stalled", 2),
        ("a", 0, "on_cpu", 0),
    )
}  # fmt: skip


BOUNDS: Series = {
    f'ollama_fleet_request_latency_p99_bound_seconds{{cluster="{cluster}",job="x",'
    f'instance="{cluster}{shard}",shard="{shard}",bound="{bound}"}}': value
    for cluster, shard, bound, value in (
        ("p", 0, "lower", 0.1), ("p", 1, "lower", 0.2), ("q", 0, "lower", 0.3),
        ("p", 0, "upper", 0.9), ("p", 1, "upper", 0.8), ("q", 0, "upper", 0.5),
    )
}  # fmt: skip


def buckets(name: str, labels: str = 'model="m",') -> Series:
    """Return a histogram of two shards: half up to 1 s, all up to 2 s."""
    return told(
        f"{name}_bucket",
        *((one, f'le="{le}"', step) for one in "ac" for le, step in STEPS),
        labels=labels,
    )


STEPS = (("1", 15), ("2", 30), ("+Inf", 30))

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
        bad=130, unknown=130,
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
        {**LATENCY, **of_both("fleet:ollama_request_latency_seconds:threshold", 0.25)}, bad=0.3,
    ),
    *judged("latency without a limit", fleet.latency(ASK), LATENCY, unknown=0.3),
    *(
        Case(f"the p99 of {what} is the worst of the clusters'", asked,
             {f'fleet:ollama_{what}:p99{{cluster="{cluster}"}}': value
              for cluster, value in (("a", 0.2), ("b", 0.3))}, 0.3)
        for what, asked in (
            ("request_duration_seconds", fleet.requests_p99(ASK)),
            ("canary_duration_seconds", fleet.canary_p99(ASK)),
        )
    ),
    *(
        Case(f"the {bound} bound of the p99: of shards the widest, of clusters the worst",
             fleet.p99_bound(ASK, bound), BOUNDS, value)
        for bound, value in (("lower", 0.3), ("upper", 0.9))
    ),
    Case("the limit of the p99", fleet.latency_limit(ASK), {**LATENCY, **LIMIT}, 0.5),
    Case("the limit of what nobody knows is not drawn", fleet.latency_limit(ASK), LIMIT, NOTHING),
    Case(
        "the limit of the chosen cluster",
        fleet.latency_limit(ASK), {**LATENCY, **LIMIT}, 0.5, {"cluster": "b"},
    ),
    Case(
        "conditions: of replicas the higher count, the sum of shards",
        fleet.conditions(ASK), CONDITIONS, {'{condition="stalled"}': 5, '{condition="on_cpu"}': 0},
    ),
    Case(
        "half of the first tokens came within a second: 99 in 100 within two",
        fleet.reported_p99(ASK, catalogue.FLEET_TIME_TO_FIRST_TOKEN),
        buckets("ollama_fleet_time_to_first_token_seconds"), 1.98,
    ),
    Case(
        "99 in 100 canaries of the last minutes waited less",
        fleet.canaries_p99(ASK, catalogue.FLEET_CANARY_WAITING),
        buckets("ollama_fleet_canary_waiting_seconds"), 1.98,
    ),
    Case(
        "canaries by outcome: the higher of replicas, the sum of shards",
        fleet.canary_results(ASK),
        told("ollama_fleet_canary_results_total", ("a", 'outcome="ok"', 15),
             ("b", 'outcome="ok"', 30), ("c", 'outcome="ok"', 15), ("c", 'outcome="stalled"', 1)),
        {'{outcome="ok"}': 2700, '{outcome="stalled"}': 60},
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
        told("ollama_fleet_request_duration_seconds_bucket", ("a", 'le="0.1"', 15),
             ("b", 'le="0.1"', 30), ("c", 'le="0.1"', 15), ("a", 'le="+Inf"', 60),
             labels='model="m",'),
        {'{le="0.1"}': 3, '{le="+Inf"}': 4},
    ),
    Case(
        "traffic beside the last weeks, of the cluster that lost most",
        fleet.usual_traffic(ASK),
        {**of_source("fleet:ollama_traffic:rate1h", 8, 3),
         **of_source("fleet:ollama_traffic:baseline", 10, 10)},
        {'{source="requests"}': 0.3},
    ),
    Case(
        "latency beside the last weeks, of the cluster where it rose most",
        fleet.usual_latency(ASK),
        {**of_source("fleet:ollama_request_latency_seconds:p99_avg1h", 0.1, 0.2),
         **of_source("fleet:ollama_request_latency_seconds:baseline", 0.1, 0.1)},
        {'{source="requests"}': 2},
    ),
    Case("no traffic before, nothing to compare", fleet.usual_traffic(ASK),
         {**of_source("fleet:ollama_traffic:rate1h", 8, 3),
          **of_source("fleet:ollama_traffic:baseline", 0, 0)}, NOTHING),
    Case("the share that fails is the worst cluster's", fleet.failed_ratio(ASK), ERRORS, 0.1),
    Case("without requests no share fails", fleet.failed_ratio(ASK), {"up": 1}, NOTHING),
    *judged("failures within the objective", fleet.failed(ASK),
            {**ERRORS, **of_both(OBJECTIVE, 0.875)}, good=0.1),
    *judged("too many failures in the small cluster", fleet.failed(ASK),
            {**ERRORS, **of_both(OBJECTIVE, 0.95)}, bad=0.1),
    *judged("failures without an objective", fleet.failed(ASK), ERRORS, unknown=0.1),
    *judged("no requests, no judgement", fleet.failed(ASK), of_both(OBJECTIVE, 0.95)),
    Case("what the objective leaves may fail", fleet.failed_budget(ASK),
         {**ERRORS, **of_both(OBJECTIVE, 0.995)}, 0.005),
    *judged("few wait", fleet.waiting(ASK), TWO_EACH, good=180),
    *judged("too many wait in one cluster", fleet.waiting(ASK),
            {**QUEUED, **of_both(PER_INSTANCE, 1.5)}, bad=180),
    *judged("some wait and nothing is healthy", fleet.waiting(ASK), NONE_HEALTHY, bad=7),
    *judged("some wait and there is no limit", fleet.waiting(ASK), QUEUED, unknown=180),
    Case("all that wait", fleet.waiting_total(ASK), QUEUED, 180),
    Case(
        "so many may wait as healthy instances allow",
        fleet.waiting_limit(ASK), TWO_EACH, 260,
    ),
    Case(
        "errors by type: the higher of replicas, the sum of shards",
        fleet.errors_by_type(ASK),
        told("ollama_fleet_errors_total", ("a", 'error_type="timeout"', 15),
             ("b", 'error_type="timeout"', 30), ("c", 'error_type="timeout"', 15),
             ("c", 'error_type="out_of_memory"', 60)),
        {'{error_type="timeout"}': 3, '{error_type="out_of_memory"}': 4},
    ),
    Case(
        "errors by type of two clusters, each with a shard 0",
        fleet.errors_by_type(ASK),
        {**told("ollama_fleet_errors_total", ("a", 'error_type="timeout"', 15), cluster="p"),
         **told("ollama_fleet_errors_total", ("a", 'error_type="timeout"', 15), cluster="q")},
        {'{error_type="timeout"}': 2},
    ),
    Case(
        "an exporter of another job counts for nothing",
        fleet.errors_by_type(ASK),
        {'ollama_fleet_errors_total{job="other",instance="a",shard="0",error_type="timeout"}':
         "0+15x240"},
        NOTHING,
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
        "restarts that exporters saw in five minutes", fleet.restarts(ASK),
        {'ollama_fleet_restarts_total{job="x",instance="a",shard="0"}': "_x200 0x20 4x20",
         'ollama_fleet_restarts_total{job="x",instance="b",shard="0"}': "_x200 0x20 3x20"},
        4,
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
