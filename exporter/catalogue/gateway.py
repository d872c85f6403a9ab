"""Series that the gateway publishes about the requests that pass it."""

from __future__ import annotations

from exporter.catalogue.series import Kind, Series

OF_NODE = ("model", "node")

GATEWAY_REQUEST_DURATION = Series(
    "ollama_gateway_request_duration_seconds",
    Kind.HISTOGRAM,
    "Duration of requests that an instance took, from arrival at the gateway to the last byte.",
    OF_NODE,
)
GATEWAY_TIME_TO_FIRST_TOKEN = Series(
    "ollama_gateway_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "Time from the arrival of a request at the gateway to the first byte of a streamed answer.",
    OF_NODE,
)
GATEWAY_QUEUE_TIME = Series(
    "ollama_gateway_queue_time_seconds",
    Kind.HISTOGRAM,
    "Time that a request waits in the gateway for a free instance.",
    ("model",),
)
GATEWAY_REQUESTS = Series(
    "ollama_gateway_requests_total",
    Kind.COUNTER,
    "Requests that an instance took, by status code. 499: the client left. 502: also an answer "
    "that broke off.",
    (*OF_NODE, "code"),
)
GATEWAY_GENERATED_TOKENS = Series(
    "ollama_gateway_generated_tokens_total",
    Kind.COUNTER,
    "Tokens generated, as the answers report them.",
    OF_NODE,
)
GATEWAY_PROMPT_TOKENS = Series(
    "ollama_gateway_prompt_tokens_total",
    Kind.COUNTER,
    "Tokens of prompts, as the answers report them.",
    OF_NODE,
)
GATEWAY_GENERATION_SECONDS = Series(
    "ollama_gateway_generation_seconds_total",
    Kind.COUNTER,
    "Time that instances generated tokens, as the answers report it.",
    OF_NODE,
)
GATEWAY_REJECTED = Series(
    "ollama_gateway_rejected_total",
    Kind.COUNTER,
    "Requests that the gateway refused. fleet_full: every instance that has the model is at its "
    "limit (429). model_unknown: no instance has the model. unauthorised: no valid API key. "
    "over_limit: the developer's limit is used up. forbidden: the path or the method is not "
    "allowed. too_large: the body is above the limit. bad_request: the body is no valid request.",
    ("reason",),
)
GATEWAY_RETRIES = Series(
    "ollama_gateway_retries_total",
    Kind.COUNTER,
    "Tries of a further instance, by what was wrong with the one before.",
    ("reason",),
)
GATEWAY_UPSTREAMS = Series(
    "ollama_gateway_upstreams",
    Kind.GAUGE,
    "Instances in the upstream list that the gateway uses.",
)
GATEWAY_UPSTREAMS_EJECTED = Series(
    "ollama_gateway_upstreams_ejected",
    Kind.GAUGE,
    "Instances in the list that get no requests for a while, because they failed.",
)
GATEWAY_UPSTREAMS_AGE = Series(
    "ollama_gateway_upstreams_age_seconds",
    Kind.GAUGE,
    "Time since the upstream list was last read, or confirmed as unchanged.",
)
GATEWAY_UPSTREAMS_REFUSED = Series(
    "ollama_gateway_upstreams_refused_total",
    Kind.COUNTER,
    "Upstream lists that the gateway refused: not valid, too large, or empty while it held "
    "instances. It keeps the last good list.",
)
GATEWAY_REQUESTS_IN_FLIGHT = Series(
    "ollama_gateway_requests_in_flight",
    Kind.GAUGE,
    "Requests that the gateway has not answered yet.",
)
GATEWAY_DEVELOPER_TOKENS = Series(
    "ollama_gateway_developer_tokens_total",
    Kind.COUNTER,
    "Tokens of prompts and answers by developer. Those beyond the limit of developers are other.",
    ("developer",),
)
GATEWAY_BUILD_INFO = Series(
    "ollama_gateway_build_info",
    Kind.GAUGE,
    "Always 1. The label is the version of ollama-fleet that rendered the configuration.",
    ("version",),
)
