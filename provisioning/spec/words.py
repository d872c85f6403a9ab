"""Whether names, paths and addresses can be used where they will have to be.

In:   a text of a specification.
Out:  what is wrong with it; empty when nothing is. Pure.
"""

from __future__ import annotations

import ipaddress
import re

CONTAINERD_CHARACTERS = 76
GENERATION_DIGITS = 10
NUMBER_DIGITS = 7
MAX_NAME_CHARACTERS = CONTAINERD_CHARACTERS
MAX_FLEET_NAME_CHARACTERS = 60
"""Room for what its namespace is called besides."""
MAX_POOL_NAME_CHARACTERS = CONTAINERD_CHARACTERS - NUMBER_DIGITS - GENERATION_DIGITS - 2
"""Room for the container names of its instances: `pool-0000042.1234567890`."""
MAX_TEXT_CHARACTERS = 256
NAME = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", re.ASCII)
HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
PATH = re.compile(r"/[!-\"$-~]*", re.ASCII)
OWN_LABELS = frozenset(
    {"id", "instance_id", "node", "model", "engine", "state", "developer", "pool"}
)
"""Names that the inventory itself uses."""


def name_fault(name: str, max_characters: int) -> str:
    """Return what is wrong with the name of a fleet, pool or node."""
    if len(name) > max_characters:
        return f"must be at most {max_characters} characters long, got {len(name)}"
    if NAME.fullmatch(name):
        return ""
    return f"must be letters and digits, with single . _ or - between them, got {name!r}"


def text_fault(text: str) -> str:
    """Return what is wrong with a text that ends up in labels."""
    if len(text) > MAX_TEXT_CHARACTERS:
        return f"must be at most {MAX_TEXT_CHARACTERS} characters long, got {len(text):,}"
    return "" if text.isprintable() else f"must not hold control characters, got {text!a}"


def label_fault(name: str, value: str) -> str:
    """Return what is wrong with a node's label."""
    if not LABEL_NAME.fullmatch(name) or name.startswith("__"):
        return "is no label name: letters, digits and _, no digit first, not __ first"
    if name in OWN_LABELS:
        return "cannot be: the inventory has a key of this name"
    return text_fault(name) or text_fault(value)


def variable_fault(name: str) -> str:
    """Return what is wrong with the name of an environment variable."""
    return "" if LABEL_NAME.fullmatch(name) else f"is no name for a variable: {name!a}"


def path_fault(path: str) -> str:
    """Return what is wrong with the path of a request."""
    if PATH.fullmatch(path):
        return ""
    return f"must begin with / and be visible ASCII without # or spaces, got {path!a}"


def host_fault(host: str) -> str:
    """Return what is wrong with the address of a node."""
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return f"must be a host name or an IP address, without a port, got {host!a}"
        return "must not name a zone" if "%" in host else ""
    if HOST_NAME.fullmatch(host):
        return ""
    return f"must be a host name or an IP address, got {host!a}"
