"""Gather the problems of one inventory, up to a limit."""

from __future__ import annotations

from exporter.errors import InputError
from ollama_fleet.problems import MAX_PROBLEMS, Problem


class Problems:
    """Gathers the problems of one source, and ends the reading when there are too many."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._found: list[Problem] = []

    def add(self, problem: Problem) -> None:
        """Note a problem.

        Raises:
            InputError: It is one too many; the last one says that reading stopped there.
        """
        if len(self._found) < MAX_PROBLEMS - 1:
            self._found.append(problem)
            return
        self._found.append(Problem(problem.place, "reading stops here: too many problems"))
        self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raise an InputError with all problems, if there are any."""
        if self._found:
            raise InputError(self._source, self._found)
