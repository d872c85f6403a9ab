"""What can go wrong in the provisioner, grouped by what the caller can do about it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ollama_fleet.problems import MAX_PROBLEMS, clipped, problems_text


class ProvisionerError(Exception):
    """Root of every error that the provisioner raises on purpose."""


class SpecError(ProvisionerError):
    """A specification has problems: carries the first of them, each with its place."""

    def __init__(self, source: str, problems: Iterable[object]) -> None:
        remaining = iter(problems)
        shown = tuple(clipped(str(problem)) for problem in islice(remaining, MAX_PROBLEMS))
        has_more = next(remaining, None) is not None
        self.source = source
        self.problems = (*shown, "and more") if has_more else shown
        super().__init__(problems_text(source, shown, has_more=has_more))


class StoreError(ProvisionerError):
    """The store could not do what was asked."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached or has no quorum; what was asked may have happened or not."""


class TooLargeError(StoreError):
    """It is more than the store takes at once; it was not written."""


class FencedError(StoreError):
    """The writer does not lead any more; nothing was written, and it must stop changing things."""


class CompactedError(StoreError):
    """The changes since that revision are gone from the store; load everything again."""


class NotAskedError(ProvisionerError):
    """A question was not sent, for lack of descriptors or memory here: it says nothing."""


class ContainerError(ProvisionerError):
    """A node's runtime could not do what was asked."""


class TransientError(ContainerError):
    """It may go well at the next try."""


class PermanentError(ContainerError):
    """It will not heal by trying again: the image is missing, or the specification is bad."""


class ResourceExhaustedError(ContainerError):
    """The node lacks memory, ports or the like; another node may have it."""


class NodeUnreachableError(TransientError):
    """Nothing is known about what runs on the node now."""


class ApiError(ProvisionerError):
    """Root of what goes wrong with a request to the API."""


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
            "another provisioner took over meanwhile, so the change may be done in part: check "
            "before you try again"
        )


class NotFoundError(ApiError):
    """There is no such instance or pool."""


class ConflictError(ApiError):
    """It cannot be done as things are."""


class OutdatedError(ApiError):
    """The caller knows an earlier version than the one in force."""


class BadRequestError(ApiError):
    """The request cannot be understood."""


class DeniedError(ApiError):
    """The request lacks a valid token."""


class AuditFileError(ApiError):
    """The audit log cannot be written."""


class ListenError(ApiError):
    """The address cannot be listened on; another one may work."""
