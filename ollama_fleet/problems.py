"""Problems of an input that a person has to correct, each with its place, all in one error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

MAX_PROBLEMS = 100
"""Of one input. Nobody reads more, and an input of millions of problems would fill the memory."""
MAX_CHARACTERS = 1_000
"""Of one message, which may quote the input."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    place: str
    """File and line, name of the setting, or both: `fleet.yml:3: pools[0].count`."""
    message: str
    """What is wrong, and what would be right."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", clipped(self.message))

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ProblemsError(Exception):
    """An input cannot be used; carries its first problems, and whether there are more."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        remaining = iter(problems)
        self.source = source
        self.problems = tuple(islice(remaining, MAX_PROBLEMS))
        self.has_more = next(remaining, None) is not None
        super().__init__(source, self.problems)

    def __str__(self) -> str:
        return problems_text(self.source, self.problems, has_more=self.has_more)


def problems_text(source: str, problems: Iterable[object], *, has_more: bool = False) -> str:
    """Return all problems of a source, one a line, below a line that counts them."""
    lines = [f"  {problem}" for problem in problems]
    count = f"{len(lines)} problem{'' if len(lines) == 1 else 's'}"
    head = f"more than {count} in {source}" if has_more else f"{count} in {source}"
    return "\n".join([head, *lines])


def clipped(text: str) -> str:
    """Return a text, or the beginning of one that is too long for a message."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
