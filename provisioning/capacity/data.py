"""Read what is known of hardware and models: speed, memory, quality, price."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ollama_fleet import yaml_lines
from ollama_fleet.levels import parse_positive_share
from ollama_fleet.problems import Problem
from ollama_fleet.sizes import parse_size_bytes
from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.yaml_lines import Document, InvalidDocumentError
from ollama_fleet.yaml_lines import Path as Place
from provisioning.capacity.errors import DataError, UnknownError

BUILT_IN = Path(__file__).with_name("data.yml")
MAX_FILE_BYTES = 1_000_000
SECTIONS = ("hardware", "models")


class Bytes(float):
    """A size that stands in the file with its unit."""


class Share(float):
    """A share that stands in the file as `97.2%`."""


class Positive(float):
    """A number above 0."""


class Hardware(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of node; what is None is not known."""

    source: str
    cores: Positive | None = None
    memory: Bytes | None = None
    memory_bandwidth: Bytes | None = None
    """Each second."""
    price_per_month: Positive | None = None


class Quantisation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model in one quantisation."""

    source: str
    weights: Bytes | None = None
    memory: Bytes | None = None
    """Of an instance that has it loaded."""
    quality: Share | None = None
    """Part of its output that is correct."""
    tokens_per_second: dict[str, Positive] = {}
    """Of an instance that has the node's memory to itself, by hardware."""


class Data(msgspec.Struct, frozen=True):
    """All that is known."""

    hardware: Mapping[str, Hardware]
    models: Mapping[str, Mapping[str, Quantisation]]

    def node(self, name: str) -> Hardware:
        """Return a kind of node.

        Raises:
            UnknownError: There is none of that name.
        """
        if name in self.hardware:
            return self.hardware[name]
        raise UnknownError(
            f"the data have no hardware {name!r}, only {', '.join(self.hardware)}; state it by "
            "--cores, --memory and --price-per-month, or add it with --data FILE"
            f"{did_you_mean(name, self.hardware)}"
        )

    def model(self, name: str, quantisation: str) -> Quantisation:
        """Return a model in a quantisation.

        Raises:
            UnknownError: There is none of that name.
        """
        if found := self.models.get(name, {}).get(quantisation):
            return found
        known = [f"{model} ({', '.join(kinds)})" for model, kinds in self.models.items()]
        near = self.models.get(name)
        raise UnknownError(
            f"the data have no model {name!r} in quantisation {quantisation!r}, only "
            f"{'; '.join(known)}; state it by --tokens-per-second and --memory-per-instance, or "
            "add it with --data FILE"
            f"{did_you_mean(quantisation, near) if near else did_you_mean(name, self.models)}"
        )


EntryT = TypeVar("EntryT", Hardware, Quantisation)


def load(file: Path | None = None) -> Data:
    """Return what is known, with the entries of a file before the built-in ones.

    Raises:
        DataError: The file cannot be used.
    """
    known = _read(BUILT_IN)
    if file is None:
        return known
    own = _read(file)
    names = [*known.models, *(own.models.keys() - known.models.keys())]
    models = {name: {**known.models.get(name, {}), **own.models.get(name, {})} for name in names}
    return Data({**known.hardware, **own.hardware}, models)


def _read(file: Path) -> Data:
    try:
        document = yaml_lines.read(file, max_bytes=MAX_FILE_BYTES)
    except InvalidDocumentError as error:
        raise DataError(str(file), [error.problem]) from error
    problems: list[Problem] = []
    content = _mapping(document, (), document.content, problems)
    problems += _unknown_sections(document, content)
    hardware = _entries(document, ("hardware",), content.get("hardware"), Hardware, problems)
    models = {
        str(name): _entries(document, ("models", name), kinds, Quantisation, problems)
        for name, kinds in _mapping(document, ("models",), content.get("models"), problems).items()
    }
    if problems:
        raise DataError(str(file), problems)
    return Data(hardware, models)


def _unknown_sections(document: Document, content: Mapping[str, Any]) -> Iterator[Problem]:
    for name in content.keys() - {*SECTIONS}:
        message = f"unknown key{did_you_mean(str(name), SECTIONS)}"
        yield Problem(document.place((name,)), message)


def _mapping(
    document: Document, path: Place, value: object, problems: list[Problem]
) -> dict[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    problems.append(Problem(document.place(path), "must be a mapping"))
    return {}


def _entries(
    document: Document, path: Place, value: object, type_: type[EntryT], problems: list[Problem]
) -> dict[str, EntryT]:
    found = {}
    for name, entry in _mapping(document, path, value, problems).items():
        try:
            found[str(name)] = msgspec.convert(entry, type_, dec_hook=_value)
        except (msgspec.ValidationError, ValueError) as error:
            problems.append(Problem(document.place((*path, name)), _fault(error)))
    return found


def _fault(error: Exception) -> str:
    """Return what is wrong: `memory: must be a size …`."""
    text, _, place = str(error).partition(" - at `$")
    key = re.sub(r"\W+", ".", place).strip(".")
    return f"{key}: {text}" if key else text


def _value(type_: type, value: object) -> object:
    if type_ is Bytes:
        return Bytes(parse_size_bytes(value))
    if type_ is Share:
        return Share(parse_positive_share(value))
    if type_ is not Positive:
        raise NotImplementedError(type_)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:
        raise ValueError(f"must be a number above 0, got {value!r}")
    return Positive(value)
