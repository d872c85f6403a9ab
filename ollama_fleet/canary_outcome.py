"""How a canary ended, in the words of the exporter's and the provisioner's series."""

from enum import StrEnum


class CanaryOutcome(StrEnum):
    """How one canary ended; the label value `outcome` of the canaries' results."""

    __hash__ = str.__hash__

    OK = "ok"
    STALLED = "stalled"
    ERROR = "error"
    SKIPPED_BUSY = "skipped_busy"
    SKIPPED_NOT_LOADED = "skipped_not_loaded"


SKIPPED = frozenset((CanaryOutcome.SKIPPED_BUSY, CanaryOutcome.SKIPPED_NOT_LOADED))
