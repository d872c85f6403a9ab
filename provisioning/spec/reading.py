"""Read a specification that a person wrote.

In:   YAML, and the folder that names of files in it start from.
Out:  a Fleet, checked and completed.
Fails with SpecError: every problem at once, each with its line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from provisioning.errors import SpecError
from provisioning.model import Fleet
from provisioning.spec.checks import problems_of
from provisioning.spec.completion import Completion
from provisioning.spec.problems import (
    LineByPath,
    Path,
    Problem,
    Unknown,
    did_you_mean,
    placed,
)
from provisioning.spec.schema import FleetForm

MAX_FILE_BYTES = 8_000_000
MAX_DEPTH = 50
UNSHOWN = frozenset({"environment", "body", "command"})
"""Below these a value may be a secret."""


def load_fleet(path: FilePath) -> Fleet:
    """Return the fleet that a file describes.

    Raises:
        SpecError: The file cannot be read, or describes no fleet that can be.
    """
    try:
        if not path.is_file():
            raise ValueError("it is not a regular file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_FILE_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # UnicodeDecodeError among them
        seen = getattr(error, "strerror", None) or error
        raise SpecError(str(path), [f"cannot be read: {seen}"]) from error
    return read_fleet(text, source=str(path), folder=path.parent)


def read_fleet(text: str, *, source: str, folder: FilePath) -> Fleet:
    """Return the fleet that a YAML text describes; messages call the text `source`.

    Raises:
        SpecError: It describes no fleet that can be.
    """
    document, line_by_path = _parse(text, source)
    try:
        given = FleetForm.model_validate(document)
    except ValidationError as error:
        places = [placed(each, line_by_path, source) for each in _form_problems(error)]
        raise SpecError(source, places) from None
    completion = Completion(given, folder)
    fleet = completion.fleet()
    # A fleet that is not whole would be blamed for what only its gaps cause.
    problems: Iterable[Problem | Unknown] = completion.problems or (
        _as_written(problem, completion.entry_of_node) for problem in problems_of(fleet)
    )
    if unique := dict.fromkeys(placed(each, line_by_path, source) for each in problems):
        raise SpecError(source, list(unique))
    return fleet


def _parse(text: str, source: str) -> tuple[object, LineByPath]:
    """Return the document, and the line of each thing in it by its path."""
    try:
        _check_form(text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        line_by_path = dict(_lines((), node))
        document = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise SpecError(source, [_not_yaml(error, source)]) from error
    except ValueError as error:
        raise SpecError(source, [f"{source}: {error}"]) from error
    return {} if document is None else document, line_by_path


def _check_form(text: str) -> None:
    """Refuse what would cost the reader more than any specification does.

    Raises:
        ValueError: The text uses aliases, or is nested too deeply.
    """
    depth = 0
    for event in yaml.parse(text):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("uses aliases (*name), which a specification does not need")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ValueError("is nested too deeply")


def _not_yaml(error: yaml.YAMLError, source: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{source}:{mark.line + 1}" if mark else source
    reasons = (getattr(error, name, None) for name in ("context", "problem", "reason"))
    return f"{where}: is not YAML: {', '.join(filter(None, reasons))}"


def _lines(path: Path, node: yaml.Node | None) -> Iterator[tuple[Path, int]]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _lines((*path, index), item)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if str(key.value) in seen:
                raise ValueError(f"line {line} sets {key.value} again")
            seen.add(str(key.value))
            yield (*path, str(key.value)), line
            yield from _lines((*path, str(key.value)), value)


def _form_problems(error: ValidationError) -> Iterator[Problem]:
    for fault in error.errors(include_url=False, include_context=False):
        path = tuple(part for part in fault["loc"] if not str(part).startswith("@"))
        if fault["type"] == "extra_forbidden":
            yield Problem(path, f"unknown key{did_you_mean(str(path[-1]), _keys_beside(path))}")
        elif fault["type"] == "missing":
            yield Problem(path, "required")
        else:
            yield Problem(path, _words(fault["msg"]) + _shown(fault, path))


def _words(message: str) -> str:
    """Return a message of pydantic as ours read."""
    if message.startswith("Input should be a valid dictionary"):
        return "must be a mapping"
    own = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return own[0].lower() + own[1:]


def _shown(fault: ErrorDetails, path: Path) -> str:
    """Return `, got …` for a number that may be shown, where the message does not say it."""
    value = fault["input"]
    is_said = fault["type"] == "value_error" or UNSHOWN.intersection(path)
    return "" if is_said or not isinstance(value, int | float) else f", got {value}"


def _keys_beside(path: Path) -> list[str]:
    """Return the keys that could stand where an unknown one does."""
    model: type[BaseModel] = FleetForm
    for part in path[:-1]:
        field = model.model_fields.get(str(part))
        inner = None if field is None else _model_of(field.annotation)
        model = inner or model
    return list(model.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """Return the form in an annotation such as `list[PoolForm]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_of(inner))), None)


def _as_written(problem: Problem | Unknown, entry_of_node: list[int]) -> Problem | Unknown:
    """Return a problem of a fleet at its place in the form, which has fewer nodes."""
    match problem.path:
        case ("nodes", int(index), *rest):
            return problem._replace(path=("nodes", entry_of_node[index], *rest))
    return problem
