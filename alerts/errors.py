"""What can go wrong with alerts, by what the caller can do about it."""

from __future__ import annotations

from collections.abc import Iterable

from ollama_fleet.problems import Problem, ProblemsError


class AlertsError(Exception):
    """Any failure of this package that its user can repair."""


class SettingsError(AlertsError, ProblemsError):
    """The settings cannot be used; `problems` holds everything that is wrong with them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__("the settings of the alerts", problems)


class MergeError(AlertsError):
    """A file is no Alertmanager configuration that ours can be merged into."""


class CheckError(AlertsError):
    """A Prometheus cannot be asked, or does not answer as one."""
