"""Every setting of the gateway: its default, its unit and what it means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from ollama_fleet.durations import duration_text, parse_duration_s, parse_positive_duration_s
from ollama_fleet.sizes import parse_size_bytes, size_text

Duration = Annotated[
    float, BeforeValidator(parse_positive_duration_s), PlainSerializer(duration_text)
]
Wait = Annotated[float, BeforeValidator(parse_duration_s), PlainSerializer(duration_text)]
"""A duration that may be 0."""
Size = Annotated[int, BeforeValidator(parse_size_bytes), PlainSerializer(size_text)]
MAX_SOURCES, MAX_WORKERS = 8, 64
AUTO = "auto"
ADDRESS = re.compile(r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:]+\]|\*):\d{1,5}")
PATH = re.compile(r"[\w./@%+,:=-]+")
SOURCE = re.compile(r"http://([\d.]+|\[[0-9a-fA-F:]+\]):\d{1,5}/[\w./~%?&=-]*")


def _address(text: str) -> str:
    if not ADDRESS.fullmatch(text) or not 0 < int(text.rpartition(":")[2]) < 65_536:
        raise ValueError("must be an IP address with a port, such as 127.0.0.1:11430")
    return text


def _path(text: str) -> str:
    if not PATH.fullmatch(text):
        raise ValueError("must be a path without spaces, quotes, $ and the like")
    return text


def _source(text: str) -> str:
    if not SOURCE.fullmatch(text):
        raise ValueError(
            "must be a URL with IP address, port and path: http://127.0.0.1:11440/upstreams"
        )
    return text


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "[::1]"))


def _some(sources: tuple[str, ...]) -> tuple[str, ...]:
    if not 0 < len(sources) <= MAX_SOURCES:
        raise ValueError(f"must have 1 to {MAX_SOURCES} entries")
    return sources


def _workers(given: object) -> object:
    is_number = isinstance(given, int) and not isinstance(given, bool)
    if given != AUTO and not (is_number and 0 < int(str(given)) <= MAX_WORKERS):
        raise ValueError(f"must be `{AUTO}` or a number from 1 to {MAX_WORKERS}")
    return given


Address = Annotated[str, AfterValidator(_address)]
FilePath = Annotated[str, AfterValidator(_path)]
Source = Annotated[str, AfterValidator(_source)]


class Section(BaseModel):
    """A part of the settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Listen(Section):
    """Where the gateway listens."""

    address: Address = Field("127.0.0.1:11430", description="Address that clients use.")
    ops_address: Address = Field(
        "127.0.0.1:11431", description="Address of `/metrics` and `/healthz`, for operators."
    )
    tls_certificate: FilePath | None = Field(
        None, description="PEM file with the certificate chain for clients; none: plain HTTP."
    )
    tls_key: FilePath | None = Field(None, description="PEM file with its private key.")


class Upstreams(Section):
    """Where the list of instances comes from."""

    sources: Annotated[tuple[Source, ...], AfterValidator(_some)] = Field(
        ("http://127.0.0.1:11440/upstreams",),
        description="`/upstreams` of exporters or provisioners; the first that answers counts.",
    )
    refresh: Duration = Field(1.0, description="How often the list is read.")
    timeout: Duration = Field(2.0, description="Longest time to read it from one source.")


class Limit(Section):
    """What one instance takes."""

    rate: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] = Field(
        1.0, description="Requests per second that one instance gets."
    )
    burst: Annotated[int, Field(ge=1, le=10_000)] = Field(
        2, description="Requests that it gets at once after a pause."
    )
    concurrency: Annotated[int, Field(ge=1, le=200)] = Field(
        1, description="Requests in flight, as the server's `OLLAMA_NUM_PARALLEL`."
    )


class KeepAlive(Section):
    """What clients may ask of a model's time in memory."""

    minimum: Annotated[
        float | None,
        BeforeValidator(lambda given: None if given is None else _keep_alive(given)),
        PlainSerializer(lambda s: None if s is None else "-1" if s < 0 else duration_text(s)),
    ] = Field(
        300.0,
        description="Shortest `keep_alive` that a request may ask for; -1: for ever; null: any.",
    )
    below: Literal["rewrite", "refuse"] = Field(
        "rewrite", description="What happens to a request that asks for less."
    )


def _keep_alive(given: object) -> float:
    return -1.0 if str(given) == "-1" else parse_duration_s(given)


