"""Name, type, labels and help of every series that ollama-fleet publishes or records."""

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


INSTANCE = ("instance_id", "node")
"""What identifies an instance. What may change under a running server is in its `_info`."""
OF_MODEL = (*INSTANCE, "model")
SHARD = ("shard",)
"""The first label of each aggregate: replicas of a shard publish the same series."""

BOUNDARIES_S = (
    0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""Upper bounds of the request duration histogram, in seconds; +Inf follows.

The alert threshold of 0.15 s must be a boundary: between boundaries a quantile is only a guess."""

# The fleet as a whole

FLEET_INSTANCES = Series(
    "ollama_fleet_instances",
    Kind.GAUGE,
    "Instances by status; every status is always present. healthy: passed its health check. "
    "unhealthy: connected, but gave no good answer, loads for longer than poll.loading-timeout, or "
    "two canaries in a row stalled and the inventory says health: canary. unreachable: no "
    "connection. loading: loads its model. provisioning, draining: state in the inventory. "
    "unknown: not polled yet, or the exporter ran out of file descriptors.",
    (*SHARD, "status"),
)
FLEET_INVENTORY_INSTANCES = Series(
    "ollama_fleet_inventory_instances",
    Kind.GAUGE,
    "Instances in the inventory, in any state.",
    SHARD,
)
FLEET_INSTANCE_CONDITIONS = Series(
    "ollama_fleet_instance_conditions",
    Kind.GAUGE,
    "Running instances that answered the last poll and have a condition; every condition is always "
    "present. model_not_loaded: the model that the inventory lists is not in memory. "
    "model_not_installed: it is not on disk either. nothing_loaded: the inventory lists no model "
    "and none is in memory. on_cpu: a loaded model is partly or wholly outside GPU memory. "
    "stalled: the last canary got no answer before its deadline.",
    (*SHARD, "condition"),
)
FLEET_RESTARTS = Series(
    "ollama_fleet_restarts_total",
    Kind.COUNTER,
    "Restarts of instances seen since this exporter started. It sees that the start time or the "
    "version changed, or that a counter of tokens went back. A restart of stock Ollama shows only "
    "in its version and in `started` of the inventory.",
    SHARD,
)
FLEET_TOKENS_PER_SECOND = Series(
    "ollama_fleet_tokens_per_second",
    Kind.GAUGE,
    "Generation capacity: sum of each healthy instance's decoding speed, in tokens/s. Not current "
    "load.",
    (*SHARD, "model"),
)
FLEET_MEASURED_INSTANCES = Series(
    "ollama_fleet_measured_instances",
    Kind.GAUGE,
    "Healthy instances with a known decoding speed: those in ollama_fleet_tokens_per_second.",
    (*SHARD, "model"),
)
FLEET_REQUEST_LATENCY_P99 = Series(
    "ollama_fleet_request_latency_p99_seconds",
    Kind.GAUGE,
    "99th percentile over healthy instances of the p99 request latency that each reports. "
    "Instances that report a histogram are in ollama_fleet_request_duration_seconds instead.",
    SHARD,
)
FLEET_REQUEST_LATENCY_P99_BOUND = Series(
    "ollama_fleet_request_latency_p99_bound_seconds",
    Kind.GAUGE,
    "Certainty of the p99 of ollama_fleet_request_duration_seconds over the last 5 minutes. It "
    "lies above bound lower and at or below bound upper; upper is absent above all buckets.",
    (*SHARD, "bound"),
)
FLEET_GENERATED_TOKENS = Series(
    "ollama_fleet_generated_tokens_total",
    Kind.COUNTER,
    "Tokens generated since this exporter started. Restarts of instances do not reset it.",
    (*SHARD, "model"),
)
FLEET_ERRORS = Series(
    "ollama_fleet_errors_total",
    Kind.COUNTER,
    "Failed requests reported by instances since this exporter started.",
    (*SHARD, "error_type"),
)
FLEET_REQUEST_DURATION = Series(
    "ollama_fleet_request_duration_seconds",
    Kind.HISTOGRAM,
    "Request duration, merged from instances that report a histogram. Buckets are those of all of "
    "them; each counts an instance's requests that are surely at or below it.",
    (*SHARD, "model"),
)
FLEET_REQUESTS = Series(
    "ollama_fleet_requests_total",
    Kind.COUNTER,
    "Finished requests, failed ones included, of instances that report a duration histogram; the "
    "count of ollama_fleet_request_duration_seconds over all models.",
    SHARD,
)
FLEET_REQUEST_ERRORS = Series(
    "ollama_fleet_request_errors_total",
    Kind.COUNTER,
    "Failed requests among ollama_fleet_requests_total; the error ratio is this divided by that. "
    "ollama_fleet_errors_total also counts instances without a duration histogram.",
    SHARD,
)
FLEET_TIME_TO_FIRST_TOKEN = Series(
    "ollama_fleet_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "Time from a request to its first token, merged from instances that report it.",
    (*SHARD, "model"),
)
FLEET_QUEUE_TIME = Series(
    "ollama_fleet_queue_time_seconds",
    Kind.HISTOGRAM,
    "Time that a request waits in the queue of its instance, merged from instances that report it.",
    (*SHARD, "model"),
)
FLEET_MODEL_LOADS = Series(
    "ollama_fleet_model_loads_total",
    Kind.COUNTER,
    "Times that instances loaded a model into memory, as seen between two polls.",
    (*SHARD, "model"),
)
FLEET_MODEL_UNLOADS = Series(
    "ollama_fleet_model_unloads_total",
    Kind.COUNTER,
    "Times that instances unloaded a model from memory, as seen between two polls.",
    (*SHARD, "model"),
)

# Canaries: small requests that the exporter itself sends

FLEET_CANARY_DURATION = Series(
    "ollama_fleet_canary_duration_seconds",
    Kind.HISTOGRAM,
    "Duration of canaries, from the request to the last token; of stalled ones, to the deadline.",
    (*SHARD, "model"),
)
FLEET_CANARY_TIME_TO_FIRST_TOKEN = Series(
    "ollama_fleet_canary_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "Time from a canary's request to its first token.",
    (*SHARD, "model"),
)
FLEET_CANARY_WAITING = Series(
    "ollama_fleet_canary_waiting_seconds",
    Kind.HISTOGRAM,
    "Time that canaries wait in the queue of the server.",
    (*SHARD, "model"),
)
FLEET_CANARY_LOAD = Series(
    "ollama_fleet_canary_load_seconds",
    Kind.HISTOGRAM,
    "Time that servers report for loading the model before they answer a canary.",
    (*SHARD, "model"),
)
FLEET_CANARY_RESULTS = Series(
    "ollama_fleet_canary_results_total",
    Kind.COUNTER,
    "Canaries by outcome. ok: all tokens came. stalled: no answer before the deadline. error: a "
    "bad answer or no connection. skipped_busy: the instance has other requests. "
    "skipped_not_loaded: the model is not in memory, or leaves it soon; a canary never loads one.",
    (*SHARD, "outcome"),
)
FLEET_CANARY_REQUESTS = Series(
    "ollama_fleet_canary_requests_total",
    Kind.COUNTER,
    "Cost of canaries: requests sent.",
    SHARD,
)
FLEET_CANARY_TOKENS = Series(
    "ollama_fleet_canary_tokens_total",
    Kind.COUNTER,
    "Cost of canaries: tokens generated for them.",
    SHARD,
)
FLEET_CANARY_SECONDS = Series(
    "ollama_fleet_canary_seconds_total",
    Kind.COUNTER,
    "Cost of canaries: time that instances spent on them.",
    SHARD,
)

# Per model

MODEL_INSTANCES = Series(
    "ollama_model_instances",
    Kind.GAUGE,
    "Instances of a model by status; healthy is always present, other statuses if not 0. model is "
    "empty while it is unknown.",
    (*SHARD, "model", "status"),
)
MODEL_LOADED_INSTANCES = Series(
    "ollama_model_loaded_instances",
    Kind.GAUGE,
    "Instances that have the model in memory; 0 for a model that the inventory lists and none has.",
    (*SHARD, "model"),
)
MODEL_INSTALLED_INSTANCES = Series(
    "ollama_model_installed_instances",
    Kind.GAUGE,
    "Instances that have the model on disk.",
    (*SHARD, "model"),
)
MODEL_ON_CPU_INSTANCES = Series(
    "ollama_model_on_cpu_instances",
    Kind.GAUGE,
    "Instances that have the model in memory, partly or wholly outside GPU memory. Absent where no "
    "server says where its memory is.",
    (*SHARD, "model"),
)
MODEL_LOADED_BYTES = Series(
    "ollama_model_loaded_bytes",
    Kind.GAUGE,
    "Memory of the loaded model, on the GPU and off it, summed over instances.",
    (*SHARD, "model"),
)
MODEL_VRAM_BYTES = Series(
    "ollama_model_vram_bytes",
    Kind.GAUGE,
    "GPU memory of the loaded model, summed over instances.",
    (*SHARD, "model"),
)

# Per node

NODE_INSTANCES = Series(
    "ollama_node_instances",
    Kind.GAUGE,
    "Instances of a node by status; healthy is always present, other statuses if not 0.",
    (*SHARD, "node", "status"),
)
NODE_TOKENS_PER_SECOND = Series(
    "ollama_node_tokens_per_second",
    Kind.GAUGE,
    "Generation capacity of a node: sum of its healthy instances' decoding speeds, in tokens/s.",
    (*SHARD, "node", "model"),
)
NODE_ERRORS = Series(
    "ollama_node_errors_total",
    Kind.COUNTER,
    "Failed requests reported by a node's instances since this exporter started.",
    (*SHARD, "node", "error_type"),
)

# Per instance

INSTANCE_UP = Series(
    "ollama_instance_up",
    Kind.GAUGE,
    "1 if the last poll found the instance healthy, else 0. The exporter polls in the background, "
    "not at the scrape.",
    INSTANCE,
)
INSTANCE_CONDITION = Series(
    "ollama_instance_condition",
    Kind.GAUGE,
    "1 while the instance has the condition, else absent. The conditions are those of "
    "ollama_fleet_instance_conditions.",
    (*INSTANCE, "condition"),
)
INSTANCE_TOKENS_PER_SECOND = Series(
    "ollama_instance_tokens_per_second",
    Kind.GAUGE,
    "Decoding speed of a healthy instance, in tokens/s: as it reports it, else from its counters, "
    "else of the last canary. Kept for an hour while it is idle, then absent.",
    INSTANCE,
)
INSTANCE_LATENCY_P99 = Series(
    "ollama_instance_request_latency_p99_seconds",
    Kind.GAUGE,
    "99th percentile of request latency, as the instance reports it.",
    INSTANCE,
)
INSTANCE_REQUESTS_RUNNING = Series(
    "ollama_instance_requests_running",
    Kind.GAUGE,
    "Requests that the instance is processing.",
    INSTANCE,
)
INSTANCE_REQUESTS_QUEUED = Series(
    "ollama_instance_requests_queued",
    Kind.GAUGE,
    "Requests that wait in the instance's queue.",
    INSTANCE,
)
INSTANCE_KV_CACHE_USAGE = Series(
    "ollama_instance_kv_cache_usage_ratio",
    Kind.GAUGE,
    "Used part of the instance's KV cache, from 0 to 1. Near 1, new requests wait.",
    INSTANCE,
)
INSTANCE_START_TIME = Series(
    "ollama_instance_start_time_seconds",
    Kind.GAUGE,
    "Start time of the instance, in seconds since 1970 UTC: as it reports it, else `started` in "
    "the inventory.",
    INSTANCE,
)
INSTANCE_GENERATED_TOKENS = Series(
    "ollama_instance_generated_tokens_total",
    Kind.COUNTER,
    "Tokens generated by the instance. Its restarts do not reset it.",
    INSTANCE,
)
INSTANCE_PROMPT_TOKENS = Series(
    "ollama_instance_prompt_tokens_total",
    Kind.COUNTER,
    "Prompt tokens read by the instance. Its restarts do not reset it.",
    INSTANCE,
)
INSTANCE_ERRORS = Series(
    "ollama_instance_errors_total",
    Kind.COUNTER,
    "Failed requests reported by the instance. Its restarts do not reset it.",
    (*INSTANCE, "error_type"),
)
INSTANCE_CANARY_SUCCESS = Series(
    "ollama_instance_canary_success",
    Kind.GAUGE,
    "1 if the last canary got all its tokens before its deadline, else 0.",
    INSTANCE,
)
INSTANCE_CANARY_TOKENS_PER_SECOND = Series(
    "ollama_instance_canary_tokens_per_second",
    Kind.GAUGE,
    "Decoding speed in the last canary, in tokens/s; absent if that failed.",
    INSTANCE,
)
INSTANCE_CANARY_TIME_TO_FIRST_TOKEN = Series(
    "ollama_instance_canary_time_to_first_token_seconds",
    Kind.GAUGE,
    "Time from the request of the last canary to its first token.",
    INSTANCE,
)
INSTANCE_CANARY_DURATION = Series(
    "ollama_instance_canary_duration_seconds",
    Kind.GAUGE,
    "Duration of the last canary, from the request to the last token.",
    INSTANCE,
)
INSTANCE_CANARY_WAITING = Series(
    "ollama_instance_canary_waiting_seconds",
    Kind.GAUGE,
    "Time that the last canary waited in the queue of the server.",
    INSTANCE,
)
INSTANCE_CANARY_LOAD = Series(
    "ollama_instance_canary_load_seconds",
    Kind.GAUGE,
    "Time that the server reports for loading the model before it answered the last canary.",
    INSTANCE,
)
INSTANCE_MODEL_LOADED = Series(
    "ollama_instance_model_loaded",
    Kind.GAUGE,
    "1 for each model that the instance has in memory.",
    OF_MODEL,
)
INSTANCE_MODEL_BYTES = Series(
    "ollama_instance_model_bytes",
    Kind.GAUGE,
    "Memory of the loaded model, on the GPU and off it. Absent where the server does not say.",
    OF_MODEL,
)
INSTANCE_MODEL_VRAM_BYTES = Series(
    "ollama_instance_model_vram_bytes",
    Kind.GAUGE,
    "GPU memory of the loaded model. Below ollama_instance_model_bytes, the model is partly or "
    "wholly on the CPU. Absent where the server does not say.",
    OF_MODEL,
)
INSTANCE_MODEL_CONTEXT_LENGTH = Series(
    "ollama_instance_model_context_length",
    Kind.GAUGE,
    "Context length of the loaded model, in tokens. Absent where the server does not say.",
    OF_MODEL,
)
INSTANCE_MODEL_EXPIRES = Series(
    "ollama_instance_model_expires_timestamp_seconds",
    Kind.GAUGE,
    "Time at which the server unloads the model if no request comes, in seconds since 1970 UTC; "
    "absent for a model that stays loaded.",
    OF_MODEL,
)
INSTANCE_INFO = Series(
    "ollama_instance_info",
    Kind.GAUGE,
    "Always 1. The labels describe the instance, for joins. model: from the inventory, else the "
    "model that the instance has loaded.",
    (*INSTANCE, "model", "engine", "version", "developer"),
)

# The exporter's own

EXPORTER_BUILD_INFO = Series(
    "ollama_exporter_build_info",
    Kind.GAUGE,
    "Always 1. The labels are the versions of the exporter and of Python.",
    ("version", "python"),
)
EXPORTER_SHARD_INFO = Series(
    "ollama_exporter_shard_info",
    Kind.GAUGE,
    "Always 1. shard: the part of the fleet that this exporter polls, counted from 0. Exporters "
    "of the same shard are replicas.",
    ("shard",),
)
EXPORTER_SHARDS = Series(
    "ollama_exporter_shards",
    Kind.GAUGE,
    "Number of shards that the fleet is divided into; 1 if it is not divided.",
)
EXPORTER_POLL_INTERVAL = Series(
    "ollama_exporter_poll_interval_seconds",
    Kind.GAUGE,
    "Configured interval between two polls of an instance.",
)
EXPORTER_POLLS = Series(
    "ollama_exporter_polls_total",
    Kind.COUNTER,
    "Finished polls of instances, whatever their outcome.",
)
EXPORTER_POLL_ERRORS = Series(
    "ollama_exporter_poll_errors_total",
    Kind.COUNTER,
    "Failed requests to instances. request: health (the instance is not healthy) or metrics (it "
    "is healthy, but its metrics are missing, broken or implausible).",
    ("request", "outcome"),
)
EXPORTER_POLL_CYCLES = Series(
    "ollama_exporter_poll_cycles_total",
    Kind.COUNTER,
    "Finished poll cycles; a cycle polls every instance once.",
)
EXPORTER_POLL_CYCLE_DURATION = Series(
    "ollama_exporter_poll_cycle_duration_seconds",
    Kind.GAUGE,
    "Duration of the last poll cycle, from its first to its last answer. Polls are spread over "
    "the interval, so it is about one interval.",
)
EXPORTER_POLL_LAST_COMPLETED = Series(
    "ollama_exporter_poll_last_completed_timestamp_seconds",
    Kind.GAUGE,
    "End of the last poll cycle, in seconds since 1970 UTC.",
)
EXPORTER_POLL_LATENESS = Series(
    "ollama_exporter_poll_lateness_seconds",
    Kind.GAUGE,
    "Delay of the latest poll of the last cycle. Above a tenth of the interval, this exporter has "
    "too many instances.",
)
EXPORTER_OPEN_CONNECTIONS = Series(
    "ollama_exporter_open_connections",
    Kind.GAUGE,
    "Open connections to instances.",
)
EXPORTER_EXPOSITION_DURATION = Series(
    "ollama_exporter_exposition_duration_seconds",
    Kind.GAUGE,
    "CPU time to aggregate and render the last exposition.",
)
EXPORTER_EXPOSITION_SAMPLES = Series(
    "ollama_exporter_exposition_samples",
    Kind.GAUGE,
    "Samples of the fleet in the last exposition.",
)
EXPORTER_EXPOSITION_TIMESTAMP = Series(
    "ollama_exporter_exposition_timestamp_seconds",
    Kind.GAUGE,
    "Time at which the last exposition was rendered, in seconds since 1970 UTC.",
)
EXPORTER_WEB_REQUESTS_REFUSED = Series(
    "ollama_exporter_web_requests_refused_total",
    Kind.COUNTER,
    "Refused HTTP requests. reason: responses (503, too many responses are being sent), passwords "
    "(503, too many passwords wait to be checked) or host (403, the Host header is not in "
    "web.allowed-hosts).",
    ("reason",),
)
EXPORTER_WEB_RESPONSES_ABORTED = Series(
    "ollama_exporter_web_responses_aborted_total",
    Kind.COUNTER,
    "Responses aborted because the client read for longer than web.write-timeout, or slowly while "
    "others waited.",
)
EXPORTER_WEB_CONNECTIONS_CLOSED = Series(
    "ollama_exporter_web_connections_closed_total",
    Kind.COUNTER,
    "HTTP connections closed because web.max-connections were open.",
)
EXPORTER_INVENTORY_INSTANCES = Series(
    "ollama_exporter_inventory_instances",
    Kind.GAUGE,
    "Instances in the last good list of an inventory source.",
    ("source",),
)
EXPORTER_INVENTORY_LAST_SUCCESS = Series(
    "ollama_exporter_inventory_last_success_timestamp_seconds",
    Kind.GAUGE,
    "Time of the last successful read of an inventory source, in seconds since 1970 UTC; 0 for "
    "never.",
    ("source",),
)
EXPORTER_INVENTORY_LAST_RELOAD_SUCCESSFUL = Series(
    "ollama_exporter_inventory_last_reload_successful",
    Kind.GAUGE,
    "1 if the last read of an inventory source succeeded, 0 while its last good list is used.",
    ("source",),
)

# Recorded by the alert rules: no exporter publishes these

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
AVAILABILITY_THRESHOLD = Series(
    "fleet:ollama_availability_ratio:threshold",
    Kind.GAUGE,
    "Objective: share of the serving instances that are healthy.",
)
REQUEST_SUCCESS_THRESHOLD = Series(
    "fleet:ollama_request_success_ratio:threshold",
    Kind.GAUGE,
    "Objective: share of the requests that succeed.",
)


def _named(*prefixes: str) -> tuple[Series, ...]:
    """Return the series of this module by the beginning of their names, in its order."""
    spelled = [value for value in globals().values() if isinstance(value, Series)]
    return tuple(series for series in spelled if series.name.startswith(prefixes))


RULE_SERIES = (
    HEALTHY_THRESHOLD, LATENCY_THRESHOLD, SPEED_THRESHOLD, NODE_SPEED_THRESHOLD, QUEUED_THRESHOLD,
    AVAILABILITY_THRESHOLD, REQUEST_SUCCESS_THRESHOLD,
)  # fmt: skip
FLEET_SERIES = _named("ollama_fleet_", "ollama_model_", "ollama_node_")
INSTANCE_SERIES = _named("ollama_instance_")
EXPORTER_SERIES = _named("ollama_exporter_")
ALL_SERIES = FLEET_SERIES + INSTANCE_SERIES + EXPORTER_SERIES + RULE_SERIES
