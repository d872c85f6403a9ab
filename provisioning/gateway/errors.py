"""What can go wrong with the gateway, by what the caller can do about it."""

from __future__ import annotations

from collections.abc import Iterable

from ollama_fleet.problems import Problem, ProblemsError


class GatewayError(Exception):
    """Any failure of this package that its user can mend."""


class SettingsError(GatewayError, ProblemsError):
    """The settings cannot be used; `problems` holds everything that is wrong with them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__("the settings of the gateway", problems)


class CheckError(GatewayError):
    """nginx refuses the configuration, or no source gives a list of instances."""


class KeysError(GatewayError):
    """The keys file cannot be used, or has no such key."""
