"""What can go wrong with the planning of capacity."""

from __future__ import annotations

from collections.abc import Iterable

from ollama_fleet.problems import Problem, ProblemsError


class CapacityError(Exception):
    """Any failure of these commands that their user can repair."""


class DataError(CapacityError, ProblemsError):
    """A data file cannot be used; `problems` holds everything that is wrong with it."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        super().__init__(source, problems)


class UnknownError(CapacityError):
    """The data lack what the plan needs; the text says which options state it by hand."""


class ImpossibleError(CapacityError):
    """No number of nodes is enough."""


class PrometheusLacksError(CapacityError):
    """A Prometheus does not have what the question takes."""


class CannotAskError(CapacityError):
    """A Prometheus gives no answer."""
