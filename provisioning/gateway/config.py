"""Read the gateway's settings file: all problems at once, each with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ollama_fleet import yaml_lines
from ollama_fleet.model_faults import fault_text
from ollama_fleet.problems import Problem
from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.yaml_lines import Document, InvalidDocumentError
from provisioning.gateway.errors import SettingsError
from provisioning.gateway.settings import Settings

MAX_FILE_BYTES = 1_000_000
KEY = "[key]"
"""What pydantic appends to the place of a fault in a mapping's key."""


def load(path: Path | None) -> Settings:
    """Return the settings of a YAML file, or the defaults.

    Raises:
        SettingsError: All that is wrong, with places.
    """
    if path is None:
        return Settings()
    try:
        document = yaml_lines.read(path, max_bytes=MAX_FILE_BYTES)
    except InvalidDocumentError as error:
        raise SettingsError([error.problem]) from error
    try:
        return Settings.model_validate({} if document.content is None else document.content)
    except ValidationError as error:
        raise SettingsError(_problems(error, document)) from error


def _problems(error: ValidationError, document: Document) -> Iterator[Problem]:
    for fault in error.errors(include_url=False, include_input=False):
        loc = tuple(part for part in fault["loc"] if part != KEY)
        message = fault_text(fault)
        if fault["type"] == "extra_forbidden":
            message = f"unknown key{did_you_mean(str(loc[-1]), _keys_beside(loc))}"
        place = document.place(loc)
        yield from (Problem(place, line) for line in message.splitlines())


def _keys_beside(loc: tuple[int | str, ...]) -> Mapping[str, Any]:
    """Return the keys that could stand where an unknown one does."""
    model: type[BaseModel] = Settings
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        model = (field and _model_of(field.annotation)) or model
    return model.model_fields


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation such as `dict[str, Limit]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_of(inner))), None)
