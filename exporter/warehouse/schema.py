"""The warehouse's tables: name, type and meaning of each column, and the version of them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

VERSION = 1
"""Counted up when a column changes its meaning or its type, or goes."""

TEXT = pa.string()
NUMBER = pa.float64()
COUNT = pa.int32()
TIME = pa.timestamp("us", tz="UTC")
TEXTS = pa.list_(TEXT)
LABELS = pa.map_(TEXT, TEXT)
NUMBERS = pa.map_(TEXT, NUMBER)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    type: Any
    meaning: str


@dataclass(frozen=True, slots=True)
class Table:
    """One table: a row for each hour and each of its things."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    """What tells the rows of an hour apart; they are sorted by it."""

    @property
    def schema(self) -> Any:
        """Return the schema of its files."""
        return pa.schema([pa.field(one.name, one.type) for one in self.columns])


HOUR = Column("hour", TIME, "Begin of the hour, UTC.")
CLUSTER = Column("cluster", TEXT, "The cluster label in Prometheus; empty if there is none.")
NODE = Column("node", TEXT, "Node, as the inventory names it.")
HARDWARE = Column("hardware", TEXT, "Value of the inventory's hardware label; empty: it has none.")
UPTIME = Column(
    "uptime_ratio", NUMBER, "Share of the observed time in which the instance was healthy, 0 to 1."
)
OBSERVED = Column(
    "observed_ratio",
    NUMBER,
    "Share of the hour in which Prometheus has the instance, 0 to 1; below 1 it came, went, or the "
    "exporter was down.",
)
GENERATED = Column("generated_tokens", NUMBER, "Tokens generated in the hour.")
PROMPT = Column("prompt_tokens", NUMBER, "Prompt tokens read in the hour.")
SPEED_MEDIAN = Column(
    "tokens_per_second_median", NUMBER, "Median decoding speed in the hour, in tokens/s."
)
ERRORS = Column("errors", NUMBERS, "Failed requests in the hour by error type.")
RESTARTS = Column("restarts", COUNT, "Restarts in the hour: changes of the start time.")
ROLLED_UPTIME = Column("uptime_ratio", NUMBER, "Mean uptime_ratio of the instances.")
ROLLED_SPEED = Column(
    "tokens_per_second",
    NUMBER,
    "Generation capacity: sum of the mean speeds of the instances, in tokens/s.",
)
ROLLED_MEDIAN = Column(
    "tokens_per_second_median", NUMBER, "Median over instances of their median speed, in tokens/s."
)
ROLLED_P99 = Column(
    "request_latency_p99_seconds_median",
    NUMBER,
    "Median over instances of their mean p99 request latency.",
)
ROLLED_P99_MAX = Column(
    "request_latency_p99_seconds_max", NUMBER, "Highest p99 request latency of an instance."
)
INSTANCES = Column("instances", COUNT, "Instances seen in the hour.")

INSTANCE_HOURS = Table(
    "instance_hours",
    "one row for each hour, instance and node",
    (
        HOUR,
        CLUSTER,
        Column("instance_id", TEXT, "Instance, as the inventory names it."),
        NODE,
        Column("model", TEXT, "Model that it had for most of the hour, as ollama_instance_info."),
        Column("engine", TEXT, "Engine that it had for most of the hour."),
        Column("version", TEXT, "Version that it had for most of the hour; empty if unknown."),
        HARDWARE,
        Column("labels", LABELS, "All labels of the instance in the inventory."),
        UPTIME,
        OBSERVED,
        GENERATED,
        PROMPT,
        Column("tokens_per_second_mean", NUMBER, "Mean decoding speed in the hour, in tokens/s."),
        SPEED_MEDIAN,
        Column(
            "request_latency_p99_seconds_mean",
            NUMBER,
            "Mean of the p99 request latency that the instance reports.",
        ),
        Column("request_latency_p99_seconds_max", NUMBER, "Highest p99 that it reports."),
        ERRORS,
        RESTARTS,
        Column("started_at", TIME, "Its last start; null if nothing reports it."),
        Column("loaded_models", TEXTS, "Models that were in memory at any time of the hour."),
    ),
    ("cluster", "instance_id", "node"),
)
NODE_HOURS = Table(
    "node_hours",
    "one row for each hour and node, rolled up from instance_hours",
    (
        HOUR,
        CLUSTER,
        NODE,
        HARDWARE,
        Column("labels", LABELS, "Labels that all instances of the node have in common."),
        INSTANCES,
        ROLLED_UPTIME,
        GENERATED,
        PROMPT,
        ROLLED_SPEED,
        ROLLED_MEDIAN,
        ROLLED_P99,
        ROLLED_P99_MAX,
        ERRORS,
        RESTARTS,
        Column("models", TEXTS, "Models of its instances."),
        Column("loaded_models", TEXTS, "Models that were in memory at any time of the hour."),
    ),
    ("cluster", "node"),
)
MODEL_HOURS = Table(
    "model_hours",
    "one row for each hour and model, rolled up from instance_hours and from the histograms",
    (
        HOUR,
        CLUSTER,
        Column("model", TEXT, "Model; empty while it is unknown."),
        INSTANCES,
        Column("loaded_instances", COUNT, "Instances that had it in memory."),
        ROLLED_UPTIME,
        GENERATED,
        PROMPT,
        ROLLED_SPEED,
        ROLLED_MEDIAN,
        ROLLED_P99,
        ROLLED_P99_MAX,
        Column("requests", NUMBER, "Finished requests; null if nothing reports durations."),
        Column("request_errors", NUMBER, "Failed requests among them."),
        Column(
            "request_duration_p99_seconds", NUMBER, "99th percentile of the requests' durations."
        ),
        Column(
            "time_to_first_token_p99_seconds",
            NUMBER,
            "99th percentile of the time from a request to its first token.",
        ),
        ERRORS,
        RESTARTS,
    ),
    ("cluster", "model"),
)
TABLES = (INSTANCE_HOURS, NODE_HOURS, MODEL_HOURS)
