"""Read a specification from YAML or JSON, with every problem at once, and write it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path as FilePath
from typing import Any, get_args

import msgspec
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ollama_fleet import yaml_lines
from ollama_fleet.model_faults import fault_text
from ollama_fleet.problems import MAX_PROBLEMS, Problem
from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.yaml_lines import Path, path_text
from provisioning.errors import SpecError
from provisioning.spec.defaults import Completion, Document, Fault
from provisioning.spec.schema import (
    UNWRITTEN,
    Fleet,
    Section,
    Workload,
)
from provisioning.spec.validate import faults_of

SOURCE = "the specification"
MAX_FILE_BYTES = 8_000_000
UNSHOWN = frozenset({"environment", "body", "command"})
"""Below these a value may be a secret."""
BROKEN_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""JSON has these as they are, and a reader of YAML takes them for something else."""
N_CACHED = 2
"""Fleets of 10,000 nodes take megabytes; there are the active one and the one that follows."""
KEY = "[key]"
"""Marks in a place that the key of a mapping is wrong, and not its value."""
IS_DOCUMENT = "document"
"""Context of the validation: amounts have their units."""


def load_fleet(path: FilePath) -> Fleet:
    """Return the fleet that a person's file describes.

    Raises:
        SpecError: The file cannot be read, or the specification has problems.
    """
    try:
        document = yaml_lines.read(path, max_bytes=MAX_FILE_BYTES)
    except yaml_lines.InvalidDocumentError as error:
        raise SpecError(str(path), [error]) from error
    return _read(document, path.parent)


def read_fleet(text: str, *, source: str, folder: FilePath) -> Fleet:
    """Return the fleet that a person's YAML describes; messages call the text `source`.

    Raises:
        SpecError: It has problems: all of them, each with its line.
    """
    try:
        document = yaml_lines.parse(text.encode(), source)
    except yaml_lines.InvalidDocumentError as error:
        raise SpecError(source, [error]) from error
    return _read(document, folder)


def _read(document: yaml_lines.Document, folder: FilePath) -> Fleet:
    completion = Completion()
    content = {} if document.content is None else document.content
    expanded = completion.expanded(content, folder)
    return _checked(expanded, completion, document.source, document.place)


def checked_fleet(text: str | bytes) -> Fleet:
    """Return the fleet of a JSON document that came from elsewhere.

    Raises:
        SpecError: It has problems.
    """
    return _checked(_json(text), Completion(), SOURCE, _place)


@lru_cache(maxsize=N_CACHED)
def decode_fleet(text: str | bytes) -> Fleet:
    """Return the fleet of a stored document; the rules between its parts are not checked again.

    Raises:
        SpecError: It is not a specification.
    """
    try:
        return _validated(Completion().completed(_json(text)))
    except ValidationError as error:
        raise SpecError(SOURCE, _problems(_faults_in(error), _place)) from None


def document_of(section: Section) -> Document:
    """Return a section, or the whole fleet, as a document with every default written out."""
    return section.model_dump(mode="json")


def encode_fleet(fleet: Fleet) -> str:
    """Return the document as JSON on one line, which YAML readers understand too.

    Equal fleets have equal texts: this is what is stored and compared.
    """
    text = msgspec.json.encode(document_of(fleet)).decode()
    return BROKEN_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def fleet_yaml(fleet: Fleet) -> str:
    """Return the document as YAML, with a line end after the last line."""
    return yaml.dump(
        document_of(fleet),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=float("inf"),
    )


class _Dumper(yaml.SafeDumper):
    """Writes repeated values in full, and quotes texts that a reader would change."""

    def ignore_aliases(self, data: object) -> bool:
        """Say that nothing is an alias."""
        return True

    def quoted(self, text: str) -> yaml.ScalarNode:
        """Return a text, in quotes where it holds what YAML has no plain form of."""
        style = '"' if BROKEN_IN_YAML.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.quoted)


def _json(text: str | bytes) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(SOURCE, [f"is not JSON: {error}"]) from error


def _checked(
    content: object, completion: Completion, source: str, place: Callable[[Path], str]
) -> Fleet:
    """Return the fleet of a document whose faults, all of them, are raised at their places."""

    def problems(faults: Iterable[Fault]) -> Iterable[Problem]:
        entries = completion.entry_of_node
        written = (_as_written(fault, entries) for fault in faults)
        return _problems(chain(completion.faults, written), place)

    try:
        fleet = _validated(completion.completed(content))
    except ValidationError as error:
        raise SpecError(source, problems(_faults_in(error))) from None
    # A fleet with gaps would be blamed for what only its gaps cause.
    found = problems(() if completion.faults else faults_of(fleet))
    if shown := list(islice(found, MAX_PROBLEMS + 1)):
        raise SpecError(source, shown)
    return fleet


def _validated(document: object) -> Fleet:
    return Fleet.model_validate(document, by_alias=True, by_name=False, context=IS_DOCUMENT)


def _problems(faults: Iterable[Fault], place: Callable[[Path], str]) -> Iterator[Problem]:
    """Yield each fault once: a range of nodes has those of its entry many times."""
    seen: set[Fault] = set()
    for fault in faults:
        if fault not in seen:
            seen.add(fault)
            yield Problem(place(fault.path), fault.message)


def _place(path: Path) -> str:
    return path_text(path) or SOURCE


def _faults_in(error: ValidationError) -> Iterator[Fault]:
    return map(_fault, error.errors(include_url=False))


def _fault(error: ErrorDetails) -> Fault:
    """Return what the model says is wrong, in our words."""
    parts = (part for part in error["loc"] if not str(part).startswith(UNWRITTEN))
    path = tuple(part for part in parts if part != KEY)
    if error["type"] == "extra_forbidden":
        return Fault(path, f"unknown key{did_you_mean(str(path[-1]), _keys_beside(path))}")
    return Fault(path, fault_text(error) + _shown(error, path))


def _shown(error: ErrorDetails, path: Path) -> str:
    """Return `, got …` for a number that may be shown, where the message does not say it."""
    value = error["input"]
    is_said = error["type"] == "value_error" or UNSHOWN.intersection(path)
    return "" if is_said or not isinstance(value, int | float) else f", got {value}"


def _keys_beside(path: Path) -> list[str]:
    """Return the keys that could stand where an unknown one does."""
    section: type[Section] = Fleet
    for part in path[:-1]:
        field = _field_by_key(section).get(str(part))
        section = (field and _section_in(field.annotation)) or section
    return keys_of(section)


def keys_of(section: type[Section]) -> list[str]:
    """Return the keys that a section may have in a document."""
    return list(_field_by_key(section))


def _field_by_key(section: type[Section]) -> dict[str, FieldInfo]:
    """Return the fields of a section as documents have them: a pool's with its workload's."""
    fields = {str(field.alias): field for field in section.model_fields.values()}
    return fields | _field_by_key(Workload) if fields.pop("workload", None) else fields


def _section_in(annotation: Any) -> type[Section] | None:
    """Return the section in an annotation such as `tuple[Pool, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_in(inner))), None)


def _as_written(fault: Fault, entry_of_node: Sequence[int]) -> Fault:
    """Return a fault at its place in the person's document, which has fewer nodes."""
    match fault.path:
        case ("nodes", int(index), *rest) if index < len(entry_of_node):
            return fault._replace(path=("nodes", entry_of_node[index], *rest))
    return fault
