"""Series of the whole fleet, of its models and of its nodes."""

from __future__ import annotations

from exporter.catalogue.series import SHARD, Kind, Series, counter, gauge, histogram

# The fleet as a whole

FLEET_INSTANCES = gauge(
    "ollama_fleet_instances",
    "Instances by status; every status is always present. healthy: passed its health check. "
    "unhealthy: connected, but gave no good answer, loads for longer than poll.loading-timeout, or "
    "two canaries in a row stalled and the inventory says health: canary. unreachable: no "
    "connection. loading: loads its model. starting: new in the inventory and not healthy yet, for "
    "at most poll.starting-timeout. provisioning: state in the inventory, for as long at most. "
    "draining: state in the inventory. away: unreachable, and inventory.transient says that it "
    "comes and goes. unknown: not polled yet, or the exporter ran out of file descriptors.",
    (*SHARD, "status"),
)
FLEET_INVENTORY_INSTANCES = gauge(
    "ollama_fleet_inventory_instances", "Instances in the inventory, in any state.", SHARD
)
FLEET_TRANSIENT_INSTANCES = gauge(
    "ollama_fleet_transient_instances",
    "Instances in the inventory that come and go on purpose, by inventory.transient.",
    SHARD,
)
FLEET_RECENTLY_FAILED_INSTANCES = gauge(
    "ollama_fleet_recently_failed_instances",
    "Instances that are unhealthy, unreachable, loading or unknown for less than "
    "poll.grace-period. When the exporter starts, every failure is recent.",
    SHARD,
)
FLEET_INSTANCE_CONDITIONS = gauge(
    "ollama_fleet_instance_conditions",
    "Instances with a condition; every condition is always present. flapping counts in any status; "
    "the others count running instances that answered the last poll. model_not_loaded: the model "
    "that the inventory lists is not in memory. model_not_installed: it is not on disk either. "
    "nothing_loaded: the inventory lists no model and none is in memory. on_cpu: a loaded model is "
    "partly outside GPU memory, or wholly while another instance has it on a GPU. stalled: the "
    "last canary that was sent got no answer before its deadline. flapping: its polls changed "
    "between good and bad more than 4 times within 15 minutes. not_serving: it has had queued "
    "requests and generated no token for 10 minutes. kv_cache_full: at least 95 % of its KV cache "
    "is used.",
    (*SHARD, "condition"),
)
FLEET_RESTARTS = counter(
    "ollama_fleet_restarts_total",
    "Restarts of instances seen since this exporter started: a later start time, another version, "
    "a token counter that went back, or, if no start time is reported and the inventory says "
    "running, a refused connection between two healthy polls. A restart of stock Ollama between "
    "two polls shows only by a new version, or a new `started` in the inventory.",
    SHARD,
)
FLEET_ENGINE_INSTANCES = gauge(
    "ollama_fleet_engine_instances",
    "Instances by engine and version, as last known; version is empty while it is unknown. Of more "
    "than 100 versions the rare ones count as other.",
    (*SHARD, "engine", "version"),
)
FLEET_REQUESTS_QUEUED = gauge(
    "ollama_fleet_requests_queued",
    "Requests that wait in the queues of instances. Absent for a model whose instances report no "
    "queue.",
    (*SHARD, "model"),
)
FLEET_TOKENS_PER_SECOND = gauge(
    "ollama_fleet_tokens_per_second",
    "Generation capacity: sum of each healthy instance's decoding speed, in tokens/s. Not current "
    "load.",
    (*SHARD, "model"),
)
FLEET_MEASURED_INSTANCES = gauge(
    "ollama_fleet_measured_instances",
    "Healthy instances with a known decoding speed: those in ollama_fleet_tokens_per_second.",
    (*SHARD, "model"),
)
FLEET_REQUEST_LATENCY_P99 = gauge(
    "ollama_fleet_request_latency_p99_seconds",
    "99th percentile over healthy instances of the p99 request latency that each reports. "
    "Instances that report a histogram are in ollama_fleet_request_duration_seconds instead.",
    SHARD,
)
FLEET_INSTANCE_REQUEST_LATENCY_P99 = Series(
    "ollama_fleet_instance_request_latency_p99_seconds",
    Kind.SUMMARY,
    "Quantiles over healthy instances of the p99 request latency that each reports. At quantile "
    "0.9 one instance in ten is slower.",
    (*SHARD, "quantile"),
)
FLEET_REQUEST_LATENCY_P99_BOUND = gauge(
    "ollama_fleet_request_latency_p99_bound_seconds",
    "Range of the true p99 of ollama_fleet_request_duration_seconds over the last 5 minutes: above "
    "bound lower, at or below bound upper. upper is absent if the p99 may be above all buckets.",
    (*SHARD, "bound"),
)
FLEET_GENERATED_TOKENS = counter(
    "ollama_fleet_generated_tokens_total",
    "Tokens generated since this exporter started. Restarts of instances do not reset it. With "
    "gateway.url, tokens in the answers that passed the gateways.",
    (*SHARD, "model"),
)
FLEET_ERRORS = counter(
    "ollama_fleet_errors_total",
    "Failed requests reported by instances since this exporter started. With gateway.url, requests "
    "that the gateways answered with a status of 5xx, as error_type 5xx.",
    (*SHARD, "model", "error_type"),
)
FLEET_REQUEST_DURATION = histogram(
    "ollama_fleet_request_duration_seconds",
    "Request duration, merged from instances that report a histogram, or with gateway.url from the "
    "gateways. It has the buckets of all of them. Where one lacks a bucket, its requests count in "
    "its next higher one, so no quantile is too low.",
    (*SHARD, "model"),
)
FLEET_REQUESTS = counter(
    "ollama_fleet_requests_total",
    "Finished requests, failed ones included, of instances that report a duration histogram, or "
    "with gateway.url of the gateways; the count of ollama_fleet_request_duration_seconds.",
    (*SHARD, "model"),
)
FLEET_REQUEST_ERRORS = counter(
    "ollama_fleet_request_errors_total",
    "Failed requests among ollama_fleet_requests_total; the error ratio is this divided by that. "
    "ollama_fleet_errors_total also counts instances without a duration histogram.",
    (*SHARD, "model"),
)
FLEET_TIME_TO_FIRST_TOKEN = histogram(
    "ollama_fleet_time_to_first_token_seconds",
    "Time from a request to its first token, merged from instances that report it, or with "
    "gateway.url from the gateways, of streamed answers.",
    (*SHARD, "model"),
)
FLEET_QUEUE_TIME = histogram(
    "ollama_fleet_queue_time_seconds",
    "Time that a request waits in the queue of its instance, merged from instances that report it, "
    "or with gateway.url in the gateways.",
    (*SHARD, "model"),
)
FLEET_MODEL_LOADS = counter(
    "ollama_fleet_model_loads_total",
    "Times that instances loaded a model into memory, as seen between two polls.",
    (*SHARD, "model"),
)
FLEET_MODEL_UNLOADS = counter(
    "ollama_fleet_model_unloads_total",
    "Times that instances unloaded a model from memory, as seen between two polls.",
    (*SHARD, "model"),
)

