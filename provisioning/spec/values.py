"""The values of a specification: names, texts, placeholders and amounts, each with its bounds."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo

from ollama_fleet.durations import duration_text, parse_duration_s
from ollama_fleet.levels import parse_share, percent
from ollama_fleet.sizes import parse_size_bytes, size_text
from ollama_fleet.suggestions import did_you_mean
from provisioning.spec.defaults import ENGINES

DAY_S = 86_400.0
GIB = 2**30
MAX_COUNT = 1_000_000
MAX_BYTES = 2**60
MAX_DURATION_S = 3650 * DAY_S
"""Ten years: nobody means a longer one, and sums of such stay finite."""
MIN_CPUS = 0.001
MAX_LABELS = 64

# Texts

CONTAINERD_CHARACTERS = 76
MAX_FLEET_NAME_CHARACTERS = 60
"""Leaves room for the rest of the name of its namespace."""
MAX_POOL_NAME_CHARACTERS = CONTAINERD_CHARACTERS - len("-0000042.1234567890")
"""Leaves room for the number and the generation of its instances."""
MAX_TEXT_CHARACTERS = 256
NAME = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", re.ASCII)
HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
HTTP_PATH = re.compile(r"/[!-\"$-~]*", re.ASCII)
OWN_LABELS = frozenset(
    {"id", "instance_id", "node", "model", "engine", "state", "developer", "pool"}
)
"""Keys of the inventory."""


def name_fault(name: str, max_characters: int) -> str:
    """Return why a text cannot be the name of a fleet, pool or node; empty: it can."""
    if len(name) > max_characters:
        return f"must be at most {max_characters} characters long, got {len(name)}"
    if NAME.fullmatch(name):
        return ""
    return f"must be letters and digits, with single . _ or - between them, got {name!r}"


def text_fault(text: str) -> str:
    """Return why a text cannot be the value of a label; empty: it can."""
    if len(text) > MAX_TEXT_CHARACTERS:
        return f"must be at most {MAX_TEXT_CHARACTERS} characters long, got {len(text):,}"
    return "" if text.isprintable() else f"must not hold control characters, got {text!a}"


def _required_text_fault(text: str) -> str:
    return text_fault(text) if text else "must not be empty"


def _label_name_fault(name: str) -> str:
    if not LABEL_NAME.fullmatch(name) or name.startswith("__"):
        return "is no label name: letters, digits and _, no digit first, not __ first"
    if name in OWN_LABELS:
        return "cannot be: the inventory has a key of this name"
    return text_fault(name)


PLACEHOLDERS = ("address", "host", "id", "model", "node", "port")
"""`address` is host:port as a URL has it, an IPv6 address in brackets."""
TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def placeholder_fault(text: str) -> str:
    """Return what is wrong with a text's placeholders; empty when nothing is."""
    for found in TOKEN.finditer(text):
        if found[0] in ("{{", "}}") or found[1] in PLACEHOLDERS:
            continue
        if found[1] is None:
            return f"holds a single `{found[0]}`; write it twice for a literal one"
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
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


def _variable_name_fault(name: str) -> str:
    return "" if LABEL_NAME.fullmatch(name) else f"is no name for a variable: {name!a}"


def _variable_value_fault(value: str) -> str:
    """Return what is wrong with a value; never shows it, as it may be a secret."""
    if "\0" in value:
        return "must not hold a NUL"
    if not placeholder_fault(value):
        return ""
    known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
    return f"holds braces that are no placeholder; known are {known}; {{{{ is a brace"


def _argument_fault(argument: str) -> str:
    return "must not hold a NUL" if "\0" in argument else placeholder_fault(argument)


def _http_path_fault(path: str) -> str:
    if HTTP_PATH.fullmatch(path):
        return ""
    return f"must begin with / and be visible ASCII without # or spaces, got {path!a}"


