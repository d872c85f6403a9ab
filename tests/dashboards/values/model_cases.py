"""What the queries of models make of given series."""

from __future__ import annotations

from dashboards.queries import models
from exporter import catalogue
from tests.dashboards.values.case import ASK, NOTHING, Case, Series
from tests.dashboards.values.fleet_cases import buckets, told

BY_STATUS: Series = {
    'model:ollama_instances:sum{cluster="a",model="m",status="healthy"}': 50,
    'model:ollama_instances:sum{cluster="b",model="m",status="healthy"}': 10,
    'model:ollama_instances:sum{cluster="a",model="m",status="loading"}': 20,
    'model:ollama_instances:sum{cluster="a",model="n",status="healthy"}': 20,
    'model:ollama_instances:sum{cluster="a",model="gone",status="healthy"}': 0,
}
INSTANCES: Series = {
    **BY_STATUS,
    'model:ollama_inventory_instances:sum{cluster="a",model="m"}': 70,
    'model:ollama_inventory_instances:sum{cluster="b",model="m"}': 10,
    'model:ollama_inventory_instances:sum{cluster="a",model="n"}': 20,
    'model:ollama_inventory_instances:sum{cluster="a",model="gone"}': 0,
}
SPEED: Series = {
    'model:ollama_tokens_per_second:sum{cluster="a",model="m"}': 3000,
    'model:ollama_tokens_per_second:sum{cluster="b",model="m"}': 600,
    'model:ollama_tokens_per_second:sum{cluster="a",model="n"}': 0,
}
ONLY_N = {"model": "n"}


def gauges(name: str, *values: tuple[str, str, int]) -> Series:
    """Return what exporters say, by (exporter, model, value): a and b are replicas, c a shard."""
    of = {"a": "0", "b": "0", "c": "1"}
    return {
        f'{name}{{job="x",instance="{one}",shard="{of[one]}",model="{model}"}}': value
        for one, model, value in values
    }


MEASURED = gauges(
    "ollama_fleet_measured_instances", ("a", "m", 30), ("b", "m", 40), ("c", "m", 20), ("c", "n", 0)
)
MEMORY: Series = {
    **gauges("ollama_model_loaded_bytes", ("a", "m", 30), ("b", "m", 30), ("c", "n", 20)),
    **gauges("ollama_model_vram_bytes", ("a", "m", 10), ("b", "m", 10), ("c", "n", 20)),
}
BUCKETS = buckets("ollama_fleet_request_duration_seconds")


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
        "the share that is healthy, of a model that has instances",
        models.healthy_ratio(ASK), INSTANCES, {'{model="m"}': 0.75, '{model="n"}': 1},
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
        "of replicas the higher count, the sum of shards, by model",
        models.now(ASK, catalogue.FLEET_MEASURED_INSTANCES), MEASURED,
        {'{model="m"}': 60, '{model="n"}': 0},
    ),
    Case(
        "memory of all models", models.total(ASK, catalogue.MODEL_LOADED_BYTES), MEMORY, 50,
    ),
    Case("memory of them that is on no GPU", models.off_gpu_bytes(ASK), MEMORY, 20),
    Case(
        "loads within the last hour",
        models.last_hour(ASK, catalogue.FLEET_MODEL_LOADS),
        told("ollama_fleet_model_loads_total", ("a", 'model="m"', 1), ("b", 'model="m"', 1),
             ("c", 'model="m"', 2)),
        {'{model="m"}': 720},
    ),
    Case("speed of a model", models.speed(ASK), SPEED, {'{model="m"}': 3600, '{model="n"}': 0}),
    Case(
        "speed per measured instance",
        models.speed_each(ASK), {**SPEED, **MEASURED}, {'{model="m"}': 60},
    ),
    Case(
        "tokens of a model",
        models.generated(ASK),
        told("ollama_fleet_generated_tokens_total",
             ("a", 'model="m"', 30), ("b", 'model="m"', 15), ("c", 'model="m"', 15)),
        {'{model="m"}': 3},
    ),
    Case("p99 of a model's requests", models.latency_p99(ASK), BUCKETS, {'{model="m"}': 1.98}),
    Case(
        "p99 of requests in the worse of two clusters", models.latency_p99(ASK),
        {**buckets("ollama_fleet_request_duration_seconds", 'model="m",cluster="p",'),
         'ollama_fleet_request_duration_seconds_bucket{cluster="q",job="x",instance="a",shard="0",'
         'model="m",le="0.5"}': "0+15x240",
         'ollama_fleet_request_duration_seconds_bucket{cluster="q",job="x",instance="a",shard="0",'
         'model="m",le="+Inf"}': "0+15x240"},
        {'{model="m"}': 1.98},
    ),
    Case(
        "the median of what its servers report",
        models.reported_quantile(ASK, catalogue.FLEET_QUEUE_TIME, "0.5"),
        buckets("ollama_fleet_queue_time_seconds"), {'{model="m"}': 1},
    ),
    Case(
        "p99 of a model's canaries", models.canary_p99(ASK, catalogue.FLEET_CANARY_LOAD),
        buckets("ollama_fleet_canary_load_seconds"), {'{model="m"}': 1.98},
    ),
    Case(
        "requests of a model",
        models.requests(ASK),
        told("ollama_fleet_request_duration_seconds_count",
             ("a", 'model="m"', 30), ("b", 'model="m"', 15), ("c", 'model="m"', 15)),
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
        "the share of a model's requests that fails, in the worse cluster",
        models.failed_share(ASK),
        {'model:ollama_request_errors_per_requests:ratio{cluster="a",model="m"}': 0.1,
         'model:ollama_request_errors_per_requests:ratio{cluster="b",model="m"}': 0.3},
        {'{model="m"}': 0.3},
    ),
    Case(
        "the p99 of requests where there is one",
        models.latency_p99_known(ASK), {**BUCKETS, **LATENCY_SPREAD}, {'{model="m"}': 1.98},
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
    Case(
        "how full caches are, in the worse cluster", models.kv_cache_spread(ASK, "0.9"),
        spread("model:ollama_instance_kv_cache_usage_ratio:quantile"), {'{model="m"}': 0.9},
    ),
)  # fmt: skip