# Canaries: small requests that the exporter itself sends

FLEET_CANARY_DURATION = histogram(
    "ollama_fleet_canary_duration_seconds",
    "Duration of canaries, from the request to the last token, of those that ended; stalled "
    "ones are in the counter of results.",
    (*SHARD, "model"),
)
FLEET_CANARY_TIME_TO_FIRST_TOKEN = histogram(
    "ollama_fleet_canary_time_to_first_token_seconds",
    "Time from a canary's request to its first token.",
    (*SHARD, "model"),
)
FLEET_CANARY_WAITING = histogram(
    "ollama_fleet_canary_waiting_seconds",
    "Time that canaries wait in the queue of the server.",
    (*SHARD, "model"),
)
FLEET_CANARY_LOAD = histogram(
    "ollama_fleet_canary_load_seconds",
    "Time that servers report for loading the model before they answer a canary.",
    (*SHARD, "model"),
)
FLEET_CANARY_RESULTS = counter(
    "ollama_fleet_canary_results_total",
    "Canaries by outcome. ok: all tokens came. stalled: no answer before the deadline. error: a "
    "bad answer or no connection. skipped_busy: the instance has other requests. "
    "skipped_not_loaded: the model is not in memory, or is about to be unloaded; a canary never "
    "loads a model.",
    (*SHARD, "outcome"),
)
FLEET_CANARY_REQUESTS = counter(
    "ollama_fleet_canary_requests_total", "Cost of canaries: requests sent.", SHARD
)
FLEET_CANARY_TOKENS = counter(
    "ollama_fleet_canary_tokens_total", "Cost of canaries: tokens generated for them.", SHARD
)
FLEET_CANARY_SECONDS = counter(
    "ollama_fleet_canary_seconds_total",
    "Cost of canaries: time that instances spent on them.",
    SHARD,
)

