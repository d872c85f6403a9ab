"""Why the API cannot do what was asked, grouped by what the caller can do about it."""

from __future__ import annotations

from provisioning.errors import ProvisionerError


class ApiError(ProvisionerError):
    """Root of what goes wrong with a request."""


class NotLeadingError(ApiError):
    """Another provisioner leads, or none: nothing is changed here, and no node is asked."""

    def __init__(self, leader: str | None, *, so: str = "it changes nothing") -> None:
        self.leader = leader
        helps = f"ask the leader, {leader}" if leader else "nobody leads now; try again soon"
        super().__init__(f"this provisioner does not lead, so {so}: {helps}")


class HalfDoneError(ApiError):
    """Another provisioner took over while it was done: some of it may be written, and stays."""

    def __init__(self) -> None:
        super().__init__(
            "another provisioner took over in the midst of it, so it may have been done in part: "
            "look before you try again"
        )


class UnknownError(ApiError):
    """There is no such instance or pool."""


class RefusedError(ApiError):
    """It cannot be done as things are."""


class OutdatedError(ApiError):
    """The caller knows an earlier version than the one in force."""


class BadRequestError(ApiError):
    """The request cannot be understood."""


class DeniedError(ApiError):
    """The request lacks a valid token."""


class TooManyStreamsError(ApiError):
    """No further client can follow the changes now."""


class TokenFileError(ApiError):
    """The token file can be neither read nor made."""


class AuditFileError(ApiError):
    """The audit log cannot be written."""


class ListenError(ApiError):
    """The address cannot be listened on; another one may work."""
