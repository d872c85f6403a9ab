"""What the queries of models make of given series."""

from __future__ import annotations

from collections.abc import Iterable

from dashboards.queries import models
from tests.dashboards.values.case import ASK, NOTHING, Case, Series
from tests.dashboards.values.fleet_cases import SHARD

BY_STATUS: Series = {
    'model:ollama_instances:sum{cluster="a",model="m",status="healthy"}': 70,
    'model:ollama_instances:sum{cluster="b",model="m",status="healthy"}': 10,
    'model:ollama_instances:sum{cluster="a",model="n",status="loading"}': 20,
}
A, B, C = (f'job="x",instance="{instance}",shard="{SHARD[instance]}"' for instance in "abc")


def exporters(*told: tuple[str, str, str, float | str]) -> Series:
    """Return what exporters count, by (exporter, model, status, instances)."""
    return {
        f'ollama_model_instances{{{exporter},model="{model}",status="{status}"}}': count
        for exporter, model, status, count in told
    }


INSTANCES: Series = exporters(
    (f'cluster="a",{A}', "m", "healthy", 50), (f'cluster="b",{B}', "m", "healthy", 10),
    (f'cluster="a",{A}', "m", "loading", 20), (f'cluster="a",{A}', "n", "healthy", 20),
    (f'cluster="a",{A}', "gone", "healthy", 0),
)  # fmt: skip
CUT_OFF: Series = exporters(
    (A, "m", "healthy", 100), (B, "m", "healthy", 0), (B, "m", "unreachable", 100),
    (C, "m", "healthy", 50), (C, "m", "unreachable", 50), (C, "n", "healthy", 100),
)  # fmt: skip
"""Two replicas of a shard, of which the second reaches nothing; and another shard."""
NOT_SCRAPED = "x237 stale"
"""The last scrapes failed."""
FAILED_SCRAPE: Series = exporters(
    (A, "m", "healthy", 100),
    (C, "m", "healthy", f"50{NOT_SCRAPED}"),
    (C, "m", "unreachable", f"50{NOT_SCRAPED}"),
)
RECOVERED: Series = exporters(
    (A, "m", "healthy", "20x238 100x2"), (A, "m", "unreachable", "80x238 stale"),
)  # fmt: skip
"""For no more than one scrape nothing has been unreachable."""
SPEED: Series = {
    'model:ollama_tokens_per_second:sum{cluster="a",model="m"}': 3000,
    'model:ollama_tokens_per_second:sum{cluster="b",model="m"}': 600,
    'model:ollama_tokens_per_second:sum{cluster="a",model="n"}': 0,
}
MEASURED: Series = {
    f'ollama_fleet_measured_instances{{{A},model="m"}}': 30,
    f'ollama_fleet_measured_instances{{{B},model="m"}}': 40,
    f'ollama_fleet_measured_instances{{{C},model="m"}}': 20,
    f'ollama_fleet_measured_instances{{{C},model="n"}}': 0,
}
ONLY_N = {"model": "n"}


def counters(name: str, steps: Iterable[tuple[str, str, int]]) -> Series:
    """Return counters by (exporter, further labels, step per 15 seconds)."""
    return {
        f'{name}{{job="x",instance="{exporter}",shard="{SHARD[exporter]}",{labels}}}': f"0+{n}x240"
        for exporter, labels, n in steps
    }


STEPS = (
    ("a", 'model="m",le="1"', 15), ("a", 'model="m",le="2"', 30), ("a", 'model="m",le="+Inf"', 30),
    ("c", 'model="m",le="1"', 0), ("c", 'model="m",le="2"', 30), ("c", 'model="m",le="+Inf"', 30),
)  # fmt: skip
"""A quarter up to 1 s, all up to 2 s: 99 in 100 up to 1 + 74/75 s."""
BUCKET = "ollama_fleet_request_duration_seconds_bucket"
BUCKETS = counters(BUCKET, STEPS)
IN_TWO_CLUSTERS = {
    **counters(BUCKET, [(a, f'cluster="p",{labels}', n) for a, labels, n in STEPS[:3]]),
    **counters(BUCKET, [(c, f'cluster="q",{labels}', n) for c, labels, n in STEPS[3:]]),
}


def spread(name: str) -> Series:
    """Return quantiles of two clusters, the second of which has half the value."""
    return {
        f'{name}{{cluster="{cluster}",model="m",quantile="{quantile}"}}': float(quantile) / divisor
        for cluster, divisor in (("a", 1), ("b", 2))
        for quantile in ("0.01", "0.1", "0.5", "0.9", "0.99")
    }


LATENCY_SPREAD = spread("model:ollama_instance_request_latency_p99_seconds:quantile")
SPEED_SPREAD = spread("model:ollama_instance_tokens_per_second:quantile")