# Per model

MODEL_INSTANCES = gauge(
    "ollama_model_instances",
    "Instances of a model by status; healthy is always present, other statuses if not 0. model is "
    "empty while it is unknown.",
    (*SHARD, "model", "status"),
)
MODEL_LOADED_INSTANCES = gauge(
    "ollama_model_loaded_instances",
    "Instances that have the model in memory; 0 for a model that the inventory lists but no "
    "instance has loaded.",
    (*SHARD, "model"),
)
MODEL_INSTALLED_INSTANCES = gauge(
    "ollama_model_installed_instances", "Instances that have the model on disk.", (*SHARD, "model")
)
MODEL_ON_CPU_INSTANCES = gauge(
    "ollama_model_on_cpu_instances",
    "Instances that have the model in memory, partly or wholly outside GPU memory. Absent if no "
    "server reports its GPU memory.",
    (*SHARD, "model"),
)
MODEL_EXPIRING_INSTANCES = gauge(
    "ollama_model_expiring_instances",
    "Instances that have the model in memory and unload it if no request comes.",
    (*SHARD, "model"),
)
MODEL_LOADED_BYTES = gauge(
    "ollama_model_loaded_bytes",
    "Memory of the loaded model, on the GPU and off it, summed over instances.",
    (*SHARD, "model"),
)
MODEL_VRAM_BYTES = gauge(
    "ollama_model_vram_bytes",
    "GPU memory of the loaded model, summed over instances.",
    (*SHARD, "model"),
)

MODEL_INSTANCE_TOKENS_PER_SECOND = Series(
    "ollama_model_instance_tokens_per_second",
    Kind.SUMMARY,
    "Quantiles over healthy instances of a model of their decoding speed. At quantile 0.1 one "
    "instance in ten is slower.",
    (*SHARD, "model", "quantile"),
)
MODEL_INSTANCE_REQUEST_LATENCY_P99 = Series(
    "ollama_model_instance_request_latency_p99_seconds",
    Kind.SUMMARY,
    "Quantiles over healthy instances of a model of the p99 request latency that each reports.",
    (*SHARD, "model", "quantile"),
)
MODEL_INSTANCE_KV_CACHE_USAGE = Series(
    "ollama_model_instance_kv_cache_usage_ratio",
    Kind.SUMMARY,
    "Quantiles over healthy instances of a model of the used share of their KV cache.",
    (*SHARD, "model", "quantile"),
)

# Per node

NODE_INSTANCES = gauge(
    "ollama_node_instances",
    "Instances of a node by status; healthy is always present, other statuses if not 0.",
    (*SHARD, "node", "status"),
)
NODE_TOKENS_PER_SECOND = gauge(
    "ollama_node_tokens_per_second",
    "Generation capacity of a node: sum of its healthy instances' decoding speeds, in tokens/s.",
    (*SHARD, "node", "model", "engine"),
)
NODE_MEASURED_INSTANCES = gauge(
    "ollama_node_measured_instances",
    "Healthy instances of a node with a known decoding speed: those in "
    "ollama_node_tokens_per_second.",
    (*SHARD, "node", "model", "engine"),
)
NODE_PEERS_TOKENS_PER_SECOND = gauge(
    "ollama_node_peers_tokens_per_second",
    "Median speed per instance of a node's peers, in tokens/s: nodes with the same model, engine "
    "and hardware (metrics.hardware-label). Nodes without that label are sorted into classes of "
    "speed. Absent for a kind of fewer than 3 nodes.",
    (*SHARD, "node", "model", "engine"),
)
NODE_STARTED_INSTANCES = gauge(
    "ollama_node_started_instances",
    "Instances of a node that started within the last 5 minutes; absent if none did.",
    (*SHARD, "node"),
)
NODE_ERRORS = counter(
    "ollama_node_errors_total",
    "Failed requests reported by a node's instances since this exporter started. With gateway.url, "
    "as in ollama_fleet_errors_total.",
    (*SHARD, "node", "error_type"),
)
