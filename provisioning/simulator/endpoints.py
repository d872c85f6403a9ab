"""The generation endpoints of Ollama and OpenAI, and their requests as Go reads them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from provisioning.simulator.wire import Response

NS_PER_S = 1_000_000_000
FOREVER_S = (2**63 - 1) / NS_PER_S
"""The longest duration there is: 292 years."""
UNIT_S: Mapping[str, float] = MappingProxyType(
    {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
)
_TERM = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([^0-9.]*)")
_BLANKS = " \t\r\n"


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"cannot unmarshal number {text} into Go value of type float64")
    return number


def _no_constant(text: str) -> float:
    raise ValueError(f"invalid character {text[0]!r} looking for beginning of value")


_DECODER = json.JSONDecoder(parse_float=_float, parse_constant=_no_constant)


def encode_json(value: object) -> bytes:
    """Write a value compactly, with `<`, `>` and `&` escaped."""
    try:
        data = msgspec.json.encode(value)
    except UnicodeEncodeError:  # half of a surrogate pair, which only the other encoder can write
        data = json.dumps(value, separators=(",", ":")).encode()
    return data.replace(b"<", rb"\u003c").replace(b">", rb"\u003e").replace(b"&", rb"\u0026")


def first_value(body: bytes) -> object:
    """Read the first JSON value of a body; what follows it is ignored.

    Raises:
        EOFError: There is none.
        ValueError: It is no JSON.
    """
    text = body.decode("utf-8", "replace").lstrip(_BLANKS)
    if not text:
        raise EOFError
    try:
        value, _ = _DECODER.raw_decode(text)
    except RecursionError:
        raise ValueError("exceeded max depth") from None
    return value


def timestamp(unix_s: float) -> str:
    """Write a time of day in UTC with as many decimals as it has, up to nine."""
    rest_s, whole_s = math.modf(unix_s)
    fraction = f".{int(rest_s * NS_PER_S):09}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(whole_s, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def duration_s(text: str) -> float:
    """Read a duration such as `5m` or `-1h30m`, or raise ValueError in Go's words."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text.startswith(("-", "+")) else text
    if rest == "0":
        return 0.0
    total_s, position = 0.0, 0
    while position < len(rest) or not rest:
        term = _TERM.match(rest, position)
        if term is None:
            raise ValueError(f"time: invalid duration {json.dumps(text)}")
        total_s += float(term[1]) * _unit_s(term[2], text)
        position = term.end()
    if total_s > FOREVER_S:
        raise ValueError(f"time: invalid duration {json.dumps(text)}")
    return sign * total_s


def _unit_s(unit: str, text: str) -> float:
    if not unit:
        raise ValueError(f"time: missing unit in duration {json.dumps(text)}")
    if unit not in UNIT_S:
        raise ValueError(f"time: unknown unit {json.dumps(unit)} in duration {json.dumps(text)}")
    return UNIT_S[unit]


def keep_alive_s(value: object) -> float | None:
    """Read how long a model stays loaded: seconds, or a duration; below 0 means for ever.

    Raises:
        ValueError: It is neither.
    """
    match value:
        case None:
            return None
        case bool():
            raise ValueError("Unsupported type: 'bool'")
        case int() | float():
            length_s = FOREVER_S if value < 0 else min(float(int(value)), FOREVER_S)
        case str():
            length_s = duration_s(value)
        case _:
            kind = "[]interface {}" if isinstance(value, list) else "map[string]interface {}"
            raise ValueError(f"Unsupported type: '{kind}'")
    return FOREVER_S if length_s < 0 else length_s


MAX_INPUTS = 1_000
"""To be embedded by one request: each makes a long answer."""
BAD_REQUEST = HTTPStatus.BAD_REQUEST
NOT_FOUND = HTTPStatus.NOT_FOUND


class Operation(Enum):
    """What an endpoint does."""

    GENERATE = auto()
    CHAT = auto()
    EMBED = auto()
    EMBEDDINGS = auto()
    SHOW = auto()
    PULL = auto()
    COPY = auto()
    DELETE = auto()


GENERATING = frozenset({Operation.GENERATE, Operation.CHAT})
EMBEDDING = frozenset({Operation.EMBED, Operation.EMBEDDINGS})


class ErrorWriter(Protocol):
    """How an API words its errors."""

    def failure(self, status: HTTPStatus, message: str) -> Response:
        """Write the answer to a request that was read, and cannot be granted."""
        ...

    def misread(self, message: str) -> Response:
        """Write the answer to a body that cannot be read."""
        ...


class RequestError(Exception):
    """A request that is answered with an error."""

    def __init__(self, response: Response) -> None:
        self.response = response
        super().__init__(response.body.decode())


@dataclass(frozen=True, slots=True)
class ModelJob:
    """What a client wants."""

    deed: Operation
    name: str
    """Of the model, as the client wrote it; the answer repeats it."""
    prompt: str = ""
    """Empty: only load the model, or unload it."""
    inputs: tuple[str, ...] = ()
    """To be embedded."""
    destination: str = ""
    """Of a copy."""
    is_stream: bool = True
    includes_usage: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive_s: float | None = None

    @property
    def num_predict(self) -> int:
        """Return the most tokens that are wanted; 0 or less: any number."""
        return int(self.options.get("num_predict") or 0)


