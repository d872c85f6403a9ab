"""Texts of a workload that differ from instance to instance: `--port={port}`.

In:   a text with names in braces; `{{` and `}}` stand for literal braces.
Out:  the text with the names' values. Fails with ValueError. Pure.
`str.format` would do more than is wanted: it reaches into attributes of values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAMES = ("address", "host", "id", "model", "node", "port")
"""`address` is host:port as a URL has it, an IPv6 address in brackets."""
TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def placeholder_fault(text: str) -> str:
    """Return what is wrong with a text's placeholders; empty when nothing is."""
    for found in TOKEN.finditer(text):
        if found[0] in ("{{", "}}") or found[1] in NAMES:
            continue
        if found[1] is None:
            return f"holds a single `{found[0]}`; write it twice for a literal one"
        known = ", ".join(f"{{{name}}}" for name in NAMES)
        return f"holds the unknown placeholder {found[0]}; known are {known}; {{{{ is a brace"
    return ""


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return the text with its placeholders replaced.

    Raises:
        ValueError: It holds a placeholder without a value, or a single brace.
    """
    if fault := placeholder_fault(text):
        raise ValueError(fault)
    return TOKEN.sub(lambda found: values[found[1]] if found[1] else found[0][0], text)
