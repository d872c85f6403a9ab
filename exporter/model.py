"""The types that flow through the exporter: inventory → Target → poller → Reading → snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import msgspec

from exporter.catalogue import BOUNDARIES_S
from exporter.catalogue import Condition as Condition  # alerts name its members too
from ollama_fleet.canary_outcome import CanaryOutcome as CanaryOutcome  # the provisioner's, too

NO_LABELS: Mapping[str, str] = MappingProxyType({})


class State(StrEnum):
    """What the inventory says about an instance."""

    RUNNING = "running"
    PROVISIONING = "provisioning"
    DRAINING = "draining"


AUTO = "auto"
"""In the place of an engine's name: the exporter finds out which engine the instance needs."""


class Status(StrEnum):
    """Status of an instance; the label value of `ollama_fleet_instances`."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and these are counted all the time

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNREACHABLE = "unreachable"
    LOADING = "loading"
    STARTING = "starting"
    PROVISIONING = "provisioning"
    DRAINING = "draining"
    AWAY = "away"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """How one request to an instance ended; the label value `outcome` of the poll errors."""

    __hash__ = str.__hash__

    OK = "ok"
    LOADING = "loading"
    LOADING_TIMEOUT = "loading_timeout"
    UNRESOLVED = "unresolved"
    REFUSED = "refused"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT_FAILED = "connect_failed"
    TLS = "tls"
    RESET = "reset"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    FORBIDDEN = "forbidden"
    HTTP_STATUS = "http_status"
    BAD_BODY = "bad_body"
    IMPLAUSIBLE = "implausible"
    UNRECOGNISED = "unrecognised"
    NO_DESCRIPTOR = "no_descriptor"


class HealthCheck(StrEnum):
    """What decides whether an instance is healthy; `health` in the inventory."""

    __hash__ = str.__hash__

    POLL = "poll"
    CANARY = "canary"
    """Its polls, and whether its canaries stall."""


@dataclass(frozen=True, slots=True)
class Target:
    """One instance as the inventory describes it.

    Two equal targets are the same work: an inventory change replaces only the targets that differ.
    """

    id: str
    host: str
    """Address or name to connect to, without brackets."""
    port: int
    tls: bool = False
    path: str = ""
    """Prefix before every requested path, without a trailing slash; empty for most."""
    node: str = ""
    model: str = ""
    """Empty where the inventory does not say: then the instance's own answer counts."""
    engine: str = AUTO
    """A name in `exporter.engines.ENGINE_NAMES`."""
    state: State = State.RUNNING
    developer: str = ""
    started_s: float | None = None
    """When it started, in seconds since 1970 UTC; None: the inventory does not say."""
    health: HealthCheck = HealthCheck.POLL
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS, hash=False)
    origin: str = field(default="", compare=False)
    """Where the entry stands, for messages: `fleet.yml:12` or `http://host/instances[3]`."""

    @property
    def netloc(self) -> str:
        """Return `host:port` as a URL writes it, IPv6 addresses in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the instance's base URL."""
        return f"{'https' if self.tls else 'http'}://{self.netloc}{self.path}"


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole HTTP answer of an instance."""

    status: int
    body: bytes


class Histogram(msgspec.Struct, frozen=True, gc=False):
    """Durations as an instance counts them."""

    cumulative: tuple[float, ...]
    """Requests at or below each boundary, the last of them +Inf: the count of all."""
    sum_s: float
    boundaries_s: tuple[float, ...] = BOUNDARIES_S
    """Without +Inf. Histograms of one kind of server share one tuple."""


LATEST = ":latest"


def model_name(name: str) -> str:
    """Return a model's name as it is written everywhere: `name` and `name:latest` are one model."""
    return name.removesuffix(LATEST)


MAX_LOADED = 32
"""Loaded models of an instance that are kept: Ollama keeps three per GPU. More may be loaded."""


class LoadedModel(msgspec.Struct, frozen=True, gc=False):
    """A model in an instance's memory. None means that the instance does not say."""

    name: str
    """Without `:latest`."""
    size_bytes: float | None = None
    vram_bytes: float | None = None
    """Less than `size_bytes`: partly or wholly on the CPU."""
    expires_at_s: float | None = None
    """When the server unloads it if no request comes, in seconds since 1970 UTC. None: never, or
    the server does not say."""
    context_length: float | None = None
    is_pinned: bool = False
    """Whether it never expires."""


class Values(msgspec.Struct, frozen=True, gc=False):
    """What an instance reports about itself. None means that it does not report it."""

    models: tuple[str, ...] = ()
    version: str | None = None
    tokens_per_second: float | None = None
    latency_p99_s: float | None = None
    requests_running: float | None = None
    requests_queued: float | None = None
    start_time_s: float | None = None
    """Seconds since 1970 UTC."""
    generated_tokens_total: float | None = None
    prompt_tokens_total: float | None = None
    generating_seconds_total: float | None = None
    errors_total: tuple[tuple[str, float], ...] = ()
    """(error type, count since the instance started), sorted by type."""
    request_duration: Histogram | None = None
    loaded: tuple[LoadedModel, ...] | None = None
    """At most 16; empty where nothing is loaded."""
    installed: tuple[str, ...] | None = None
    """At most 200 names, sorted, without `:latest`; None also where it was not asked."""
    kv_cache_usage_ratio: float | None = None
    time_to_first_token: Histogram | None = None
    queue_time: Histogram | None = None


NO_VALUES = Values()


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What an engine makes of the answers to one poll."""

    outcome: Outcome
    """OK, LOADING, or why the instance does not count as healthy."""
    detail: str = ""
    """What was seen, for people; empty when all is well."""
    values: Values = NO_VALUES
    metrics_outcome: Outcome = Outcome.OK
    """How reading the metrics went; a healthy instance whose metrics fail stays healthy."""
    metrics_detail: str = ""


class Reading(msgspec.Struct, frozen=True, gc=False):
    """The result of one poll of one instance."""

    verdict: Verdict
    engine: str
    """The engine that was asked; `auto` while none was recognised."""
    polled_at_s: float
    """When the poll began, in seconds since 1970 UTC."""
    duration_s: float
    """From the start of the poll to its last answer, connecting included."""


class Generation(msgspec.Struct, frozen=True, gc=False):
    """What a canary measured. None means that the server does not say."""

    n_tokens: float
    tokens_per_second: float | None = None
    time_to_first_token_s: float | None = None
    waiting_s: float | None = None
    """Time in the server's own queue."""
    load_s: float | None = None
    """Time to load the model."""
    duration_s: float = 0.0
    """Time of the whole request."""


class Context(msgspec.Struct, frozen=True, gc=False):
    """What decides whether the context length is sent to an instance's model (see `ollama`)."""

    model: str
    trained: float | None
    """The context length that the model was trained with; None: the server does not say."""
    is_reversed: bool = False
    """Whether the last canary's choice had the model loaded again."""


class CanaryState(msgspec.Struct, frozen=True, gc=False):
    """The results of one instance's canaries so far."""

    outcome: CanaryOutcome
    """Outcome of the last canary, which may have been skipped."""
    detail: str
    """What went wrong, or why it was skipped, for people; empty when all is well."""
    at_s: float
    """When the last one began, in seconds since 1970 UTC."""
    n_stalled: int = 0
    """Stalled canaries in a row; a canary skipped as busy does not end the row."""
    asked_at_s: float | None = None
    """When a canary was last sent; None: all were skipped."""
    generation: Generation | None = None
    """Of the last canary that was sent; None if that failed."""
