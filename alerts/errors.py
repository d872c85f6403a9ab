"""What can go wrong with alerts, by what the caller can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class AlertsError(Exception):
    """Any failure of this package that its user can mend."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    place: str
    """`alerts.yml:3: thresholds.healthy_instances`, or the option."""
    message: str


class SettingsError(AlertsError):
    """The settings cannot be used; `problems` holds everything that is wrong with them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        width = max(len(problem.place) for problem in problems)
        lines = [
            f"  {problem.place:<{width}}  {line}"
            for problem in problems
            for line in problem.message.splitlines()
        ]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{count} in the settings of the alerts", *lines]))


class GeneratedError(AlertsError):
    """Files cannot be written, or are not as they should be."""


class CheckError(AlertsError):
    """A Prometheus cannot be asked, or does not answer as one."""