CASES = (
    Case(
        "instances of a model, whatever their status",
        models.instances(ASK), INSTANCES,
        {'{model="m"}': 80, '{model="n"}': 20, '{model="gone"}': 0},
    ),
    Case("the chosen model alone", models.instances(ASK), INSTANCES, {'{model="n"}': 20}, ONLY_N),
    Case(
        "healthy instances of a model",
        models.healthy(ASK), INSTANCES, {'{model="m"}': 60, '{model="n"}': 20, '{model="gone"}': 0},
    ),
    Case(
        "the share of a model that is healthy",
        f"{models.healthy_ratio(ASK)} >= 0", INSTANCES, {'{model="m"}': 0.75, '{model="n"}': 1},
    ),
    Case(
        "the share of the fleet, of which other models are part",
        models.share(ASK), INSTANCES, {'{model="n"}': 0.2}, ONLY_N,
    ),
    Case(
        "the chosen models by status",
        models.by_status(ASK), BY_STATUS, {'{status="healthy"}': 80, '{status="loading"}': 20},
    ),
    Case(
        "instances that replicas see in different states count once",
        models.instances(ASK), CUT_OFF, {'{model="m"}': 200, '{model="n"}': 100},
    ),
    Case(
        "healthy is what one of the replicas finds healthy",
        models.healthy(ASK), CUT_OFF, {'{model="m"}': 150, '{model="n"}': 100},
    ),
    Case(
        "the healthy share while replicas disagree",
        models.healthy_ratio(ASK), CUT_OFF, {'{model="m"}': 0.75, '{model="n"}': 1},
    ),
    Case(
        "the healthy share over time while replicas disagree",
        models.healthy_over_time(ASK), CUT_OFF, {'{model="m"}': 0.75, '{model="n"}': 1},
    ),
    Case(
        "the share of the fleet while replicas disagree",
        models.share(ASK), CUT_OFF, {'{model="m"}': 0.6667, '{model="n"}': 0.3333},
    ),
    Case(
        "a shard whose scrape failed is not missing", models.instances(ASK), FAILED_SCRAPE,
        {'{model="m"}': 200},
    ),
    Case(
        "a scrape that failed changes no share", models.healthy_ratio(ASK), FAILED_SCRAPE,
        {'{model="m"}': 0.75},
    ),
    Case(
        "what has changed its status counts once", models.instances(ASK), RECOVERED,
        {'{model="m"}': 100},
    ),
    Case(
        "what has recovered is healthy", models.healthy_ratio(ASK), RECOVERED, {'{model="m"}': 1},
    ),
    Case(
        "a model without instances has no healthy share",
        models.healthy_over_time(ASK), INSTANCES, {'{model="m"}': 0.75, '{model="n"}': 1},
    ),
    Case("speed of a model", models.speed(ASK), SPEED, {'{model="m"}': 3600, '{model="n"}': 0}),
    Case(
        "speed per measured instance: the higher of replicas, the sum of shards",
        models.speed_each(ASK), {**SPEED, **MEASURED}, {'{model="m"}': 60},
    ),
    Case(
        "tokens of a model",
        models.generated(ASK),
        counters(
            "ollama_fleet_generated_tokens_total",
            (("a", 'model="m"', 30), ("b", 'model="m"', 15), ("c", 'model="m"', 15)),
        ),
        {'{model="m"}': 3},
    ),
    Case("p99 of a model's requests", models.latency_p99(ASK), BUCKETS, {'{model="m"}': 1.9867}),
    Case(
        "p99 of requests in two clusters",
        models.latency_p99(ASK), IN_TWO_CLUSTERS, {'{model="m"}': 1.9867},
    ),
    Case(
        "requests of a model",
        models.requests(ASK),
        counters(
            "ollama_fleet_request_duration_seconds_count",
            (("a", 'model="m"', 30), ("b", 'model="m"', 15), ("c", 'model="m"', 15)),
        ),
        {'{model="m"}': 3},
    ),
    Case(
        "errors of a model",
        models.errors(ASK),
        {'model:ollama_errors:rate5m{cluster="a",model="m"}': 2,
         'model:ollama_errors:rate5m{cluster="b",model="m"}': 3},
        {'{model="m"}': 5},
    ),
    Case(
        "the p99 of requests where there is one",
        models.latency_p99_known(ASK), {**BUCKETS, **LATENCY_SPREAD}, {'{model="m"}': 1.9867},
    ),
    Case(
        "without a histogram the p99 that 99 in 100 instances keep",
        models.latency_p99_known(ASK), LATENCY_SPREAD, {'{model="m"}': 0.99},
    ),
    Case("no p99 is known", models.latency_p99_known(ASK), {"up": 1}, NOTHING),
    Case(
        "a quantile of latency, of the worse cluster",
        models.latency_spread(ASK, "0.9"), LATENCY_SPREAD, {'{model="m"}': 0.9},
    ),
    Case(
        "a quantile of speed, of the worse cluster",
        models.speed_spread(ASK, "0.1"), SPEED_SPREAD, {'{model="m"}': 0.05},
    ),
)  # fmt: skip
