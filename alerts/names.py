"""Names of the series that our recording rules make, `level:metric:operations`.

The catalogue spells what the exporter publishes; this spells what the rules make of it. Rules and
whoever reads them share these names.
"""

from __future__ import annotations

INSTANCES = "fleet:ollama_instances:sum"
"""By status."""
INVENTORY = "fleet:ollama_inventory_instances:sum"
STUCK = "fleet:ollama_instances_provisioning:stuck"
"""Provisioned for longer than `windows.provisioning`."""
DRAINED = "fleet:ollama_instances_drained:delta"
"""That left the inventory since the evaluation before and had been draining."""
EXPECTED = "fleet:ollama_instances_expected:sum"
"""That should serve: the inventory, less what is drained or provisioned on purpose."""
HEALTHY_RATIO = "fleet:ollama_instances_healthy_per_expected:ratio"
MODEL_INSTANCES = "model:ollama_instances:sum"
"""By model and status."""
MODEL_INVENTORY = "model:ollama_inventory_instances:sum"
"""By model, whatever their status: where replicas disagree, MODEL_INSTANCES adds up to more."""

REQUESTS_P99 = "fleet:ollama_request_duration_seconds:p99"
"""Of the merged histogram; absent where too few requests fill it, like CANARIES_P99."""
CANARIES_P99 = "fleet:ollama_canary_duration_seconds:p99"
LATENCY_P99 = "fleet:ollama_request_latency_seconds:p99"
"""By `source`: of requests, else of canaries, else what instances report."""
MODEL_SPEED = "model:ollama_tokens_per_second:sum"
SPEED = "fleet:ollama_tokens_per_second:sum"
MEASURED = "fleet:ollama_measured_instances:sum"
CAPACITY = "fleet:ollama_tokens_per_second:estimate"
"""SPEED, extrapolated to the healthy instances whose speed is not known."""
GENERATED = "fleet:ollama_generated_tokens:rate"

REQUESTS = "fleet:ollama_requests:rate5m"
REQUEST_ERRORS = "fleet:ollama_request_errors:rate5m"
REQUEST_ERROR_RATIO = "fleet:ollama_request_errors_per_requests:ratio_rate5m"
"""Absent below `thresholds.min_requests`."""

QUEUED = "fleet:ollama_requests_queued:sum"

CONDITIONS = "fleet:ollama_instance_conditions:sum"
"""By condition."""
NOT_LOADED = "fleet:ollama_instances_not_loaded:sum"
"""Without the model that the inventory lists, less those that may have unloaded it when idle."""
EXPIRING = "fleet:ollama_model_expiring_instances:sum"
"""With a model in memory that the server unloads when idle; those with two count twice."""
LOADED = "model:ollama_model_loaded_instances:sum"
"""By model, like ON_CPU."""
ON_CPU = "model:ollama_model_on_cpu_instances:sum"
UNLOADS = "fleet:ollama_model_unloads:increase"
"""Within `windows.changes`."""

OVERDUE = "fleet:ollama_instances_overdue:count"
"""Older than `thresholds.rotation_age`; absent where none is."""
OLD = "fleet:ollama_instances_old:count"
"""Older than `thresholds.rotation_critical_age`; absent where none is."""
VERSIONS = "engine_version:ollama_instances:count"

NODE_INSTANCES = "node:ollama_instances:sum"
"""By node and status."""
NODE_EXPECTED = "node:ollama_instances_expected:sum"
"""By node, like EXPECTED: where replicas disagree, NODE_INSTANCES adds up to more."""
NODE_SPEED = "node_model_engine:ollama_tokens_per_second:avg"
"""Per instance."""
NODE_SPEED_RATIO = "node_model_engine:ollama_tokens_per_second_per_peers:ratio"

READY_RATIO = "fleet:ollama_provisioner_ready_instances_per_wanted:ratio"
"""As the leading provisioner counts; absent where none leads, or nothing is wanted."""

# For dashboards, which could not ask 10,000 series for each point of a chart

LATENCY_SPREAD = "fleet:ollama_instance_request_latency_p99_seconds:quantile"
"""By `quantile`, over instances, of the p99 that each reports."""
MODEL_LATENCY_SPREAD = "model:ollama_instance_request_latency_p99_seconds:quantile"
"""By model and `quantile`."""
MODEL_SPEED_SPREAD = "model:ollama_instance_tokens_per_second:quantile"
"""By model and `quantile`."""
MODEL_KV_CACHE_SPREAD = "model:ollama_instance_kv_cache_usage_ratio:quantile"
"""By model and `quantile`."""
NODE_ERRORS = "node:ollama_errors:rate5m"
"""By node."""
MODEL_ERRORS = "model:ollama_errors:rate5m"
"""By model."""
NODE_STARTED = "node:ollama_instances_started:count"
"""By node: instances that started in the last five minutes; absent where none did."""
