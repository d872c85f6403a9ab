"""Series that the gateway publishes about the requests that pass it."""

from __future__ import annotations

from exporter.catalogue.series import counter, gauge, histogram

OF_NODE = ("model", "node")

GATEWAY_REQUEST_DURATION = histogram(
    "ollama_gateway_request_duration_seconds",
    "Duration of requests that an instance took, from arrival at the gateway to the last byte.",
    OF_NODE,
)
GATEWAY_TIME_TO_FIRST_TOKEN = histogram(
    "ollama_gateway_time_to_first_token_seconds",
    "Time from the arrival of a request at the gateway to the first byte of a streamed answer.",
    OF_NODE,
)
GATEWAY_QUEUE_TIME = histogram(
    "ollama_gateway_queue_time_seconds",
    "Time that a request waits in the gateway for a free instance.",
    ("model",),
)
GATEWAY_REQUESTS = counter(
    "ollama_gateway_requests_total",
    "Requests that an instance took, by status code. 499: the client left. 502: also an answer "
    "that broke off.",
    (*OF_NODE, "code"),
)
GATEWAY_GENERATED_TOKENS = counter(
    "ollama_gateway_generated_tokens_total",
    "Tokens generated, as the answers report them.",
    OF_NODE,
)
GATEWAY_PROMPT_TOKENS = counter(
    "ollama_gateway_prompt_tokens_total", "Tokens of prompts, as the answers report them.", OF_NODE
)
GATEWAY_GENERATION_SECONDS = counter(
    "ollama_gateway_generation_seconds_total",
    "Time that instances generated tokens, as the answers report it.",
    OF_NODE,
)
GATEWAY_REJECTED = counter(
    "ollama_gateway_rejected_total",
    "Requests that the gateway refused. fleet_full: every instance that has the model is at its "
    "limit (429). model_unknown: no instance has the model. unauthorised: no valid API key. "
    "over_limit: the developer's limit is used up. forbidden: the path or the method is not "
    "allowed. too_large: the body is above the limit. bad_request: the body is no valid request.",
    ("reason",),
)
GATEWAY_RETRIES = counter(
    "ollama_gateway_retries_total",
    "Tries of a further instance, by what was wrong with the one before.",
    ("reason",),
)
GATEWAY_UPSTREAMS = gauge(
    "ollama_gateway_upstreams", "Instances in the upstream list that the gateway uses."
)
GATEWAY_UPSTREAMS_EJECTED = gauge(
    "ollama_gateway_upstreams_ejected",
    "Instances in the list that get no requests for a while, because they failed.",
)
GATEWAY_UPSTREAMS_AGE = gauge(
    "ollama_gateway_upstreams_age_seconds",
    "Time since the upstream list was last read, or confirmed as unchanged.",
)
GATEWAY_UPSTREAMS_REFUSED = counter(
    "ollama_gateway_upstreams_refused_total",
    "Upstream lists that the gateway refused: not valid, too large, or empty while it held "
    "instances. It keeps the last good list.",
)
GATEWAY_REQUESTS_IN_FLIGHT = gauge(
    "ollama_gateway_requests_in_flight", "Requests that the gateway has not answered yet."
)
GATEWAY_DEVELOPER_TOKENS = counter(
    "ollama_gateway_developer_tokens_total",
    "Tokens of prompts and answers by developer. Those beyond the limit of developers are other.",
    ("developer",),
)
GATEWAY_BUILD_INFO = gauge(
    "ollama_gateway_build_info",
    "Always 1. The label is the version of ollama-fleet that rendered the configuration.",
    ("version",),
)
