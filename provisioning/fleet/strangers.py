"""Whether the units that no record tells of are swept, or the store is doubted.

In:   a Fleet and an Observed.
Out:  how many such units are kept; a warning in the log. Never fails.

A few units without a record are leftovers. Many are the sign of a store that is empty, was restored
from an old backup, or is another fleet's: to sweep them would end what people use, and nothing
would bring it back. They are kept, and hold their room, until there are records for the rest, or a
person says that they may go: with limits.unavailable 1 all of them are swept.
"""

from __future__ import annotations

import logging
import math

from provisioning.fleet.actions import Observed
from provisioning.fleet.clock import Clock
from provisioning.fleet.fleet import Fleet
from provisioning.fleet.model import UnitState

log = logging.getLogger("provisioning.fleet.strangers")

FEW = 10
"""So many are always swept."""
WARNING_EVERY_S = 60.0


class StrangerWarning:
    """Says that units are kept without a record, again and again while they are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_s = 0.0

    def give(self, n_kept: int) -> None:
        """Log it, if it is time and there are any."""
        now_s = self._clock.monotonic_s()
        if n_kept and now_s >= self._next_s:
            self._next_s = now_s + WARNING_EVERY_S
            log.error(
                "%d units run that the store has no record of: they are kept, for it may be the "
                "wrong store, or an old backup; if they are to go, set limits.unavailable to 1 "
                "until they are gone",
                n_kept,
            )


def n_kept_strangers(desired: Fleet, observed: Observed) -> int:
    """Return how many running units without a record are kept; 0: all are swept."""
    running = [
        unit.instance_id
        for report in observed.reports.values()
        for unit in report.units
        if unit.state is UnitState.RUNNING
    ]
    n_strangers = sum(id_ not in observed.stored for id_ in running)
    n_allowed = max(FEW, math.floor(desired.limits.unavailable_ratio * len(running) + 1e-9))
    return n_strangers if n_strangers > n_allowed else 0