NAMELESS: Mapping[Operation, tuple[HTTPStatus, str]] = MappingProxyType(
    {
        Operation.GENERATE: (NOT_FOUND, "model '' not found"),
        Operation.CHAT: (BAD_REQUEST, "model is required"),
        Operation.EMBED: (NOT_FOUND, "model '' not found"),
        Operation.EMBEDDINGS: (BAD_REQUEST, "model is required"),
        Operation.SHOW: (BAD_REQUEST, "model is required"),
        Operation.PULL: (BAD_REQUEST, "invalid model name"),
        Operation.COPY: (BAD_REQUEST, 'source "" is invalid'),
        Operation.DELETE: (BAD_REQUEST, 'name "" is invalid'),
    }
)
"""What a request without a model is answered."""
UNKNOWN: Mapping[Operation, str] = MappingProxyType(
    dict.fromkeys(Operation, "model '{}' not found")
    | {
        Operation.EMBEDDINGS: 'model "{}" not found, try pulling it first',
        Operation.COPY: 'model "{}" not found',
    }
)
"""What a request for a model that is not installed is answered, with 404."""
WORD_BY_OPTION: Mapping[str, str] = MappingProxyType(
    {
        "main_gpu": "integer",
        "num_batch": "integer",
        "num_ctx": "integer",
        "num_gpu": "integer",
        "num_keep": "integer",
        "num_predict": "integer",
        "num_thread": "integer",
        "repeat_last_n": "integer",
        "seed": "integer",
        "top_k": "integer",
        "frequency_penalty": "float32",
        "min_p": "float32",
        "presence_penalty": "float32",
        "repeat_penalty": "float32",
        "temperature": "float32",
        "top_p": "float32",
        "typical_p": "float32",
        "use_mmap": "boolean",
        "stop": "array",
    }
)
TYPES_BY_WORD: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {"integer": (int, float), "float32": (int, float), "boolean": (bool,), "array": (list,)}
)


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """Return what it says; pictures say nothing."""
        if isinstance(self.content, list):
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class _Body(msgspec.Struct):
    """All fields that mean something to an endpoint."""

    model: str | None = None
    name: str | None = None
    source: str | None = None
    destination: str | None = None
    prompt: str | None = None
    messages: list[_Message] | None = None
    input: Any = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


def read_job(body: bytes, deed: Operation, refusals: ErrorWriter, *, is_openai: bool) -> ModelJob:
    """Read what is wanted, whether it can be had or not.

    Raises:
        RequestError: It cannot be read.
    """
    try:
        job = _job(msgspec.convert(first_value(body), type=_Body), deed, is_openai=is_openai)
    except EOFError:
        raise RequestError(
            refusals.misread("EOF" if is_openai else "missing request body")
        ) from None
    except (ValueError, OverflowError) as error:  # msgspec's errors are ValueErrors too
        raise RequestError(refusals.misread(str(error))) from error
    if not job.name:
        raise RequestError(refusals.failure(*NAMELESS[deed]))
    return job


def check_options(job: ModelJob, refusals: ErrorWriter) -> None:
    """Raise RequestError where an option has a value of the wrong type."""
    for key, value in job.options.items():
        word = WORD_BY_OPTION.get(key)
        if word is not None and value is not None and type(value) not in TYPES_BY_WORD[word]:
            message = f'option "{key}" must be of type {word}'
            raise RequestError(refusals.failure(HTTPStatus.INTERNAL_SERVER_ERROR, message))


def _job(body: _Body, deed: Operation, *, is_openai: bool) -> ModelJob:
    if is_openai and deed is Operation.CHAT and not body.messages:
        raise ValueError("[] is too short - 'messages'")
    options = body.options or {}
    if is_openai:
        options = {} if body.max_tokens is None else {"num_predict": body.max_tokens}
    messages = "\n".join(message.text for message in body.messages or ())
    return ModelJob(
        deed=deed,
        name=(body.source if deed is Operation.COPY else body.model or body.name) or "",
        prompt=messages if deed is Operation.CHAT else body.prompt or "",
        inputs=_inputs(body, deed, is_openai=is_openai),
        destination=body.destination or "",
        is_stream=bool(body.stream) if is_openai else body.stream is not False,
        includes_usage=body.stream_options is not None and body.stream_options.include_usage,
        options=options,
        keep_alive_s=keep_alive_s(body.keep_alive),
    )


def _inputs(body: _Body, deed: Operation, *, is_openai: bool) -> tuple[str, ...]:
    if deed is Operation.EMBEDDINGS:
        return (body.prompt,) if body.prompt else ()
    given = body.input
    if is_openai and deed is Operation.EMBED and given in (None, []):
        raise ValueError("invalid input")
    if given is None or (given == "" and not is_openai):
        return ()
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list) or not all(isinstance(one, str) for one in inputs):
        raise ValueError("invalid input type")
    if len(inputs) > MAX_INPUTS:
        raise ValueError(f"the simulation embeds at most {MAX_INPUTS:,} inputs at once")
    return tuple(inputs)
