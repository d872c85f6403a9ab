"""Say where and why a text that somebody wrote cannot be read.

In:   the error of the reader that gave up, and what messages call the text's source.
Out:  one Problem, on one line, at `fleet.yml:12`. Pure.
Inventories and the exporter's own configuration are told about in the same words.
Problems gathers what is wrong with one inventory, up to a limit.
"""

from __future__ import annotations

import yaml

from exporter.errors import InputError, Problem

MAX_PROBLEMS = 100
"""Of one source. Nobody reads more, and a list of millions of faults would fill the memory."""


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


def encoding_problem(error: UnicodeDecodeError, source: str) -> Problem:
    """Return the problem of a text that is not UTF-8."""
    line = error.object.count(b"\n", 0, error.start) + 1
    return Problem(f"{source}:{line}", f"is not UTF-8: {error.reason} at byte {error.start}")


def yaml_problem(error: yaml.YAMLError, text: bytes | str, source: str) -> Problem:
    """Return the problem of a text that is not YAML, given as the reader was given it."""
    line, column = _position(error, text)
    return Problem(f"{source}:{line}", f"is not valid YAML at column {column}: {_reason(error)}")


def _position(error: yaml.YAMLError, text: bytes | str) -> tuple[int, int]:
    """Return line and column, both from 1 on."""
    if isinstance(error, yaml.reader.ReaderError):
        read = text[: error.position]
        before = read if isinstance(read, str) else read.decode(errors="replace")
        return before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return str(error.reason)
    parts = getattr(error, "context", None), getattr(error, "problem", None)
    return ", ".join(part for part in parts if part)