class Requests(Section):
    """Bounds of a request, and what it may ask for."""

    max_body: Size = Field(16 * 1024**2, description="Largest body.")
    header_timeout: Duration = Field(10.0, description="Longest time to read a request's head.")
    body_timeout: Duration = Field(30.0, description="Longest pause while reading its body.")
    send_timeout: Duration = Field(
        60.0, description="Longest time that a client takes nothing of its answer."
    )
    connect_timeout: Duration = Field(
        1.0, description="Longest time to connect to an instance; then the next one is tried."
    )
    answer_timeout: Duration = Field(
        600.0, description="Longest pause of an instance while it answers; it is not tried again."
    )
    tries: Annotated[int, Field(ge=1, le=100)] = Field(
        10, description="Instances that one request tries."
    )
    wait: Wait = Field(
        1.0,
        description="How long a request waits for an instance with room, in order of arrival; "
        "0: not at all.",
    )
    max_waiting: Annotated[int, Field(ge=0, le=100_000)] = Field(
        1000, description="Requests that wait, in each worker; more are refused at once."
    )
    count_streams: bool = Field(
        True,
        description="Whether servers of OpenAI's API are asked to count a stream's tokens, which "
        "adds a last chunk without text. Otherwise such streams count for no limit.",
    )


class Ejection(Section):
    """When an instance is left out before the list says so."""

    refused: Duration = Field(
        5.0, description="How long an instance is skipped that cannot be connected to."
    )
    busy: Duration = Field(
        1.0, description="How long one is skipped that answers 503 or breaks a connection."
    )


Count = Annotated[int, Field(ge=0, le=10**15)]


class Keys(Section):
    """API keys of developers, and what each may use in a day; days begin at midnight UTC."""

    file: FilePath | None = Field(
        None,
        description="File of `ollama-fleet gateway keys`; none: requests need no key, and only "
        "this machine may send them.",
    )
    allow_anonymous: bool = Field(
        False, description="Whether other machines may send requests although there are no keys."
    )
    tokens_per_day: Count | None = Field(
        None, description="Tokens of a developer whose key has no limit of its own; none: any."
    )
    requests_per_day: Count | None = Field(
        None, description="Requests of a developer whose key has no limit of its own; none: any."
    )


class Log(Section):
    """What is written about each request."""

    access_file: FilePath | None = Field(
        None, description="File that gets a line of JSON for each request, without its prompt."
    )


class Nginx(Section):
    """Processes, files and connections."""

    workers: Annotated[Any, BeforeValidator(_workers)] = Field(
        AUTO, description="Worker processes; `auto`: one for each CPU."
    )
    connections: Annotated[int, Field(ge=64, le=1_000_000)] = Field(
        16_384, description="Connections of one worker, to clients and instances together."
    )
    idle_connections: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        8192, description="Idle connections to instances that one worker keeps."
    )
    idle_timeout: Duration = Field(
        4.0, description="How long it keeps one; llama-server closes its own after 5 seconds."
    )
    shutdown_timeout: Duration = Field(
        600.0, description="How long a reloaded or stopped gateway finishes its answers."
    )
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")] | None = Field(
        None, description="User of the workers where root starts nginx; none: `nobody`."
    )
    state_dir: FilePath = Field(
        "/var/lib/ollama-fleet-gateway",
        description="Folder of the last good list and of temporary files.",
    )


class Settings(Section):
    """All settings of the gateway."""

    listen: Listen = Listen()
    upstreams: Upstreams = Upstreams()
    limits: dict[Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")], Limit] = Field(
        default_factory=lambda: {"default": Limit()},
        description="By engine (`ollama`, `llama-server`, …); `default` counts for the others.",
    )
    sticky: bool = Field(
        False, description="Whether developers get the instance assigned to them first."
    )
    keep_alive: KeepAlive = KeepAlive()
    requests: Requests = Requests()
    ejection: Ejection = Ejection()
    keys: Keys = Keys()
    log: Log = Log()
    nginx: Nginx = Nginx()

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        """Refuse settings that contradict each other, all at once."""
        if faults := [*self._faults()]:
            raise ValueError("\n".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        listen = self.listen
        if (listen.tls_certificate is None) != (listen.tls_key is None):
            yield "listen.tls_certificate and listen.tls_key must be set together"
        if listen.address == listen.ops_address:
            yield "listen.address and listen.ops_address must differ"
        if not (self.keys.file or self.keys.allow_anonymous or _is_loopback(listen.address)):
            yield (
                "listen.address is open to other machines and there are no API keys: set "
                "keys.file, or keys.allow_anonymous if everyone may send requests"
            )
        if 2 * self.nginx.idle_connections > self.nginx.connections:
            yield "nginx.idle_connections must be at most half of nginx.connections"

    def limit(self, engine: str) -> Limit:
        """Return what one instance of an engine takes."""
        return self.limits.get(engine) or self.limits.get("default") or Limit()
