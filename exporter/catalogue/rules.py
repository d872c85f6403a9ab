"""Series that the alert rules record; no exporter publishes these."""

from __future__ import annotations

from exporter.catalogue.series import gauge

HEALTHY_THRESHOLD = gauge(
    "fleet:ollama_healthy_instances:threshold", "Too few instances are healthy below this."
)
LATENCY_THRESHOLD = gauge(
    "fleet:ollama_request_latency_seconds:threshold",
    "The p99 of request latency is too high above this.",
)
SPEED_THRESHOLD = gauge(
    "fleet:ollama_tokens_per_second:threshold",
    "The generation capacity of the fleet is too low below this.",
)
NODE_SPEED_THRESHOLD = gauge(
    "fleet:ollama_node_speed_ratio:threshold",
    "A node is slow below this share of the speed of its peers.",
)
QUEUED_THRESHOLD = gauge(
    "fleet:ollama_requests_queued_per_instance:threshold",
    "Too many requests are queued above this number per healthy instance.",
)
REQUEST_SUCCESS_THRESHOLD = gauge(
    "fleet:ollama_request_success_ratio:threshold", "Objective: share of the requests that succeed."
)
