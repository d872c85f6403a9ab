"""Put the settings together: `--set` before the file before the profile before the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from alerts import rulebook
from alerts.errors import SettingsError
from alerts.rulebook import UnfitSettingsError
from alerts.settings import Settings
from ollama_fleet import yaml_lines
from ollama_fleet.model_faults import fault_text
from ollama_fleet.problems import Problem
from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.yaml_lines import InvalidDocumentError, path_text

OPTION = "--set"
KEY = "[key]"
"""What pydantic appends to the place of a fault in a mapping's key."""
MAX_FILE_BYTES = 1_000_000
PROFILE_FOLDER = Path(__file__).parent / "profiles"
PROFILES = tuple(sorted(path.stem for path in PROFILE_FOLDER.glob("*.yml")))
"""The kinds of fleets that there are settings for."""


def load(
    path: Path | None = None, changes: Sequence[str] = (), *, profile: str | None = None
) -> Settings:
    """Return the settings of a profile and a file, some of them changed.

    Args:
        path: YAML file; None for the defaults.
        changes: Texts `dotted.key=value`; the value is YAML.
        profile: One of PROFILES; what the file sets comes before it.

    Raises:
        SettingsError: All that is wrong, with places.
    """
    document, place_by_key = ({}, {}) if path is None else _read(path)
    base, base_place_by_key = _read(PROFILE_FOLDER / f"{profile}.yml") if profile else ({}, {})
    given, place_by_key = _merged(base, document), base_place_by_key | place_by_key
    for change in changes:
        key = _apply(given, change)
        place_by_key[key] = f"{OPTION} {key}"
    return _validated(given, place_by_key)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as one; where both have a value, that of the second."""
    merged = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            merged[key] = _merged(base[key], over[key])
    return merged


def _validated(given: Mapping[str, Any], place_by_key: Mapping[str, str]) -> Settings:
    try:
        settings = Settings.model_validate(given)
        rulebook.groups(settings)
    except ValidationError as error:
        raise SettingsError(_problems(error, place_by_key)) from error
    except UnfitSettingsError as error:
        raise SettingsError(
            Problem(_place(key, place_by_key), fault) for key, fault in error.faults.items()
        ) from error
    return settings


def _problems(error: ValidationError, place_by_key: Mapping[str, str]) -> Iterator[Problem]:
    for fault in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in fault["loc"] if part != KEY)
        message = fault_text(fault)
        if fault["type"] == "extra_forbidden":
            *_, word = map(str, fault["loc"])
            message = f"unknown key{did_you_mean(word, _keys_beside(fault['loc']))}"
        place = _place(key, place_by_key)
        yield from (Problem(place, line) for line in message.splitlines())


def _place(key: str, place_by_key: Mapping[str, str]) -> str:
    """Return where a key was set: its own place, or of the nearest key above it, or below."""
    parts = key.split(".")
    for n in range(len(parts), 0, -1):
        if place := place_by_key.get(".".join(parts[:n])):
            return place if n == len(parts) else f"{place} ({key})"
    below = (place for name, place in place_by_key.items() if name.startswith(f"{key}."))
    return next(below, key or "settings")


def _keys_beside(loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys that could stand where an unknown one does."""
    model: type[BaseModel] = Settings
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        inner = None if field is None else _model_of(field.annotation)
        model = inner or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation such as `dict[str, Override]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_of(inner))), None)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a file's document, and the place of each dotted key."""
    try:
        document = yaml_lines.read(path, max_bytes=MAX_FILE_BYTES)
    except InvalidDocumentError as error:
        raise SettingsError([error.problem]) from error
    content = {} if document.content is None else document.content
    if not isinstance(content, dict):
        raise SettingsError([Problem(str(path), "must be a mapping of settings")])
    return content, {path_text(key): document.place(key) for key in document.line_by_path}


def _apply(given: dict[str, Any], change: str) -> str:
    """Set one key of nested mappings; return the key."""
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise SettingsError(
            [Problem(f"{OPTION} {change}", "is not KEY=VALUE, such as fleet.size=10000")]
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        message = f"the value is not YAML: {' '.join(str(error).split())}"
        raise SettingsError([Problem(f"{OPTION} {key}", message)]) from error
    *sections, last = key.strip().split(".")
    target = given
    for section in sections:
        inner = target.get(section)
        target[section] = dict(inner) if isinstance(inner, dict) else {}
        target = target[section]
    target[last] = value
    return key.strip()
