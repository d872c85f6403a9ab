"""JSON, times and durations as Go reads and writes them, which is how Ollama does."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

import msgspec

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