def _folder_fault(path: str) -> str:
    if path.startswith("/") and ".." not in path.split("/") and "\0" not in path:
        return ""
    return f"must be an absolute path, got {path!r}"


def _host_fault(host: str) -> str:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return f"must be a host name or an IP address, without a port, got {host!a}"
        return "must not name a zone" if "%" in host else ""
    if HOST_NAME.fullmatch(host):
        return ""
    return f"must be a host name or an IP address, got {host!a}"


def _engine_fault(name: str) -> str:
    if name in ENGINES:
        return ""
    return f"must be one of {', '.join(ENGINES)}, got {name!a}{did_you_mean(name, ENGINES)}"


def _without(fault: Callable[[str], str]) -> AfterValidator:
    """Return a validator that refuses texts with a fault."""

    def validate(text: str) -> str:
        if message := fault(text):
            raise ValueError(message)
        return text

    return AfterValidator(validate)


def _named(max_characters: int) -> AfterValidator:
    return _without(lambda name: name_fault(name, max_characters))


def _text(value: object) -> str:
    """Return a text or a number as a text; `yes` and `true` could mean two things."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a text or a number; put it in quotes")
    return str(value)


def by_name(texts: dict[str, str]) -> dict[str, str]:
    """Return a mapping sorted by its keys."""
    return dict(sorted(texts.items()))


def _set_variables(given: object) -> object:
    """Leave out variables without a value: those drop defaults of the engine."""
    if not isinstance(given, dict):
        return given
    return {name: value for name, value in given.items() if value is not None}


Text = Annotated[str, BeforeValidator(_text)]
NodeName = Annotated[str, _named(CONTAINERD_CHARACTERS)]
PoolName = Annotated[str, _named(MAX_POOL_NAME_CHARACTERS)]
FleetName = Annotated[str, _named(MAX_FLEET_NAME_CHARACTERS)]
Host = Annotated[str, _without(_host_fault)]
ModelName = Annotated[str, _without(_required_text_fault)]
EngineName = Annotated[str, _without(_engine_fault)]
Argument = Annotated[Text, _without(_argument_fault)]
PlainText = Annotated[str, _without(text_fault)]
Label = Annotated[Text, _without(text_fault)]
Developer = Annotated[Text, _without(_required_text_fault)]
HttpPath = Annotated[str, _without(_http_path_fault)]
Folder = Annotated[str, _without(_folder_fault)]
Labels = Annotated[
    dict[Annotated[Text, _without(_label_name_fault)], Label],
    Field(max_length=MAX_LABELS),
    AfterValidator(by_name),
]
Variables = Annotated[
    dict[
        Annotated[Text, _without(_variable_name_fault)],
        Annotated[Text, _without(_variable_value_fault)],
    ],
    BeforeValidator(_set_variables),
    AfterValidator(by_name),
]

# Amounts


def _written(parse: Callable[[object], float]) -> BeforeValidator:
    """Return a validator of amounts, which documents write with their unit, and code without."""

    def validate(given: object, info: ValidationInfo) -> object:
        return parse(given) if info.context else given

    return BeforeValidator(validate)


def _shortest(cpus: float) -> int | float:
    return int(cpus) if cpus.is_integer() else cpus


Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
AtLeastOne = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
Port = Annotated[int, Field(strict=True, ge=1, le=65_535)]
Cpus = Annotated[
    float,
    Field(strict=True, ge=MIN_CPUS, le=MAX_COUNT, allow_inf_nan=False),
    PlainSerializer(_shortest),
]
Size = Annotated[
    int, _written(parse_size_bytes), Field(gt=0, le=MAX_BYTES), PlainSerializer(size_text)
]
Duration = Annotated[
    float,
    _written(parse_duration_s),
    Field(ge=0, le=MAX_DURATION_S),
    PlainSerializer(duration_text),
]
Timeout = Annotated[Duration, Field(gt=0)]
Share = Annotated[float, _written(parse_share), Field(ge=0, le=1), PlainSerializer(percent)]
