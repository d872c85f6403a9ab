"""Series that the exporter publishes about itself."""

from __future__ import annotations

from exporter.catalogue.series import counter, gauge

EXPORTER_BUILD_INFO = gauge(
    "ollama_exporter_build_info",
    "Always 1. The labels are the version and revision of the exporter, and the version of Python.",
    ("version", "revision", "python"),
)
EXPORTER_SHARD_INFO = gauge(
    "ollama_exporter_shard_info",
    "Always 1. shard: the part of the fleet that this exporter polls, counted from 0. Exporters "
    "of the same shard are replicas.",
    ("shard",),
)
EXPORTER_SHARDS = gauge(
    "ollama_exporter_shards",
    "Number of shards that the fleet is divided into; 1 if it is not divided.",
)
EXPORTER_POLL_INTERVAL = gauge(
    "ollama_exporter_poll_interval_seconds", "Configured interval between two polls of an instance."
)
EXPORTER_POLLS = counter(
    "ollama_exporter_polls_total", "Finished polls of instances, whatever their outcome."
)
EXPORTER_POLL_ERRORS = counter(
    "ollama_exporter_poll_errors_total",
    "Failed requests to instances. request: health (the instance is not healthy) or metrics (it "
    "is healthy, but its metrics are missing, broken or implausible).",
    ("request", "outcome"),
)
EXPORTER_POLL_CYCLES = counter(
    "ollama_exporter_poll_cycles_total", "Finished poll cycles; a cycle polls every instance once."
)
EXPORTER_POLL_CYCLE_DURATION = gauge(
    "ollama_exporter_poll_cycle_duration_seconds",
    "Duration of the last poll cycle, from its first to its last answer. Polls are spread over "
    "the interval, so it is about one interval.",
)
EXPORTER_POLL_LAST_COMPLETED = gauge(
    "ollama_exporter_poll_last_completed_timestamp_seconds",
    "End of the last poll cycle, in seconds since 1970 UTC.",
)
EXPORTER_POLL_LATENESS = gauge(
    "ollama_exporter_poll_lateness_seconds",
    "Delay of the latest poll of the last cycle. Above a tenth of the interval, this exporter has "
    "too many instances.",
)
EXPORTER_OPEN_CONNECTIONS = gauge(
    "ollama_exporter_open_connections", "Open connections to instances."
)
EXPORTER_EXPOSITION_DURATION = gauge(
    "ollama_exporter_exposition_duration_seconds",
    "CPU time to aggregate and render the last exposition.",
)
EXPORTER_EXPOSITION_SAMPLES = gauge(
    "ollama_exporter_exposition_samples", "Samples of the fleet in the last exposition."
)
EXPORTER_EXPOSITION_TIMESTAMP = gauge(
    "ollama_exporter_exposition_timestamp_seconds",
    "Time at which the last exposition was rendered, in seconds since 1970 UTC.",
)
EXPORTER_WEB_REQUESTS_REFUSED = counter(
    "ollama_exporter_web_requests_refused_total",
    "Refused HTTP requests. reason: responses (503, too many responses are being sent), passwords "
    "(503, too many passwords wait to be checked) or host (403, the Host header is not in "
    "web.allowed-hosts).",
    ("reason",),
)
EXPORTER_WEB_RESPONSES_ABORTED = counter(
    "ollama_exporter_web_responses_aborted_total",
    "Responses aborted because the client read for longer than web.write-timeout, or slowly while "
    "others waited.",
)
EXPORTER_WEB_CONNECTIONS_CLOSED = counter(
    "ollama_exporter_web_connections_closed_total",
    "HTTP connections closed because web.max-connections were open.",
)
EXPORTER_GATEWAY_UP = gauge(
    "ollama_exporter_gateway_up",
    "1 if the last read of a gateway's /metrics succeeded, else 0. gateway: its gateway.url.",
    ("gateway",),
)
EXPORTER_GATEWAY_LAST_SUCCESS = gauge(
    "ollama_exporter_gateway_last_success_timestamp_seconds",
    "Time of the last successful read of a gateway's /metrics, in seconds since 1970 UTC; 0 for "
    "never.",
    ("gateway",),
)
EXPORTER_UPSTREAMS = gauge(
    "ollama_exporter_upstreams",
    "Instances in the last list that GET /upstreams made; 0 while nobody asks for it.",
)
EXPORTER_UPSTREAMS_LEFT_OUT = gauge(
    "ollama_exporter_upstreams_left_out",
    "Healthy instances that are not in the upstream list. reason: https (the gateway speaks http "
    "with instances), path (the URL has a path) or unresolved (the name has no address).",
    ("reason",),
)
EXPORTER_CONFIG_LAST_RELOAD_SUCCESSFUL = gauge(
    "ollama_exporter_config_last_reload_successful",
    "1 if the last reload of the configuration succeeded, or none was asked for; 0 while older "
    "settings stay in force because the new ones are refused.",
)
EXPORTER_CONFIG_LAST_RELOAD_SUCCESS = gauge(
    "ollama_exporter_config_last_reload_success_timestamp_seconds",
    "Time of the last successful reload of the configuration, or of the start, in seconds since "
    "1970 UTC.",
)
EXPORTER_INVENTORY_INSTANCES = gauge(
    "ollama_exporter_inventory_instances",
    "Instances in the last good list of an inventory source.",
    ("source",),
)
EXPORTER_INVENTORY_LAST_SUCCESS = gauge(
    "ollama_exporter_inventory_last_success_timestamp_seconds",
    "Time of the last successful read of an inventory source, in seconds since 1970 UTC; 0 for "
    "never.",
    ("source",),
)
EXPORTER_INVENTORY_LAST_RELOAD_SUCCESSFUL = gauge(
    "ollama_exporter_inventory_last_reload_successful",
    "1 if the last read of an inventory source succeeded, 0 while its last good list is used.",
    ("source",),
)
