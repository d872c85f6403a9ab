"""Spell every series that ollama-fleet publishes: name, kind, labels, meaning.

This is the only place that spells them. Exposition, alerts and dashboards read it; it imports the
standard library only and reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The metric types of the Prometheus exposition formats."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: a counter's name carries its `_total`, as in queries."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Return the name as OpenMetrics' metadata lines write it: a counter without `_total`."""
        return self.name.removesuffix("_total") if self.kind is Kind.COUNTER else self.name


INSTANCE = ("instance_id", "node", "model")

BOUNDARIES_S = (
    0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""Upper bounds of the request duration histogram, in seconds; +Inf follows.

The alert threshold of 0.15 s must be a boundary: between boundaries a quantile is only a guess."""

# The fleet as a whole

FLEET_INSTANCES = Series(
    "ollama_fleet_instances",
    Kind.GAUGE,
    "Instances by status; every status is always present. healthy: answered its health check. "
    "unhealthy: connected, but gave no good answer. unreachable: no connection could be made. "
    "loading: up, and loading its model. provisioning, draining: as the inventory says. "
    "unknown: not polled yet, or not for want of open files here.",
    ("status",),
)
FLEET_INVENTORY_INSTANCES = Series(
    "ollama_fleet_inventory_instances",
    Kind.GAUGE,
    "Instances that the inventory lists, whatever their state.",
)
FLEET_TOKENS_PER_SECOND = Series(
    "ollama_fleet_tokens_per_second",
    Kind.GAUGE,
    "Sum over healthy instances of the speed at which each generates while it generates, in tokens "
    "per second: what the fleet can do, not what is asked of it.",
    ("model",),
)
FLEET_MEASURED_INSTANCES = Series(
    "ollama_fleet_measured_instances",
    Kind.GAUGE,
    "Healthy instances whose speed is known: those that ollama_fleet_tokens_per_second sums up. "
    "0 where of a model none is.",
    ("model",),
)
FLEET_REQUEST_LATENCY_P99 = Series(
    "ollama_fleet_request_latency_p99_seconds",
    Kind.GAUGE,
    "99th percentile over healthy instances of the p99 request latency that each reports. Where "
    "ollama_fleet_request_duration_seconds has data, its quantile is the exact one: prefer it.",
)
FLEET_GENERATED_TOKENS = Series(
    "ollama_fleet_generated_tokens_total",
    Kind.COUNTER,
    "Tokens that instances generated while this exporter watched them; a restart of an instance "
    "does not set it back.",
    ("model",),
)
FLEET_ERRORS = Series(
    "ollama_fleet_errors_total",
    Kind.COUNTER,
    "Failed requests that instances reported while this exporter watched them.",
    ("error_type",),
)
FLEET_REQUEST_DURATION = Series(
    "ollama_fleet_request_duration_seconds",
    Kind.HISTOGRAM,
    "Duration of requests, merged from the instances that report a histogram with our boundaries.",
    ("model",),
)
FLEET_REQUESTS = Series(
    "ollama_fleet_requests_total",
    Kind.COUNTER,
    "Requests that ended, failed ones included, of the instances that report a histogram of "
    "their durations: what ollama_fleet_request_duration_seconds counts, over all models.",
)
FLEET_REQUEST_ERRORS = Series(
    "ollama_fleet_request_errors_total",
    Kind.COUNTER,
    "Failed requests among ollama_fleet_requests_total, so that errors by requests is a ratio, "
    "0 to 1. ollama_fleet_errors_total also has those of instances that do not count requests.",
)

# Per model

MODEL_INSTANCES = Series(
    "ollama_model_instances",
    Kind.GAUGE,
    "Instances of a model by status; healthy is always present, other statuses where there are "
    "any. model: as on the instance's own series, empty where it was never told.",
    ("model", "status"),
)

# Per node

NODE_INSTANCES = Series(
    "ollama_node_instances",
    Kind.GAUGE,
    "Instances of a node by status; healthy is always present, other statuses where there are any.",
    ("node", "status"),
)
NODE_TOKENS_PER_SECOND = Series(
    "ollama_node_tokens_per_second",
    Kind.GAUGE,
    "Sum over a node's healthy instances of their speed while generating, in tokens per second.",
    ("node", "model"),
)
NODE_ERRORS = Series(
    "ollama_node_errors_total",
    Kind.COUNTER,
    "Failed requests that a node's instances reported while this exporter watched them.",
    ("node", "error_type"),
)

# Per instance

INSTANCE_UP = Series(
    "ollama_instance_up",
    Kind.GAUGE,
    "1 when the last poll found the instance healthy, otherwise 0. Polled in the background, "
    "not at the scrape.",
    INSTANCE,
)
INSTANCE_TOKENS_PER_SECOND = Series(
    "ollama_instance_tokens_per_second",
    Kind.GAUGE,
    "Speed of a healthy instance while it generates, in tokens per second: as reported, or from "
    "its counters. Kept while it is idle, absent after an hour without news.",
    INSTANCE,
)
INSTANCE_LATENCY_P99 = Series(
    "ollama_instance_request_latency_p99_seconds",
    Kind.GAUGE,
    "99th percentile of request latency as the instance itself reports it.",
    INSTANCE,
)
INSTANCE_REQUESTS_RUNNING = Series(
    "ollama_instance_requests_running",
    Kind.GAUGE,
    "Requests that the instance is working on.",
    INSTANCE,
)
INSTANCE_REQUESTS_QUEUED = Series(
    "ollama_instance_requests_queued",
    Kind.GAUGE,
    "Requests that wait inside the instance.",
    INSTANCE,
)
INSTANCE_START_TIME = Series(
    "ollama_instance_start_time_seconds",
    Kind.GAUGE,
    "When the instance started, in seconds since 1970 UTC, as it reports.",
    INSTANCE,
)
INSTANCE_POLL_DURATION = Series(
    "ollama_instance_poll_duration_seconds",
    Kind.GAUGE,
    "Duration of the last poll of the instance, connecting included.",
    INSTANCE,
)
INSTANCE_GENERATED_TOKENS = Series(
    "ollama_instance_generated_tokens_total",
    Kind.COUNTER,
    "Tokens that the instance generated; a restart of the instance does not set it back.",
    INSTANCE,
)
INSTANCE_PROMPT_TOKENS = Series(
    "ollama_instance_prompt_tokens_total",
    Kind.COUNTER,
    "Prompt tokens that the instance read; a restart of the instance does not set it back.",
    INSTANCE,
)
INSTANCE_ERRORS = Series(
    "ollama_instance_errors_total",
    Kind.COUNTER,
    "Failed requests that the instance reported; a restart of the instance does not set it back.",
    (*INSTANCE, "error_type"),
)
INSTANCE_INFO = Series(
    "ollama_instance_info",
    Kind.GAUGE,
    "Always 1; what is known of the instance is in the labels, to join with.",
    (*INSTANCE, "engine", "version", "developer"),
)

FLEET_SERIES = (
    FLEET_INSTANCES,
    FLEET_INVENTORY_INSTANCES,
    FLEET_TOKENS_PER_SECOND,
    FLEET_MEASURED_INSTANCES,
    FLEET_REQUEST_LATENCY_P99,
    FLEET_GENERATED_TOKENS,
    FLEET_ERRORS,
    FLEET_REQUEST_DURATION,
    FLEET_REQUESTS,
    FLEET_REQUEST_ERRORS,
    MODEL_INSTANCES,
    NODE_INSTANCES,
    NODE_TOKENS_PER_SECOND,
    NODE_ERRORS,
)
INSTANCE_SERIES = (
    INSTANCE_UP,
    INSTANCE_TOKENS_PER_SECOND,
    INSTANCE_LATENCY_P99,
    INSTANCE_REQUESTS_RUNNING,
    INSTANCE_REQUESTS_QUEUED,
    INSTANCE_START_TIME,
    INSTANCE_POLL_DURATION,
    INSTANCE_GENERATED_TOKENS,
    INSTANCE_PROMPT_TOKENS,
    INSTANCE_ERRORS,
    INSTANCE_INFO,
)

# The exporter's own

EXPORTER_BUILD_INFO = Series(
    "ollama_exporter_build_info",
    Kind.GAUGE,
    "Always 1; the exporter's version and its Python are in the labels.",
    ("version", "python"),
)
EXPORTER_SHARD_INFO = Series(
    "ollama_exporter_shard_info",
    Kind.GAUGE,
    "Always 1; which part of the fleet this exporter polls is in the label, counted from 0. "
    "Exporters with an equal label are replicas of each other.",
    ("shard",),
)
EXPORTER_SHARDS = Series(
    "ollama_exporter_shards",
    Kind.GAUGE,
    "Parts that the fleet is divided into, one for each shard; 1 where it is not divided.",
)
EXPORTER_POLL_INTERVAL = Series(
    "ollama_exporter_poll_interval_seconds",
    Kind.GAUGE,
    "How often each instance is polled, as configured.",
)
EXPORTER_POLLS = Series(
    "ollama_exporter_polls_total",
    Kind.COUNTER,
    "Polls of instances that ended, whatever their outcome.",
)
EXPORTER_POLL_ERRORS = Series(
    "ollama_exporter_poll_errors_total",
    Kind.COUNTER,
    "Requests to instances that failed. request: health (the instance does not count as healthy) "
    "or metrics (it does, but figures of it are missing, broken or implausible).",
    ("request", "reason"),
)
EXPORTER_POLL_CYCLES = Series(
    "ollama_exporter_poll_cycles_total",
    Kind.COUNTER,
    "Passes over the whole fleet that ended.",
)
EXPORTER_POLL_CYCLE_DURATION = Series(
    "ollama_exporter_poll_cycle_duration_seconds",
    Kind.GAUGE,
    "From the first to the last answer of the last whole pass over the fleet. Polls are spread "
    "over the interval, so this is about one interval when all is well.",
)
EXPORTER_POLL_LAST_COMPLETED = Series(
    "ollama_exporter_poll_last_completed_timestamp_seconds",
    Kind.GAUGE,
    "When the last whole pass over the fleet ended, in seconds since 1970 UTC.",
)
EXPORTER_POLL_LATENESS = Series(
    "ollama_exporter_poll_lateness_seconds",
    Kind.GAUGE,
    "By how much the latest poll of the last pass began too late: above a tenth of the interval, "
    "this exporter has more instances than it can poll.",
)
EXPORTER_OPEN_CONNECTIONS = Series(
    "ollama_exporter_open_connections",
    Kind.GAUGE,
    "Connections to instances that are open now.",
)
EXPORTER_EXPOSITION_DURATION = Series(
    "ollama_exporter_exposition_duration_seconds",
    Kind.GAUGE,
    "CPU time that aggregating and rendering the last page took.",
)
EXPORTER_EXPOSITION_SAMPLES = Series(
    "ollama_exporter_exposition_samples",
    Kind.GAUGE,
    "Samples of the fleet on the last page.",
)
EXPORTER_EXPOSITION_TIMESTAMP = Series(
    "ollama_exporter_exposition_timestamp_seconds",
    Kind.GAUGE,
    "When the last page was rendered, in seconds since 1970 UTC.",
)
EXPORTER_WEB_REQUESTS_REFUSED = Series(
    "ollama_exporter_web_requests_refused_total",
    Kind.COUNTER,
    "Requests to the exporter's pages that it refused. reason: responses (503, too many were being "
    "sent), passwords (503, too many were waiting to be checked) or host (403, the Host header is "
    "not in web.allowed-hosts).",
    ("reason",),
)
EXPORTER_WEB_RESPONSES_ABORTED = Series(
    "ollama_exporter_web_responses_aborted_total",
    Kind.COUNTER,
    "Responses cut off because reading them took longer than web.write-timeout, or too long while "
    "others waited to be sent.",
)
EXPORTER_WEB_CONNECTIONS_CLOSED = Series(
    "ollama_exporter_web_connections_closed_total",
    Kind.COUNTER,
    "Connections to the exporter's pages closed because web.max-connections of them were open.",
)
EXPORTER_INVENTORY_INSTANCES = Series(
    "ollama_exporter_inventory_instances",
    Kind.GAUGE,
    "Instances that an inventory source listed when it was last read well.",
    ("source",),
)
EXPORTER_INVENTORY_LAST_SUCCESS = Series(
    "ollama_exporter_inventory_last_success_timestamp_seconds",
    Kind.GAUGE,
    "When an inventory source was last read well, in seconds since 1970 UTC; 0 for never.",
    ("source",),
)
EXPORTER_INVENTORY_LAST_RELOAD_SUCCESSFUL = Series(
    "ollama_exporter_inventory_last_reload_successful",
    Kind.GAUGE,
    "1 when the last read of an inventory source was good, 0 when its last good list is kept.",
    ("source",),
)

EXPORTER_SERIES = (
    EXPORTER_BUILD_INFO,
    EXPORTER_SHARD_INFO,
    EXPORTER_SHARDS,
    EXPORTER_POLL_INTERVAL,
    EXPORTER_POLLS,
    EXPORTER_POLL_ERRORS,
    EXPORTER_POLL_CYCLES,
    EXPORTER_POLL_CYCLE_DURATION,
    EXPORTER_POLL_LAST_COMPLETED,
    EXPORTER_POLL_LATENESS,
    EXPORTER_OPEN_CONNECTIONS,
    EXPORTER_EXPOSITION_DURATION,
    EXPORTER_EXPOSITION_SAMPLES,
    EXPORTER_EXPOSITION_TIMESTAMP,
    EXPORTER_WEB_REQUESTS_REFUSED,
    EXPORTER_WEB_RESPONSES_ABORTED,
    EXPORTER_WEB_CONNECTIONS_CLOSED,
    EXPORTER_INVENTORY_INSTANCES,
    EXPORTER_INVENTORY_LAST_SUCCESS,
    EXPORTER_INVENTORY_LAST_RELOAD_SUCCESSFUL,
)

# Recorded by the alert rules: no exporter publishes these

FLEET_THRESHOLD = Series(
    "ollama_fleet_threshold",
    Kind.GAUGE,
    "Alert thresholds in force, for dashboards to draw: recorded by the alert rules, so only where "
    "these are loaded. name: what is limited, with its unit, such as request_latency_p99_seconds.",
    ("name",),
)

RULE_SERIES = (FLEET_THRESHOLD,)

ALL_SERIES = FLEET_SERIES + INSTANCE_SERIES + EXPORTER_SERIES + RULE_SERIES
