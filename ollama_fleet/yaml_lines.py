"""Read a YAML document that a person wrote, within bounds and with the line of each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml

from ollama_fleet.files import UnreadableFileError, read_regular
from ollama_fleet.problems import Problem

MAX_DEPTH = 50

Path = tuple[str | int, ...]
"""Keys and indices on the way to a value."""
Loader: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class InvalidDocumentError(Exception):
    """A text or file is not a document."""

    def __init__(self, place: str, fault: str, detail: str = "") -> None:
        self.place = place
        self.fault = fault
        """What is wrong, without anything that is quoted from the text."""
        self.problem = Problem(place, f"{fault}: {detail}" if detail else fault)
        super().__init__(str(self.problem))


@dataclass(frozen=True, slots=True)
class Document:
    """What a YAML text says."""

    source: str
    content: Any
    """None for an empty document."""
    line_by_path: Mapping[Path, int]

    def place(self, path: Path) -> str:
        """Return `fleet.yml:3: pools[0].count`, by the line of the nearest value around."""
        lines = (self.line_by_path.get(path[:n]) for n in range(len(path), 0, -1))
        line = next(filter(None, lines), None)
        where = f"{self.source}:{line}" if line else self.source
        return f"{where}: {path_text(path)}" if path else where


def read(file: FilePath, *, max_bytes: int) -> Document:
    """Return the document in a file.

    Raises:
        InvalidDocumentError: It cannot be read, is too large or not regular, or as for `parse`.
    """
    try:
        text, _ = read_regular(file, max_bytes)
    except UnreadableFileError as error:
        raise InvalidDocumentError(str(file), str(error)) from error
    return parse(text, str(file))


def parse(text: bytes, source: str) -> Document:
    """Return the document of a UTF-8 text; problems call the text `source`.

    Raises:
        InvalidDocumentError: It is not UTF-8 or not YAML, is nested too deeply, uses aliases, or
            sets a key twice.
    """
    node = compose(text, source)
    lines = dict(_lines((), node, source))
    try:
        content = None if node is None else Loader("").construct_document(node)
    except yaml.YAMLError as error:
        raise invalid_yaml(error, text, source) from error
    except ValueError as error:  # as of the date 2026-02-30
        raise InvalidDocumentError(source, "holds a value that cannot be", str(error)) from error
    return Document(source, content, lines)


def compose(text: bytes, source: str) -> yaml.Node | None:
    """Return the root of a YAML text's nodes, or None where the text is empty.

    Raises:
        InvalidDocumentError: It is not UTF-8 or not YAML, is nested too deeply, or uses aliases.
    """
    try:
        text.decode()
        _check_events(text, source)
        return yaml.compose(text, Loader)
    except UnicodeDecodeError as error:
        raise not_utf8(error, source) from error
    except yaml.YAMLError as error:
        raise invalid_yaml(error, text, source) from error


def _check_events(text: bytes, source: str) -> None:
    """Refuse what takes the composer too long: aliases multiply, and depth is stack."""
    depth = 0
    for event in yaml.parse(text, Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        fault = "uses aliases (*name); write them out" if isinstance(event, yaml.AliasEvent) else ""
        if depth > MAX_DEPTH:
            fault = "is nested too deeply"
        if fault:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise InvalidDocumentError(f"{source}:{line}", fault)


def _lines(path: Path, node: yaml.Node | None, source: str) -> Iterator[tuple[Path, int]]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _lines((*path, index), item, source)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line, inner = key.start_mark.line + 1, (*path, str(key.value))
            if str(key.value) in seen:
                raise InvalidDocumentError(f"{source}:{line}", f"sets {path_text(inner)} again")
            seen.add(str(key.value))
            yield inner, line
            yield from _lines(inner, value, source)


def path_text(path: Path) -> str:
    """Return a path as people write it: `pools[2].health.path`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def not_utf8(error: UnicodeDecodeError, source: str) -> InvalidDocumentError:
    """Return the error of a text that is not UTF-8."""
    line = error.object.count(b"\n", 0, error.start) + 1
    detail = f"{error.reason} at byte {error.start}"
    return InvalidDocumentError(f"{source}:{line}", "is not UTF-8", detail)


def invalid_yaml(error: yaml.YAMLError, text: bytes, source: str) -> InvalidDocumentError:
    """Return the error of a text that is not YAML."""
    line, column = _position(error, text)
    return InvalidDocumentError(
        f"{source}:{line}", f"is not valid YAML at column {column}", _reason(error)
    )


def _position(error: yaml.YAMLError, text: bytes) -> tuple[int, int]:
    """Return line and column, both from 1 on."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position].decode(errors="replace")
        return before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return str(error.reason)
    parts = getattr(error, "context", None), getattr(error, "problem", None)
    return ", ".join(part for part in parts if part)
