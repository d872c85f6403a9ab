"""The exporter's errors, grouped by what the caller can do about them."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from ollama_fleet.problems import ProblemsError

if TYPE_CHECKING:
    from exporter.model import Outcome


class ExporterError(Exception):
    """Root of every error that the exporter raises on purpose."""


class InputError(ExporterError, ProblemsError):
    """A configuration or inventory that a person has to correct."""


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


def os_reason(error: OSError) -> str:
    """Return the system's words, where asyncio has put its own in their place too."""
    if isinstance(error, ssl.SSLError) or error.errno is None or error.errno < 0:
        return error.strerror or str(error)
    return os.strerror(error.errno)
