"""Check single inventory values, and quote them in messages without credentials."""

from __future__ import annotations

import re

MAX_TEXT_CHARACTERS = 256
MAX_SHOWN_CHARACTERS = 60
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def text_fault(value: str) -> str:
    """Return what is wrong with a text as a label value; empty when nothing is."""
    if len(value) > MAX_TEXT_CHARACTERS:
        return f"must be at most {MAX_TEXT_CHARACTERS} characters long, got {len(value):,}"
    # `isprintable` is the quick answer for nearly all; it also refuses harmless exotic spaces.
    if value.isprintable() or not UNPRINTABLE.search(value):
        return ""
    return f"must not contain control characters, got {shown(value)}"


def label_name_fault(name: str) -> str:
    """Return what is wrong with a label's name; empty when nothing is."""
    if not LABEL_NAME.fullmatch(name):
        return "is not a label name: letters, digits and _ only, no digit first"
    if name.startswith("__"):
        return "is not allowed: names that begin with __ are Prometheus's own"
    return ""


def shown(value: object) -> str:
    """Return a value as a message may quote it: short, on one line, without credentials."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if not isinstance(value, str):
        return _clipped(str(value))
    return ascii(_clipped(_without_credentials(value)))


def _without_credentials(text: str) -> str:
    """Return a text without what may be a password before its last @, or a token after a ?."""
    before, at, after = text.rpartition("@")
    scheme, separator, _ = before.partition("://")
    shown_before = f"{scheme}://***" if separator and scheme.isalnum() else "***"
    text = f"{shown_before}@{after}" if at else text
    url, query, _ = text.partition("?")
    return f"{url}?***" if query and "/" in url else text


def _clipped(text: str) -> str:
    is_long = len(text) > MAX_SHOWN_CHARACTERS
    return f"{text[:MAX_SHOWN_CHARACTERS]}…" if is_long else text
