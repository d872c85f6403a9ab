"""What may be wrong with a node of the model world."""

from __future__ import annotations

import random
from enum import StrEnum

from provisioning.lifecycle import Outcome, Result


class Fault(StrEnum):
    """How a node is broken, for some time or for good."""

    LOST = "lost"
    """Neither it nor its instances answer; its containers go on, and are there when it returns."""
    SILENT = "silent"
    """It does not answer; its instances do."""
    BARREN = "barren"
    """Every start fails."""
    STERILE = "sterile"
    """Every start fails, and no further try would heal it."""
    DEAF = "deaf"
    """It tells of its containers and removes them, but answers to no start."""


UNHEARD = frozenset({Fault.LOST, Fault.SILENT})
"""Nothing is learned of such a node."""


def outcome_of_start(fault: Fault | None, dice: random.Random) -> Outcome | None:
    """Return how a start on a node ends; None: as it would on any other."""
    match fault:
        case None:
            return None
        case Fault.BARREN:
            return Outcome(
                dice.choice((Result.FAILED, Result.RESOURCE_EXHAUSTED)), "no start does well here"
            )
        case Fault.STERILE:
            return Outcome(Result.PERMANENT, "no start can do well here")
        case _:
            return Outcome(Result.UNREACHABLE, "cannot connect")


def outcome_of_removal(fault: Fault | None) -> Outcome | None:
    """Return how a removal on a node ends; None: as it would on any other."""
    return Outcome(Result.UNREACHABLE, "cannot connect") if fault in UNHEARD else None
