"""Why the provisioner did not do what a command asked for."""

from __future__ import annotations

from collections.abc import Sequence

from provisioning.errors import ProvisionerError


class ClientError(ProvisionerError):
    """Root of what goes wrong with a command."""


class UnreachableError(ClientError):
    """No provisioner answers, or none that could."""


class UntrustedLeaderError(ClientError):
    """The leader is at an address that the token is not for."""


class ChangeInterruptedError(KeyboardInterrupt):
    """Ctrl-C came while a change was on its way, or its answer: it may have been made."""


class RefusedError(ClientError):
    """The provisioner answered that it will not; carries the status and all problems."""

    def __init__(self, message: str, *, status: int, problems: Sequence[str] = ()) -> None:
        self.status = status
        self.problems = tuple(problems)
        super().__init__(message)
