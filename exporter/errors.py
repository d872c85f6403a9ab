"""What can go wrong, grouped by what the caller can do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model import Outcome


class ExporterError(Exception):
    """Root of every error that the exporter raises on purpose."""


MAX_MESSAGE_CHARACTERS = 1_000
"""Of one problem: a message may quote what a stranger wrote."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a configuration or an inventory."""

    place: str
    """File and line, index of the entry, or name of the setting."""
    message: str
    """What is wrong with it, and what would be right."""

    def __post_init__(self) -> None:
        if len(self.message) > MAX_MESSAGE_CHARACTERS:
            object.__setattr__(self, "message", f"{self.message[:MAX_MESSAGE_CHARACTERS]}…")

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class InputError(ExporterError):
    """A configuration or inventory that a person has to mend; carries every problem at once."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(source, self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} in {self.source}"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])


class SourceError(ExporterError):
    """An inventory source could not be read now; reading it again later may work."""


class PollError(ExporterError):
    """An instance did not give a usable answer; `outcome` says how."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        self.outcome = outcome
        self.detail = detail
        super().__init__(outcome, detail)

    def __str__(self) -> str:
        return self.detail
