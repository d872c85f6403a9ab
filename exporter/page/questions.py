"""Understand what a browser asks for.

In:   a query string, taken apart.
Out:  a question. Fails with ValueError, whose text names what can be asked for. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.instances import FILTER_KEYS, Filter, check_keys, parse_filter
from exporter.page.cells import STATUS, Value

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

VALUES = tuple(Value)
MAX_DIGITS = 15


@dataclass(frozen=True, slots=True)
class SinceThen:
    """The question what changed since a revision."""

    layout: str
    revision: int
    value: Value | None
    is_value_whole: bool
    """Whether the browser has nothing of the value yet."""


def parse_map(query: Mapping[str, str]) -> Value | None:
    """Return the value that is wanted beside the statuses."""
    check_keys(query, ("value",))
    return _value(query, VALUES)


def parse_changes(query: Mapping[str, str]) -> SinceThen:
    """Return which changes are wanted."""
    check_keys(query, ("layout", "revision", "value", "full"))
    for name in ("layout", "revision"):
        if name not in query:
            raise ValueError(f"{name} is required, as /fleet/map gives it")
    if query.get("full", "value") != "value":
        raise ValueError(f"full can only be value, not {query['full']!r}")
    text = query["revision"]
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise ValueError(f"revision must be a whole number, as /fleet/map gives it: {text!r}")
    return SinceThen(query["layout"], int(text), _value(query, VALUES), "full" in query)


def parse_worst(query: Mapping[str, str]) -> tuple[Value | None, Filter]:
    """Return what ranks the instances, None for their status, and which of them are wanted."""
    check_keys(query, ("value", *FILTER_KEYS))
    rest = {key: text for key, text in query.items() if key != "value"}
    by_status = query.get("value", STATUS) == STATUS
    return None if by_status else _value(query, (STATUS, *VALUES)), parse_filter(rest)


def _value(query: Mapping[str, str], allowed: Collection[str]) -> Value | None:
    if "value" not in query:
        return None
    if query["value"] not in allowed:
        raise ValueError(f"there is no value {query['value']!r}, only {', '.join(allowed)}")
    return Value(query["value"])
