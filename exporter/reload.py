"""Decide what a reload changes, and what it cannot change."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from exporter.settings import SETTINGS
from ollama_fleet.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.config import Config
    from exporter.settings import Setting

T = TypeVar("T")


def changed(before: Config, after: Config) -> list[Setting]:
    """Return the settings whose values differ."""
    return [
        setting
        for setting in SETTINGS
        if getattr(before, setting.attribute) != getattr(after, setting.attribute)
    ]


def restarts(settings: Sequence[Setting]) -> list[Problem]:
    """Return a problem for each changed setting that a running exporter cannot take over."""
    message = "needs a restart; nothing is changed"
    return [Problem(setting.name, message) for setting in settings if setting.needs_restart]


def assign(target: T, source: T, *, keep: Sequence[str] = ()) -> None:
    """Give a dataclass that others hold the values of another one, except for some fields."""
    for field in fields(source):  # type: ignore[arg-type]
        if field.name not in keep:
            setattr(target, field.name, getattr(source, field.name))
