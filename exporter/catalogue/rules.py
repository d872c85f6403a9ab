"""Series that the alert rules record; no exporter publishes these."""

from __future__ import annotations

from exporter.catalogue.series import Kind, Series

HEALTHY_THRESHOLD = Series(
    "fleet:ollama_healthy_instances:threshold",
    Kind.GAUGE,
    "Too few instances are healthy below this.",
)
LATENCY_THRESHOLD = Series(
    "fleet:ollama_request_latency_seconds:threshold",
    Kind.GAUGE,
    "The p99 of request latency is too high above this.",
)
SPEED_THRESHOLD = Series(
    "fleet:ollama_tokens_per_second:threshold",
    Kind.GAUGE,
    "The generation capacity of the fleet is too low below this.",
)
NODE_SPEED_THRESHOLD = Series(
    "fleet:ollama_node_speed_ratio:threshold",
    Kind.GAUGE,
    "A node is slow below this share of the speed of its peers.",
)
QUEUED_THRESHOLD = Series(
    "fleet:ollama_requests_queued_per_instance:threshold",
    Kind.GAUGE,
    "Too many requests are queued above this number per healthy instance.",
)
REQUEST_SUCCESS_THRESHOLD = Series(
    "fleet:ollama_request_success_ratio:threshold",
    Kind.GAUGE,
    "Objective: share of the requests that succeed.",
)
